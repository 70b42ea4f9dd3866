"""What work costs, in processor time beside other work of this very process: a slow or busy machine slows both.

Processor time, not the clock's: what other processes do does not count.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


def cost(work: Callable[[], Any], runs: int = 3) -> float:
    """Seconds of processor time that `work` takes, all threads of this process together; the least of some runs.

    Without the garbage collector: what it costs grows with everything that other tests left behind. So would a
    collection before each run, which takes longer than most of what is measured here.
    """
    least = float("inf")
    for _ in range(runs):
        gc.disable()
        try:
            began = time.process_time()
            work()
            least = min(least, time.process_time() - began)
        finally:
            gc.enable()
    return least


def assert_cheap(work: Callable[[], Any], *, beside: float, times: float, what: str) -> None:
    """Fails if `work` costs more than this many times `beside`, the `cost` of other work, which `what` names.

    One run that is cheap enough shows it; up to five are made, since a processor that is shared counts its waits too.
    """
    least = float("inf")
    for _ in range(5):
        least = min(least, cost(work, runs=1))
        if least <= times * beside:
            return
    raise AssertionError(f"costs {least:.4f} s, more than {times:g} times what {what} costs ({beside:.4f} s)")


@dataclass
class Peak:
    """The most bytes that Python's allocators held at once, beside what they held before."""

    num_bytes: int = 0


@contextmanager
def memory_peak() -> Iterator[Peak]:
    """Counts inside the block; the figure is there after it."""
    peak = Peak()
    tracemalloc.start()
    try:
        yield peak
    finally:
        peak.num_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
