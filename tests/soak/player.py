"""Plays a script against a server: steps come in at their times, a record of each request goes out.

Judges one request at a time: whether it was served, refused or ended as its `Ask` says. Whether an answer is right is
found later (`replay.py`), when the server is idle.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from soak.answers import Answer, of_body, of_stream
from soak.asks import GENERATE, Ask, Chore, Rest, Step

# of a worker that was killed while it read, as `reader/pool.py` has it
KILLED = "its reader came to an end"
# more at once wait on our side; a burst is no more than this
MOST_AT_ONCE = 64
# of a connection whose reader is slow, so that the server feels it
SMALL_BUFFER = 4096


@dataclass(frozen=True)
class Record:
    """fault: what is wrong with how it ended; None if that is as asked. answer: of a checked request, if it is kept."""

    kind: str
    status: int | None
    seconds: float
    fault: str | None = None
    lost: bool = False
    answer: Answer | None = None
    ask: Ask | None = None


@dataclass
class Played:
    """What came of a script so far; sampled while it grows."""

    records: list[Record] = field(default_factory=list)
    chores: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    num_checked: int = 0
    at_once: int = 0
    most_at_once: int = 0


class Player:
    """One client of many connections."""

    def __init__(self, url: str, weights: str | None, keep_every: int, rest: Callable[[], Awaitable[None]]) -> None:
        """weights: a folder that the server can load again, None for none. rest: called on an idle server."""
        self.played = Played()
        self._url, self._weights, self._keep_every, self._rest = url, weights, keep_every, rest
        self._running: set[asyncio.Task[None]] = set()
        # killed workers are expected from the first kill on
        self.num_kills = 0

    async def play(self, steps: Iterable[Step], goes_on: Callable[[int], bool]) -> None:
        """Until `goes_on` says no, asked with the number of requests before each wave; then all ends."""
        async with self._session() as session, self._session(SMALL_BUFFER) as narrow:
            count, rested = 0, True
            for step in steps:
                if rested and not goes_on(count):
                    break
                await asyncio.sleep(step.pause)
                rested = isinstance(step.does, Rest)
                match step.does:
                    case Rest(chores):
                        await self._all_end()
                        await self._rest()
                        for chore in chores:
                            await self._chore(session, chore, idle=True)
                    case Chore() as chore:
                        self._start(self._chore(session, chore, idle=False))
                    case Ask() as ask:
                        count += 1
                        while len(self._running) >= MOST_AT_ONCE:
                            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                        self._start(self._ask(narrow if ask.manner == "slowly" else session, ask))
            await self._all_end()

    async def alone(self, asks: Iterable[Ask]) -> list[Answer | str]:
        """Each by itself on a server without a cache; its answer, or what went wrong."""
        found: list[Answer | str] = []
        async with self._session() as session:
            for ask in asks:
                await self._chore(session, Chore("flush"), idle=True)
                try:
                    answer = await self._answer(session, ask, asyncio.Event())
                    found.append(
                        answer if not answer.cut and answer.status == 200 else f"{answer.status} {answer.error}"
                    )
                except (aiohttp.ClientError, OSError, ValueError) as error:
                    found.append(f"{type(error).__name__}: {error}")
        return found

    def _session(self, buffer: int | None = None) -> aiohttp.ClientSession:
        def narrow(address: Any) -> socket.socket:
            made = socket.socket(address[0], address[1], address[2])
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer or SMALL_BUFFER)
            return made

        connector = aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=narrow if buffer else None)
        # no limit of its own: what hangs is seen by who watches
        timeout = aiohttp.ClientTimeout(total=None)
        return aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=buffer or 2**16)

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        self.played.at_once = len(self._running)
        self.played.most_at_once = max(self.played.most_at_once, self.played.at_once)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self.played.at_once = len(self._running)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.played.faults.append(f"{type(error).__name__}: {error}"[:300])

    async def _all_end(self) -> None:
        while self._running:
            await asyncio.wait(self._running)

    async def _chore(self, session: aiohttp.ClientSession, chore: Chore, *, idle: bool) -> None:
        """What must work on an idle server, and may be refused on a busy one."""
        if chore.what == "flush":
            # a request whose client is gone may reach the scheduler late: an idle server is waited for
            call = session.post(f"{self._url}/flush_cache", params={"timeout": "60"} if idle else {})
        elif self._weights is None:
            return
        else:
            call = session.post(f"{self._url}/update_weights_from_disk", json={"model_path": self._weights})
        async with call as reply:
            status, said = reply.status, await reply.text()
        name = f"{chore.what} {'idle' if idle else 'busy'} {status}"
        self.played.chores[name] = self.played.chores.get(name, 0) + 1
        # SGLang loads weights while a request that was given up still runs, and says that the cache was not flushed
        if status != 200 and (idle or status != 400):
            self.played.faults.append(f"{name}: {said[:200]}")

    async def _ask(self, session: aiohttp.ClientSession, ask: Ask) -> None:
        began, left = time.monotonic(), asyncio.Event()
        answer: Answer | None = None
        fault: str | None = None
        try:
            answer = await self._answer(session, ask, left)
        except asyncio.CancelledError:
            raise
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            if not left.is_set():
                fault = f"{type(error).__name__}: {error}"
        seconds = time.monotonic() - began
        lost = answer is not None and answer.status == 400 and KILLED in (answer.error or "")
        if answer is not None and fault is None and not (lost and ask.media and self.num_kills):
            fault = judge(ask, answer, left.is_set())
        keeps = ask.checked and fault is None and not lost and answer is not None and answer.status == 200
        self.played.num_checked += keeps
        keeps = keeps and self.played.num_checked % self._keep_every == 0
        status = None if answer is None else answer.status
        kept = (answer, ask) if keeps else (None, None)
        self.played.records.append(Record(ask.kind, status, seconds, fault, lost, *kept))

    async def _answer(self, session: aiohttp.ClientSession, ask: Ask, left: asyncio.Event) -> Answer | None:
        """What the server said; None if the client did not wait for it. left: set once the client goes by itself."""
        body = ask.body if isinstance(ask.body, bytes) else json.dumps(ask.body).encode()
        if ask.manner == "half a body":
            left.set()
            return await self._half(ask, body)
        if ask.manner == "gives up":
            try:
                async with asyncio.timeout(ask.after):
                    return await self._whole(session, ask, body, left)
            except TimeoutError:
                left.set()
                return None
        if ask.manner == "aborts":
            asking = asyncio.create_task(self._whole(session, ask, body, left))
            await asyncio.sleep(ask.after)
            assert not isinstance(ask.body, bytes)
            async with session.post(f"{self._url}/abort_request", json={"rid": ask.body["rid"]}):
                pass
            return await asking
        return await self._whole(session, ask, body, left)

    async def _whole(self, session: aiohttp.ClientSession, ask: Ask, body: bytes, left: asyncio.Event) -> Answer | None:
        headers = {"Content-Type": "application/json"}
        async with session.post(self._url + ask.path, data=body, headers=headers) as reply:
            if not (ask.stream and reply.status == 200):
                return of_body(ask.path, reply.status, await reply.read())
            lines: list[bytes] = []
            count = 0
            async for line in _lines(reply.content):
                count += 1
                if ask.path == GENERATE and line.startswith(b"data: {"):
                    # each has the whole answer so far
                    lines.clear()
                lines.append(line)
                if ask.manner == "slowly":
                    await asyncio.sleep(ask.after)
                if ask.manner == "hangs up" and count >= ask.after:
                    left.set()
                    return None
            return of_stream(ask.path, reply.status, lines)

    async def _half(self, ask: Ask, body: bytes) -> None:
        host, port = self._url.removeprefix("http://").split(":")
        head = f"POST {ask.path} HTTP/1.1\r\nHost: soak\r\nContent-Type: application/json\r\n"
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[: len(body) // 2])
        with contextlib.suppress(OSError):
            await writer.drain()
            writer.close()
            await writer.wait_closed()


async def _lines(content: aiohttp.StreamReader) -> Any:
    """Lines of any length: one of /generate has the whole answer so far."""
    rest = b""
    async for piece in content.iter_any():
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            if line:
                yield line
    if rest:
        yield rest


def judge(ask: Ask, answer: Answer, left: bool) -> str | None:
    """What is wrong with how a request ended; None if it ended as asked."""
    if ask.fate == "refused":
        right = 400 <= answer.status < 500 and answer.error
        return None if right else f"was to be refused: {answer.status} {answer.error}"
    if ask.fate == "ended":
        # a server may say that the request's time is over, or that it was aborted
        right = answer.status in (200, 400, 499, 503) or left
        return None if right else f"{answer.status} {answer.error}"
    if answer.status == 400 and ask.media and "fit" in (answer.error or ""):
        # more media than the context has room for, drawn at random
        return None
    if answer.status != 200 or answer.cut:
        return f"{answer.status} {answer.error or answer.reasons}"
    return None
