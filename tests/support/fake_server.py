"""A server that answers like SGLang's /generate, from transformers itself; a fault can be planted in its numbers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch

from sglang_nemotron.parity.reference import Reference
from support.loopback import QuietHandler, listening

# (kind, position, logprob) -> the logprob to give; kind is "prompt" or "output"
Fault = Callable[[str, int, float], float]


def sound(kind: str, position: int, logprob: float) -> float:
    return logprob


@torch.no_grad()
def answer(reference: Reference, body: dict[str, Any], fault: Fault, second_best_at: int | None) -> dict[str, Any]:
    """Greedy decoding by the reference, one forward per token; SGLang's reply to the same request."""
    ids, outputs = list(body["input_ids"]), []
    for position in range(body["sampling_params"]["max_new_tokens"]):
        logprobs_V = reference.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        token = int(logprobs_V.topk(2).indices[1 if position == second_best_at else 0])
        outputs.append([fault("output", position, float(logprobs_V[token])), token, None])
        ids.append(token)
    start = body["logprob_start_len"]
    meta: dict[str, Any] = {"output_token_logprobs": outputs, "cached_tokens": 0}
    prompt = body["input_ids"]
    first = len(prompt) - 1 if start < 0 else start
    inputs: list[list[Any]] = [[None, prompt[first], None]]
    if len(prompt) > 1:
        logprobs = reference.scores(prompt).logprobs.tolist()
        inputs += [[fault("prompt", i, logprobs[i - 1]), prompt[i], None] for i in range(first + 1, len(prompt))]
    meta["input_token_logprobs"] = inputs
    return {"meta_info": meta}


@contextmanager
def fake_server(
    reference: Reference,
    *,
    fault: Fault = sound,
    second_best_at: int | None = None,
    dtype: str = "float32",
    status: int = 200,
    model: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[str]:
    """The URL of a running fake.

    model: what it says of its model. second_best_at: an output position at which it takes the second best token.
    """
    lock = threading.Lock()

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            about = model if self.path == "/model_info" else {}
            self.send_json({"dtype": dtype, "chunked_prefill_size": 8, "page_size": 1, **about}, status)

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path.startswith("/flush_cache"):
                return self.send_json({}, status)
            with lock:
                self.send_json(answer(reference, json.loads(raw), fault, second_best_at), status)

    with listening(Handler) as url:
        yield url
