"""Waiting in tests: until something holds, however slow the machine; the one net under everything that may hang.

No test bounds the time that something takes: it would fail on a slower machine. What must happen soon is shown by the
order of events, by a count, or beside the cost of other work (`costs.py`). `.ci/fences` keeps it so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sglang_nemotron.prompt.options import MediaLimits

# for what would otherwise never end: over ten times what the longest of these waits takes on a machine of two cores
NET_S = 900.0
# the server's own limit on decoding one file is a minute; a test that is not about it must not meet it
PATIENT = MediaLimits(max_decode_seconds=NET_S)


def eventually(holds: Callable[[], bool], *, poll_s: float = 0.05, net_s: float = NET_S) -> bool:
    """Whether it comes true before the net."""
    end = time.monotonic() + net_s
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(poll_s)
    return True


@contextmanager
def at_least(seconds: float) -> Iterator[None]:
    """Fails if the block takes less: a pause that must be kept. A slower machine only takes longer."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took >= seconds, f"took {took:.2f} s, which is less than {seconds} s"
