"""A server that answers chats like any OpenAI-compatible one, with a prefix cache; faults can be planted in it.

Its model is arithmetic: what it says at a position depends on every token before. Its tokens are bytes of the
messages, for media those of a digest.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from support.loopback import QuietHandler, listening

# prefixes are kept at multiples of this
GRAIN = 64
MODEL = "fake"


@dataclass
class FakeChats:
    """What it offers, and its faults.

    off: added to every logprob of a reply whose prompt was partly reused; sway: up to so much in any reply, by chance.
    tie: the two likeliest tokens of the first position lie so far apart, and change places on a hit. flush, salts,
    tokenize, logprobs, cache, generate (SGLang's): whether it has them. tells: what was reused. images: tokens that an
    image takes beside its name, 0 if it drops all media unsaid, None if it refuses them.
    """

    off: float = 0.0
    sway: float = 0.0
    tie: float | None = None
    flush: bool = True
    salts: bool = True
    tokenize: bool = True
    logprobs: bool = True
    cache: bool = True
    tells: bool = True
    images: int | None = None
    generate: bool = False
    context: int = 30_000
    dtype: str = "float32"
    paths: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    _kept: set[tuple[str, bytes]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _count: int = 0

    def get(self, path: str) -> Any:
        if path == "/v1/models":
            return {"data": [{"id": MODEL, "max_model_len": self.context}]}
        return {"dtype": self.dtype, "chunked_prefill_size": 4096} if path == "/server_info" else None

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """None for what it does not have; a string for what it refuses."""
        if path == "/tokenize":
            return {"tokens": list(_prompt(body))} if self.tokenize else None
        if path.startswith("/flush_cache"):
            self._kept.clear()
            return {} if self.flush else None
        if path == "/v1/completions":
            self._reused(bytes(body["prompt"]), self._salt(body))
            return {}
        if path == "/generate" and self.generate:
            return self._generate(body)
        return self._chat(body) if path == "/v1/chat/completions" else None

    def _generate(self, body: dict[str, Any]) -> Any:
        prompt, chosen, tops = bytes(body["input_ids"]), [], []
        reused = self._reused(prompt, self._salt(body))
        for at in range(body["sampling_params"]["max_new_tokens"]):
            likeliest = self._position(prompt, at, reused)["top_logprobs"]
            # the names are numbers of which the last tells positions apart
            named = [[top["logprob"], sum(map(int, top["token"].split("-"))) % 256, None] for top in likeliest]
            chosen.append(named[0])
            tops.append(named)
        meta = {"output_token_logprobs": chosen, "output_top_logprobs": tops}
        meta |= {"prompt_tokens": len(prompt), "cached_tokens": reused}
        self._reused(prompt + bytes(token for _, token, _ in chosen), self._salt(body))
        return {"output_ids": [token for _, token, _ in chosen], "meta_info": meta}

    def _chat(self, body: dict[str, Any]) -> Any:
        prompt = _prompt(body, with_media=self.images != 0)
        media = prompt.count(b"image_url") // 2
        if media and self.images is None:
            return "text only"
        reused = self._reused(prompt, self._salt(body))
        length = len(prompt) + media * (self.images or 0)
        usage: dict[str, Any] = {"prompt_tokens": length, "completion_tokens": body["max_tokens"]}
        if self.tells:
            usage["prompt_tokens_details"] = {"cached_tokens": reused}
        content = [self._position(prompt, at, reused) for at in range(body["max_tokens"])]
        return {"choices": [{"logprobs": {"content": content} if self.logprobs else None}], "usage": usage}

    def _position(self, prompt: bytes, at: int, reused: int) -> dict[str, Any]:
        seed = hashlib.sha256(prompt + bytes([at])).digest()
        gaps = [0.5 + byte / 128 for byte in seed[:5]]
        if self.tie is not None and at == 0:
            gaps[0] = self.tie
        logprobs = [-1.0 - sum(gaps[:rank]) for rank in range(5)]
        names = [f"{rank}-{seed[9]}" for rank in range(5)]
        if self.tie is not None and at == 0 and reused:
            names[:2] = names[1::-1]
        with self._lock:
            self._count += 1
            moved = (self.off if reused else 0.0) + self.sway * (self._count % 7) / 7
        tops = [{"token": name, "logprob": logprob + moved} for name, logprob in zip(names, logprobs, strict=True)]
        return {**tops[0], "top_logprobs": tops}

    def _salt(self, body: dict[str, Any]) -> str:
        return body.get("cache_salt", "") if self.salts else ""

    def _reused(self, prompt: bytes, salt: str) -> int:
        """Tokens found in the cache; leaves the prompt there."""
        if not self.cache:
            return 0
        ends = range(GRAIN, len(prompt), GRAIN)
        with self._lock:
            found = max((end for end in ends if (salt, prompt[:end]) in self._kept), default=0)
            self._kept.update((salt, prompt[:end]) for end in ends)
        return found


def _prompt(body: dict[str, Any], *, with_media: bool = True) -> bytes:
    said = [
        {**message, "content": [part for part in message["content"] if part["type"] == "text"]}
        if not with_media and isinstance(message["content"], list)
        else message
        for message in body["messages"]
    ]
    text = json.dumps([body.get("tools"), said])
    return re.sub(r"[\w+/=]{400,}", lambda found: hashlib.sha256(found[0].encode()).hexdigest(), text).encode()


@contextmanager
def fake_chats(fake: FakeChats) -> Iterator[str]:
    """The URL of a running fake."""

    class Handler(QuietHandler):
        # head and body in one packet
        wbufsize = -1

        def do_GET(self) -> None:
            self._reply(fake.get(self.path))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
            fake.paths.append(self.path)
            fake.bodies.append(body)
            self._reply(fake.post(self.path, body))

        def _reply(self, said: Any) -> None:
            self.send_json(said, 404 if said is None else 400 if isinstance(said, str) else 200)

    with listening(Handler) as url:
        yield url
