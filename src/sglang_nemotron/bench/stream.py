"""Sends the requests of one round to a server, so many at once, and takes the times of their streams.

aiohttp speaks HTTP, as in SGLang's `bench_serving`; it is imported inside functions, so that `--help` stays quick.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sglang_nemotron.bench.load import Question
from sglang_nemotron.bench.records import Timed
from sglang_nemotron.bench.server import Server, make_room
from sglang_nemotron.bench.statistics import gaps

if TYPE_CHECKING:
    import aiohttp

# for one line of a stream
_READ_BYTES = 10 * 2**20
# usage in every chunk, where the server has that (SGLang, vLLM), and at the end
_STREAM = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}


@dataclass
class Outcome:
    """What came of a round: grows while it is asked, so that an interruption keeps what was measured."""

    requests: list[Timed] = field(default_factory=list)
    duration_s: float = 0.0
    interrupted: bool = False


def ask(server: Server, asked: Sequence[Question], concurrency: int, tick: Callable[[], None]) -> Outcome:
    """All of them as soon as fewer than `concurrency` are under way. Ctrl-C ends it, and is told in the outcome.

    A connection is made for every request, and its time belongs to the request, as in bench_serving.
    """
    make_room(concurrency)
    outcome = Outcome()
    began = time.perf_counter()
    try:
        asyncio.run(_all(server, asked, concurrency, outcome.requests, tick))
    except KeyboardInterrupt:
        outcome.interrupted = True
    outcome.duration_s = time.perf_counter() - began
    return outcome


async def _all(
    server: Server, asked: Sequence[Question], concurrency: int, done: list[Timed], tick: Callable[[], None]
) -> None:
    import aiohttp

    places = asyncio.Semaphore(concurrency)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=server.timeout_s)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, read_bufsize=_READ_BYTES, headers=server.headers
    ) as session:

        async def one(question: Question) -> None:
            async with places:
                done.append(await _one(session, server, question))
            tick()

        await asyncio.gather(*(one(question) for question in asked))


async def _one(session: aiohttp.ClientSession, server: Server, question: Question) -> Timed:
    import aiohttp

    body = {"model": server.model, **question.body, **_STREAM}
    began = time.perf_counter()
    try:
        async with session.post(server.url + question.path, json=body) as reply:
            if reply.status != 200:
                said = " ".join((await reply.text())[:300].split())
                return Timed(start_s=began, error=f"{question.path} answered {reply.status}: {said}")
            heard = Heard()
            async for line in reply.content:
                heard.take(line, time.perf_counter())
            return heard.timed(began)
    except TimeoutError:
        return Timed(start_s=began, error=f"no answer within {server.timeout_s:g} s")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return Timed(start_s=began, error=f"{type(error).__name__}: {error}")


class Heard:
    """One stream: lines as they come with the time of each, and what they add up to."""

    def __init__(self) -> None:
        self._events: list[tuple[float, int | None]] = []
        self._usage: dict[str, Any] = {}
        self._error: str | None = None
        self._finished = False
        self._last = 0.0

    def take(self, line: bytes, now: float) -> None:
        """A line of server-sent events. Raises ValueError for one that holds no JSON."""
        text = line.strip()
        if not text.startswith(b"data:"):
            return
        self._last = now
        if (data := text.removeprefix(b"data:").strip()) == b"[DONE]":
            return
        said = json.loads(data)
        if error := said.get("error"):
            self._error = str(error.get("message", error) if isinstance(error, dict) else error)
        usage = said.get("usage") or {}
        self._usage = usage or self._usage
        for choice in said.get("choices") or []:
            self._finished = self._finished or choice.get("finish_reason") is not None
            if _text(choice):
                self._events.append((now, usage.get("completion_tokens")))

    def timed(self, began: float) -> Timed:
        """The times, beside a clock on which the request was sent at `began`."""
        if error := self._error or self._fault():
            return Timed(start_s=began, error=error)
        latency = self._last - began
        return Timed(
            prompt_tokens=self._usage["prompt_tokens"],
            output_tokens=self._usage["completion_tokens"],
            start_s=began,
            # of a reply without any text all came at once
            ttft_s=self._events[0][0] - began if self._events else latency,
            latency_s=latency,
            itl_s=gaps(self._events),
        )

    def _fault(self) -> str | None:
        if not self._finished:
            return "the stream broke off before its end"
        if not {"prompt_tokens", "completion_tokens"} <= self._usage.keys():
            return "the server counts no tokens (stream_options.include_usage)"
        return None


def _text(choice: dict[str, Any]) -> str:
    """What a chunk says, thoughts included: they are generated like the answer."""
    delta = choice.get("delta") or {}
    thoughts = delta.get("reasoning_content") or delta.get("reasoning") or ""
    return thoughts + (choice.get("text") or delta.get("content") or "")
