"""A server that streams, counts and answers what a test tells it to: for `bench`, whose faults are planted here."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from support.loopback import QuietHandler, listening

MODEL = "fake"
# an answer of a chat: (content, thoughts apart, why it ended)
Answer = tuple[str, str, str]


@dataclass
class FakeBench:
    """What it does.

    answers: what it says to the text of a prompt. counts_along: tokens in every chunk, not only at the end. fails: how
    many requests after the first it refuses. breaks_off: streams end without an end. uncounted: never counts.
    ends_early: says so many tokens less than it was asked for. stalls_after: from then on requests wait for `free`.
    """

    answers: Callable[[str], Answer] = lambda text: ("", "", "stop")
    counts_along: bool = True
    fails: int = 0
    breaks_off: bool = False
    uncounted: bool = False
    ends_early: int = 0
    stalls_after: int | None = None
    model_info: dict[str, Any] | None = None
    bodies: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    free: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, path: str, body: dict[str, Any]) -> int:
        """The number of this request, from 0."""
        with self.lock:
            self.bodies.append((path, body))
            number = len(self.bodies) - 1
        if self.stalls_after is not None and number >= self.stalls_after:
            self.stalled.set()
            self.free.wait()
        return number

    def asked(self, path: str) -> list[dict[str, Any]]:
        """Bodies that were sent to a path."""
        return [body for where, body in self.bodies if where == path]


def text_of(body: dict[str, Any]) -> str:
    """The words of a request, without its media."""
    if "prompt" in body:
        return body["prompt"] if isinstance(body["prompt"], str) else ""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def _length(body: dict[str, Any]) -> int:
    prompt = body.get("prompt")
    return len(prompt) if isinstance(prompt, list) else len(text_of(body).split())


@contextmanager
def fake_bench(fake: FakeBench) -> Iterator[str]:
    """The URL of a running fake."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            if self.path == "/v1/models":
                return self.send_json({"data": [{"id": MODEL}]})
            said = {"/model_info": fake.model_info, "/server_info": {"dtype": "float32", "api_key": "secret"}}
            self.send_json(said.get(self.path), 200 if said.get(self.path) else 404)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path not in ("/v1/completions", "/v1/chat/completions"):
                return self.send_json({}, 404)
            number = fake.next(self.path, body)
            if 0 < number <= fake.fails:
                return self.send_json({"error": {"message": "planted"}}, 500)
            if body.get("stream"):
                return self._stream(body)
            content, thoughts, finish = fake.answers(text_of(body))
            message = {"role": "assistant", "content": content, "reasoning_content": thoughts or None}
            choice = {"text": content} if "prompt" in body else {"message": message}
            usage = {"prompt_tokens": _length(body), "completion_tokens": 3}
            self.send_json({"choices": [{**choice, "index": 0, "finish_reason": finish}], "usage": usage})

        def _stream(self, body: dict[str, Any]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            count, prompt = body["max_tokens"] - fake.ends_early, _length(body)
            for number in range(1, count + 1):
                delta = {"text": "x"} if "prompt" in body else {"delta": {"reasoning_content": "x"}}
                done = "length" if number == count and not fake.breaks_off else None
                chunk: dict[str, Any] = {"choices": [{**delta, "finish_reason": done}]}
                if fake.counts_along:
                    chunk["usage"] = {"prompt_tokens": prompt, "completion_tokens": number}
                self._event(json.dumps(chunk))
            if not fake.uncounted:
                usage = {"prompt_tokens": prompt, "completion_tokens": count}
                self._event(json.dumps({"choices": [], "usage": usage}))
            self._event("[DONE]")

        def _event(self, text: str) -> None:
            self.wfile.write(f"data: {text}\n\n".encode())

    with listening(Handler) as url:
        try:
            yield url
        finally:
            fake.free.set()
