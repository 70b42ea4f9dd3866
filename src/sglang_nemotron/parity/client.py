"""Asks a server over SGLang's own /generate: prompt ids go out, tokens and logprobs come back as an `Answer`."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
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
        start = -1 if prompt_logprobs_from is None else prompt_logprobs_from
        reply = self.post(
            "/generate",
            {
                "input_ids": list(prompt),
                "sampling_params": {"temperature": 0, "max_new_tokens": self.new_tokens, "ignore_eos": self.ignore_eos},
                "return_logprob": True,
                "logprob_start_len": start,
            },
        )
        meta = reply["meta_info"]
        outputs = meta["output_token_logprobs"]
        # the first position of all has nothing before it and no logprob; without a start there is one entry at most
        given = [] if prompt_logprobs_from is None else meta["input_token_logprobs"]
        kept = [(logprob, token) for logprob, token, *_ in given if logprob is not None]
        _check_ids(prompt, [token for _, token in kept])
        return Answer(
            prompt=tuple(prompt),
            tokens=tuple(token for _, token, *_ in outputs),
            output_logprobs=tuple(logprob for logprob, *_ in outputs),
            prompt_logprobs=tuple(logprob for logprob, _ in kept),
            cached=meta["cached_tokens"],
        )

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
