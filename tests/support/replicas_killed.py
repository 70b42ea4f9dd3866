"""A replica behind a router is killed while clients ask, stays away for a while, and comes back at its old address."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sglang_nemotron.cli.server import ServerProcess
from support.replicas import Heard, answers, healthy, load, requests_of, router
from support.waiting import eventually

NUM, AT_ONCE = 160, 8


@dataclass
class Killed:
    """What clients heard while it was killed, once the router had noticed, and once it was back; who answered then."""

    heard: Heard
    without: Heard
    again: Heard
    shares: list[int]
    replicas: list[ServerProcess]


def killed_under_load(replicas: list[ServerProcess], log: Path, make: Callable[[int], ServerProcess]) -> Killed:
    """Kills the second of two with SIGKILL, every process of it, and starts what `make` gives for its port.

    Prompts share nothing, so that both have work. `replicas` of the result are those to stop.
    """
    expected = answers(replicas[0].url, [f"{number} tells of {number * 37 % 101}" for number in range(20)])
    doomed, kill = replicas[1], threading.Event()

    def after(ended: int) -> None:
        if ended >= NUM // 4 and not kill.is_set():
            kill.set()
            os.killpg(doomed.pid, signal.SIGKILL)

    with router([server.url for server in replicas], log) as address:
        heard = load(address, expected, NUM, AT_ONCE, after)
        assert kill.is_set()
        assert eventually(lambda: healthy(address) == 1), log.read_text()
        without = load(address, expected, NUM // 4, AT_ONCE, lambda _: None)
        doomed.stop()
        back = make(doomed.port)
        back.start()
        now = [replicas[0], back]
        assert eventually(lambda: healthy(address) == 2), log.read_text()
        before = [requests_of(server) for server in now]
        again = load(address, expected, NUM // 2, AT_ONCE, lambda _: None)
        shares = [requests_of(server) - count for server, count in zip(now, before, strict=True)]
    return Killed(heard, without, again, shares, now)
