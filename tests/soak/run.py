"""One soak: a server and a script come in, everything that was seen goes out.

Plays the script, reads what the server holds meanwhile, kills a media worker now and then, and asks a part of the
requests again when all is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import psutil

from soak.asks import Step
from soak.compare import Verdict, compare
from soak.player import Player, Record
from soak.sample import Reading, read, workers
from support.serving import running
from support.waiting import NET_S, eventually

SAMPLE_S = 5.0
KILL_S = 120.0
# every so many checked answers are asked for again
KEEP_EVERY = 10


@dataclass(frozen=True)
class Target:
    """A server. pid: its main process, if it is on this machine. weights: a folder that it can load anew.

    ended: tells its exit code once it has ended, for a server of ours.
    """

    url: str
    pid: int | None
    weights: str | None
    ended: Callable[[], int | None] = lambda: None


@dataclass
class Seen:
    """Everything of one soak. wrong: answers under load that differ from those of the same request alone."""

    seconds: float = 0.0
    records: list[Record] = field(default_factory=list)
    chores: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    kills: int = 0
    most_at_once: int = 0
    num_checked: int = 0
    verdicts: list[tuple[str, Verdict]] = field(default_factory=list)
    ended: str | None = None


class Soak:
    """Runs once."""

    def __init__(self, target: Target, steps: Iterable[Step], *, tolerance: float, say: Callable[[str], None]) -> None:
        self._target, self._steps, self._tolerance, self._say = target, steps, tolerance, say
        self._seen = Seen()
        self._began = time.monotonic()
        self._player = Player(target.url, target.weights, KEEP_EVERY, self._rest)
        self._over = threading.Event()
        self._reading = threading.Lock()

    def run(self, *, seconds: float | None = None, requests: int | None = None) -> Seen:
        """As long as that, or for so many requests, whichever comes first; then to the end of the wave."""

        def goes_on(count: int) -> bool:
            if self._target.ended() is not None:
                return False
            late = seconds is not None and time.monotonic() - self._began >= seconds
            return not late and (requests is None or count < requests)

        sampler = threading.Thread(target=self._sample, daemon=True)
        sampler.start()
        try:
            # what hangs for as long as nothing in a test may, hangs
            asyncio.run(asyncio.wait_for(self._play(goes_on), None if seconds is None else seconds + NET_S))
        except TimeoutError:
            self._seen.faults.append(f"{self._player.played.at_once} requests hang")
        finally:
            self._over.set()
            sampler.join()
        return self._told()

    async def _play(self, goes_on: Callable[[int], bool]) -> None:
        killer = asyncio.create_task(self._kill())
        for _ in range(3):
            await self._rest()
        try:
            await self._player.play(self._steps, goes_on)
        finally:
            killer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await killer
        self._seen.seconds = time.monotonic() - self._began
        self._seen.most_at_once = self._player.played.most_at_once
        if self._target.ended() is None:
            # what clients left behind is cleared away by then
            for _ in range(3):
                await self._rest()
            await self._again()

    async def _again(self) -> None:
        kept = [record for record in self._player.played.records if record.ask is not None]
        self._say(f"asking {len(kept)} requests again, one by one")
        asks = [record.ask for record in kept if record.ask is not None]
        for record, answer in zip(kept, await self._player.alone(asks), strict=True):
            assert record.answer is not None
            if isinstance(answer, str):
                self._seen.verdicts.append((record.kind, Verdict(f"alone: {answer}")))
                continue
            verdict = compare(record.answer.choices, answer.choices, self._tolerance)
            self._seen.verdicts.append((record.kind, verdict))

    async def _rest(self) -> None:
        try:
            await asyncio.to_thread(self._rests)
        except OSError as error:
            self._seen.faults.append(f"the server no longer answers: {error}")

    def _rests(self) -> None:
        url = self._target.url
        eventually(lambda: running(url) == 0)
        # its prefill makes SGLang publish the gauges anew
        body = json.dumps({"input_ids": [3], "sampling_params": {"max_new_tokens": 1}}).encode()
        request = urllib.request.Request(f"{url}/generate", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=NET_S) as reply:
            reply.read()
        self._take(idle=True)

    def _take(self, *, idle: bool) -> None:
        with self._reading:
            at = round(time.monotonic() - self._began, 1)
            requests = len(self._player.played.records)
            self._seen.readings.append(read(self._target.url, self._target.pid, at=at, requests=requests, idle=idle))

    def _sample(self) -> None:
        told = 0.0
        while not self._over.wait(SAMPLE_S):
            if self._target.ended() is not None:
                return
            with contextlib.suppress(OSError, KeyError):
                self._take(idle=False)
            if (now := time.monotonic() - self._began) - told >= 60:
                told, records = now, self._player.played.records
                faults = sum(record.fault is not None for record in records)
                self._say(f"{now / 60:.0f} min: {len(records)} requests, {faults} faults, {self._seen.kills} kills")

    async def _kill(self) -> None:
        """One worker every two minutes, whatever it does."""
        if self._target.pid is None:
            return
        while True:
            await asyncio.sleep(KILL_S)
            found = workers(self._target.pid)
            # the youngest: another lives from the beginning to the end, so that what it keeps can be seen
            for worker in sorted(found, key=_age)[:1]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.kill()
                    self._seen.kills += 1
                    self._player.num_kills += 1

    def _told(self) -> Seen:
        seen, played = self._seen, self._player.played
        seen.records, seen.chores = played.records, played.chores
        seen.faults, seen.num_checked = seen.faults + played.faults, played.num_checked
        if (code := self._target.ended()) is not None:
            seen.ended = f"the server ended with exit code {code}"
        return seen


def _age(process: psutil.Process) -> float:
    """Less for a younger one; a process that is gone is the oldest."""
    try:
        return -process.create_time()
    except psutil.NoSuchProcess:
        return 0.0
