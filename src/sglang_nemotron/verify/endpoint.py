"""Asks any OpenAI-compatible server: chats go out, a `Reply` with tokens, logprobs and reused tokens comes back.

What SGLang and vLLM offer beside the OpenAI API (/flush_cache, /generate, /tokenize, salts) is used where it is there.
"""

from __future__ import annotations

import itertools
import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

# beside the chosen token: enough for a margin, and for more than one number a position
_TOP = 5
# names of a token: its id where the server tells it, else its text
Token = int | str


class Unfit(RuntimeError):
    """The server cannot be asked or does not tell what is needed; the message is for the user, remedy included."""


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


class Endpoint:
    """One server. `keep_cache`: never flush it, since others use it too; a salt per comparison is used instead."""

    def __init__(
        self, url: str, *, model: str | None, key: str | None, new_tokens: int, keep_cache: bool, timeout_s: float
    ) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self.new_tokens = new_tokens
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._timeout_s = timeout_s
        self._salt: str | None = None
        served = self._models()
        self.model = model or served["id"]
        self.context: int = served.get("max_model_len") or 0
        self.info: dict[str, Any] = self._optional("/server_info") or {}
        if tokens := self.info.get("max_total_num_tokens"):
            self.context = min(self.context or tokens, tokens)
        # None where the server does not say
        self.takes_images: bool | None = (self._optional("/model_info") or {}).get("has_image_understanding")
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
            raise self._foreign("/v1/chat/completions") from error

    def ask_together(self, chats: Sequence[Chat]) -> list[Reply]:
        """All at once, replies in their order."""
        with ThreadPoolExecutor(len(chats)) as pool:
            return list(pool.map(self.ask, chats))

    def tokens(self, chat: Chat) -> list[int] | None:
        """The ids of a chat's prompt; None where the server does not tell them. Media are not in them."""
        if chat.ids:
            return list(chat.ids)
        said = self._optional("/tokenize", self._body(chat))
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
            raise self._foreign("/v1/chat/completions")
        return count

    def leave(self, ids: Sequence[int]) -> None:
        """Sends exactly these tokens, for what they leave in the cache."""
        if self.answer(ids, 1) is None:
            body = {"model": self.model, "prompt": list(ids), "max_tokens": 1, "temperature": 0}
            self.post("/v1/completions", body | self._salted())

    def answer(self, ids: Sequence[int], count: int) -> tuple[int, ...] | None:
        """So many greedy tokens after these, as ids; None where there is no /generate to tell them."""
        said = self._optional("/generate", self._generate_body(Chat(ids=tuple(ids), new_tokens=count)))
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
            raise self._foreign("/generate") from error

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """JSON in, JSON out. Raises Unfit."""
        return self._parsed(path, self._request(path, json.dumps(body).encode()))

    def _parsed(self, path: str, text: bytes) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise self._foreign(path) from error

    def _foreign(self, path: str) -> Unfit:
        return Unfit(
            f"{self.url}{path} answers in a form that is not OpenAI's"
            "\n  remedy: give the root of an OpenAI-compatible server, http://HOST:PORT"
        )

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

    def _models(self) -> dict[str, Any]:
        said = self._parsed("/v1/models", self._request("/v1/models"))
        models = said.get("data") if isinstance(said, dict) else None
        if not models or "id" not in models[0]:
            raise self._foreign("/v1/models")
        return models[0]

    def _flushed(self) -> bool:
        try:
            self._request("/flush_cache?timeout=30", b"")
        except Unfit:
            return False
        return True

    def _optional(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """JSON of what a server need not have; None if it refuses."""
        try:
            return json.loads(self._request(path, None if body is None else json.dumps(body).encode()))
        except (Unfit, ValueError):
            return None

    def _request(self, path: str, body: bytes | None = None) -> bytes:
        """GET, or POST if there is a body."""
        try:
            asked = urllib.request.Request(self.url + path, body, self._headers)
            with urllib.request.urlopen(asked, timeout=self._timeout_s) as reply:
                return reply.read()
        except urllib.error.HTTPError as error:
            text = " ".join(error.read().decode(errors="replace")[:300].split())
            raise Unfit(f"{self.url}{path} answered {error.code}: {text}\n  remedy: {_remedy(error.code)}") from error
        except (OSError, ValueError) as error:
            raise Unfit(
                f"{self.url}{path} does not answer: {error}"
                "\n  remedy: start the server, or give the address it listens on, as http://HOST:PORT"
            ) from error


def _remedy(code: int) -> str:
    if code == 404:
        return "give the root of an OpenAI-compatible server, http://HOST:PORT, and --model if it serves several"
    return "give its key with --api-key" if code in (401, 403) else "see what the server's log says of this request"


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
