"""Asks a server over SGLang's own /generate: prompts go out, tokens and logprobs come back.

A prompt of ids gets an `Answer`, a rendered text and its media a `MediaAnswer`: only the server knows its ids.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What a server said to one prompt.

    prompt, tokens: token ids. output_logprobs: one per token of `tokens`.
    prompt_logprobs: of the last `len(prompt_logprobs)` tokens of the prompt, each given all before it.
    cached: prompt tokens that came from the prefix cache.
    """

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    output_logprobs: tuple[float, ...]
    prompt_logprobs: tuple[float, ...]
    cached: int


@dataclass(frozen=True)
class MediaAnswer:
    """What a server said to a text with media.

    num_prompt: tokens of the prompt as the server counts them, embeddings included. ending, ending_logprobs: the ids
    at the prompt's end as far as they were asked for, and their logprobs; the rest is as of `Answer`.
    """

    num_prompt: int
    ending: tuple[int, ...]
    ending_logprobs: tuple[float, ...]
    tokens: tuple[int, ...]
    output_logprobs: tuple[float, ...]
    cached: int


class ServerError(RuntimeError):
    """The server refused a request or does not answer; the message is for the user."""


class Client:
    """One server. `url` has no path; `new_tokens` are generated greedily per prompt, past end tokens by default."""

    def __init__(self, url: str, *, new_tokens: int = 32, ignore_eos: bool = True, timeout_s: float = 600.0) -> None:
        self.url = url.rstrip("/")
        self.new_tokens = new_tokens
        self.ignore_eos = ignore_eos
        self._timeout_s = timeout_s

    def ask(self, prompt: Sequence[int], prompt_logprobs_from: int | None = 0) -> Answer:
        """Greedy tokens and logprobs.

        A prompt position whose logprob is asked for is computed, never taken from the prefix cache: give the length of
        the prefix that may be reused, or None to ask for no prompt logprobs.
        """
        meta, kept = self._generated({"input_ids": list(prompt)}, prompt_logprobs_from)
        outputs = meta["output_token_logprobs"]
        _check_ids(prompt, [token for _, token in kept])
        return Answer(
            prompt=tuple(prompt),
            tokens=tuple(token for _, token, *_ in outputs),
            output_logprobs=tuple(logprob for logprob, *_ in outputs),
            prompt_logprobs=tuple(logprob for logprob, _ in kept),
            cached=meta["cached_tokens"],
        )

    def ask_about(
        self,
        text: str,
        media: Mapping[str, Sequence[str]],
        options: Mapping[str, Any],
        prompt_logprobs_from: int | None,
    ) -> MediaAnswer:
        """Greedy tokens and logprobs for a rendered prompt with a slot for every item.

        media: base64 by field of the body (`image_data`, ...). options: the section `mm_processor_kwargs`.
        prompt_logprobs_from: as of `ask`; positions that embeddings take have no logprob to speak of.
        """
        body = {"text": text, **{field: list(items) for field, items in media.items()}}
        meta, kept = self._generated(body | {"mm_processor_kwargs": dict(options)}, prompt_logprobs_from)
        outputs = meta["output_token_logprobs"]
        return MediaAnswer(
            num_prompt=meta["prompt_tokens"],
            ending=tuple(token for _, token in kept),
            ending_logprobs=tuple(logprob for logprob, _ in kept),
            tokens=tuple(token for _, token, *_ in outputs),
            output_logprobs=tuple(logprob for logprob, *_ in outputs),
            cached=meta["cached_tokens"],
        )

    def _generated(
        self, prompt: Mapping[str, Any], prompt_logprobs_from: int | None
    ) -> tuple[dict[str, Any], list[tuple[float, int]]]:
        """(what SGLang says of its answer, (logprob, id) of each position of the prompt that was asked for)."""
        reply = self.post(
            "/generate",
            {
                **prompt,
                "sampling_params": {"temperature": 0, "max_new_tokens": self.new_tokens, "ignore_eos": self.ignore_eos},
                "return_logprob": True,
                "logprob_start_len": -1 if prompt_logprobs_from is None else prompt_logprobs_from,
            },
        )
        meta = reply["meta_info"]
        # the first position of all has nothing before it and no logprob; without a start there is one entry at most
        given = [] if prompt_logprobs_from is None else meta["input_token_logprobs"]
        return meta, [(logprob, token) for logprob, token, *_ in given if logprob is not None]

    def ask_together(self, prompts: Sequence[Sequence[int]], prompt_logprobs_from: int | None = 0) -> list[Answer]:
        """All prompts at once, answers in their order."""
        with ThreadPoolExecutor(len(prompts)) as pool:
            return list(pool.map(lambda prompt: self.ask(prompt, prompt_logprobs_from), prompts))

    def flush(self) -> None:
        """Empties the prefix cache, once the server is idle."""
        self.request("/flush_cache?timeout=30", b"")

    def info(self) -> dict[str, Any]:
        """The server's resolved arguments."""
        return json.loads(self.request("/server_info"))

    def context(self) -> int:
        """Tokens that the server serves in one request, prompt and answer together."""
        return int(json.loads(self.request("/v1/models"))["data"][0]["max_model_len"])

    def model(self) -> dict[str, Any]:
        """What the server says of its model: path, type and architectures."""
        return json.loads(self.request("/model_info"))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """JSON in, JSON out."""
        return json.loads(self.request(path, json.dumps(body).encode()))

    def request(self, path: str, body: bytes | None = None) -> bytes:
        """GET, or POST if there is a body. Raises ServerError."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            asked = urllib.request.Request(self.url + path, body, headers)
            with urllib.request.urlopen(asked, timeout=self._timeout_s) as reply:
                return reply.read()
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")[:500]
            raise ServerError(f"{self.url}{path} answered {error.code}: {text}") from error
        except (urllib.error.URLError, OSError) as error:
            raise ServerError(f"{self.url}{path} does not answer: {error}") from error


def _check_ids(prompt: Sequence[int], ids: Sequence[int]) -> None:
    expected = prompt[len(prompt) - len(ids) :]
    # 0.5.23 names the vocabulary's last token 0 in this list (logprob_result_processor.py); its logprob is right
    wrong = [(given, own) for given, own in zip(ids, expected, strict=True) if given not in (own, 0)]
    if wrong:
        raise ServerError(f"the server gave logprobs of other tokens than the prompt's: (given, sent) {wrong[:8]}")
