"""Asks any OpenAI-compatible server: chats go out, a `Reply` with tokens, logprobs and reused tokens comes back.

What SGLang and vLLM offer beside the OpenAI API (/flush_cache, /generate, /tokenize, salts) is used where it is there.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from sglang_nemotron.verify.server import OpenAIServer, Unfit

# beside the chosen token: enough for a margin, and for more than one number a position
_TOP = 5
# names of a token: its id where the server tells it, else its text
Token = int | str


@dataclass(frozen=True)
class Chat:
    """What one request says: OpenAI messages, and tools in OpenAI's form; or bare token ids, for SGLang's /generate.

    salt: it shares no cache with other salts. new_tokens: of its answer, where that is not the endpoint's number.
    """

    messages: tuple[Mapping[str, Any], ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    salt: str | None = None
    ids: tuple[int, ...] = ()
    new_tokens: int | None = None


@dataclass(frozen=True)
class Reply:
    """What a server said to one chat.

    tokens: greedy, in order. best: per token the logprobs of the likeliest tokens there, the chosen one among them.
    prompt_tokens: length of the prompt. cached: how many of them came from the prefix cache; None if it does not say.
    """

    tokens: tuple[Token, ...]
    best: tuple[Mapping[Token, float], ...]
    prompt_tokens: int
    cached: int | None

    def margin(self, position: int) -> float:
        """How far the two likeliest tokens of a position lie apart, in log-probability."""
        first, second = sorted(self.best[position].values(), reverse=True)[:2]
        return first - second


class Endpoint(OpenAIServer):
    """One server. `keep_cache`: never flush it, since others use it too; a salt per comparison is used instead."""

    def __init__(
        self, url: str, *, model: str | None, key: str | None, new_tokens: int, keep_cache: bool, timeout_s: float
    ) -> None:
        super().__init__(url, key=key, timeout_s=timeout_s)
        self.new_tokens = new_tokens
        self._salt: str | None = None
        served = self.first_model()
        self.model = model or served["id"]
        self.context: int = served.get("max_model_len") or 0
        self.info: dict[str, Any] = self.optional("/server_info") or {}
        if tokens := self.info.get("max_total_num_tokens"):
            self.context = min(self.context or tokens, tokens)
        # None where the server does not say
        self.takes_images: bool | None = (self.optional("/model_info") or {}).get("has_image_understanding")
        self.flushes = not keep_cache and self._flushed()
        self.tells_ids = self.tokens(Chat(({"role": "user", "content": "x"},))) is not None

    def fresh(self) -> None:
        """From here on nothing that was sent before is found in the cache."""
        if not self.flushes:
            self._salt = uuid.uuid4().hex
        elif not self._flushed():
            raise Unfit(
                f"{self.url}/flush_cache worked, and now does not: the server is busy with others' requests"
                "\n  remedy: ask when it is idle, or add --keep-cache, which leaves the cache alone"
            )

    def ask(self, chat: Chat) -> Reply:
        """Greedy tokens of one chat, past the end token where the server can."""
        if chat.ids:
            return self._generated(chat)
        body = self._body(chat) | {
            "max_tokens": chat.new_tokens or self.new_tokens,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": _TOP,
            "ignore_eos": True,
            # SGLang's own words about the request, with ids and reused tokens
            "return_meta_info": True,
        }
        said = self.post("/v1/chat/completions", body)
        try:
            return self._reply(said)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise self.foreign("/v1/chat/completions") from error

    def ask_together(self, chats: Sequence[Chat]) -> list[Reply]:
        """All at once, replies in their order."""
        with ThreadPoolExecutor(len(chats)) as pool:
            return list(pool.map(self.ask, chats))

    def tokens(self, chat: Chat) -> list[int] | None:
        """The ids of a chat's prompt; None where the server does not tell them. Media are not in them."""
        if chat.ids:
            return list(chat.ids)
        said = self.optional("/tokenize", self._body(chat))
        ids = said.get("tokens") if isinstance(said, dict) else None
        return ids if isinstance(ids, list) and ids else None

    def prompt_length(self, chat: Chat) -> int:
        """Tokens of a chat's prompt; it is computed for that where the server cannot only count."""
        ids = self.tokens(chat) if self.tells_ids else None
        return self.computed_length(chat) if ids is None else len(ids)

    def computed_length(self, chat: Chat) -> int:
        """Tokens of a chat's prompt as the model gets it, media included."""
        said = self.post("/v1/chat/completions", self._body(chat) | {"max_tokens": 1, "temperature": 0})
        count = (said.get("usage") or {}).get("prompt_tokens") if isinstance(said, dict) else None
        if count is None:
            raise self.foreign("/v1/chat/completions")
        return count

    def leave(self, ids: Sequence[int]) -> None:
        """Sends exactly these tokens, for what they leave in the cache."""
        if self.answer(ids, 1) is None:
            body = {"model": self.model, "prompt": list(ids), "max_tokens": 1, "temperature": 0}
            self.post("/v1/completions", body | self._salted())

    def answer(self, ids: Sequence[int], count: int) -> tuple[int, ...] | None:
        """So many greedy tokens after these, as ids; None where there is no /generate to tell them."""
        said = self.optional("/generate", self._generate_body(Chat(ids=tuple(ids), new_tokens=count)))
        found = said.get("output_ids") if isinstance(said, dict) else None
        return tuple(found) if found else None

    def _generate_body(self, chat: Chat) -> dict[str, Any]:
        count = chat.new_tokens or self.new_tokens
        sampling = {"temperature": 0, "max_new_tokens": count, "ignore_eos": True}
        return {"input_ids": list(chat.ids), "sampling_params": sampling, **self._salted(chat.salt)}

    def _generated(self, chat: Chat) -> Reply:
        asked = {"return_logprob": True, "top_logprobs_num": _TOP}
        said = self.post("/generate", self._generate_body(chat) | asked)
        try:
            meta = said["meta_info"]
            return Reply(*_by_id(meta), meta["prompt_tokens"], meta["cached_tokens"])
        except (KeyError, TypeError, ValueError) as error:
            raise self.foreign("/generate") from error

    def _body(self, chat: Chat) -> dict[str, Any]:
        tools = {"tools": list(chat.tools)} if chat.tools else {}
        return {"model": self.model, "messages": list(chat.messages), **tools, **self._salted(chat.salt)}

    def _salted(self, own: str | None = None) -> dict[str, str]:
        salt = own or self._salt
        return {} if salt is None else {"cache_salt": salt}

    def _reply(self, said: Mapping[str, Any]) -> Reply:
        choice, usage = said["choices"][0], said["usage"]
        meta = choice.get("meta_info") or {}
        details = usage.get("prompt_tokens_details") or {}
        tokens, best = _by_id(meta) if meta.get("output_top_logprobs") else _by_text(choice.get("logprobs") or {})
        if not tokens or any(len(position) < 2 for position in best):
            raise Unfit(
                f"{self.url} gives no logprobs, or not those of the likeliest tokens (top_logprobs {_TOP})"
                "\n  remedy: allow them where the server is started (vLLM: --max-logprobs), or ask it without a proxy"
            )
        return Reply(tokens, best, usage["prompt_tokens"], meta.get("cached_tokens", details.get("cached_tokens")))

    def _flushed(self) -> bool:
        try:
            self.request("/flush_cache?timeout=30", b"")
        except Unfit:
            return False
        return True


def _by_id(meta: Mapping[str, Any]) -> tuple[tuple[Token, ...], tuple[Mapping[Token, float], ...]]:
    chosen = [(token, logprob) for logprob, token, *_ in meta["output_token_logprobs"]]
    tops = [{token: logprob for logprob, token, *_ in position} for position in meta["output_top_logprobs"]]
    return _joined(chosen, tops)


def _by_text(logprobs: Mapping[str, Any]) -> tuple[tuple[Token, ...], tuple[Mapping[Token, float], ...]]:
    content = logprobs.get("content") or []
    chosen = [(position["token"], position["logprob"]) for position in content]
    tops: list[dict[Token, float]] = []
    for position in content:
        # several tokens may read the same; the likeliest has the name
        found: dict[Token, float] = {}
        for top in position.get("top_logprobs") or []:
            found.setdefault(top["token"], top["logprob"])
        tops.append(found)
    return _joined(chosen, tops)


def _joined(
    chosen: Sequence[tuple[Token, float]], tops: Sequence[Mapping[Token, float]]
) -> tuple[tuple[Token, ...], tuple[Mapping[Token, float], ...]]:
    both = itertools.starmap(lambda one, top: {**top, one[0]: one[1]}, zip(chosen, tops, strict=True))
    return tuple(token for token, _ in chosen), tuple(both)
