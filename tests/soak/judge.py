"""Readings of a soak and what came of its requests come in, verdicts go out: what leaks, what was wrong, what was slow.

Memory is judged by its slope against requests, with the slope's error; counts by what an idle server holds at the end
and did not hold at the beginning. Must never know a server or the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from soak.sample import Reading
from soak.statistics import Slope, slope

# caches that fill once, pools that are touched once, threads that stay: what happens in so much of all requests is no
# leak, of a process from its own beginning on
WARM_UP = 1 / 3
# bytes a request: what a process may grow by without being a leak, and what a leak of is surely found
ALLOWED, SURELY = 10_000, 100_000
# a slope counts as more than something if it is so many standard errors above it
ERRORS = 3.0
# connections of other clients, such as those that read the metrics, come and go
SPARE = {"files": 8, "sockets": 4, "threads": 8}
# readings of a beginning and of an end, of which the least counts
EDGE = 3


@dataclass(frozen=True)
class Memory:
    """Of one role. verdict: flat, leaks, or unclear where readings are too few or differ too much."""

    role: str
    slope: Slope | None
    verdict: str

    @property
    def said(self) -> str:
        if self.slope is None:
            return f"{self.role}: too few readings"
        return f"{self.role}: {self.slope.per_unit:+,.0f} ± {self.slope.error:,.0f} bytes a request, {self.verdict}"


def memory(readings: Sequence[Reading]) -> list[Memory]:
    """Of every role; processes of one role, such as media workers, share a slope and have levels of their own."""
    rests = idle(readings)
    warming = WARM_UP * (rests[-1].requests - rests[0].requests) if rests else 0
    begins: dict[int, int] = {}
    series: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for reading in rests:
        for process in reading.processes:
            of_role = series.setdefault(process.role, {})
            if reading.requests >= begins.setdefault(process.pid, reading.requests) + warming:
                of_role.setdefault(process.pid, []).append((float(reading.requests), float(process.private)))
    return [Memory(role, *_of_slope(slope(list(found.values())))) for role, found in sorted(series.items())]


def _of_slope(found: Slope | None) -> tuple[Slope | None, str]:
    if found is None:
        return None, "unclear"
    if found.at_least(ERRORS) > ALLOWED:
        return found, "leaks"
    return found, "flat" if found.at_most(ERRORS) < SURELY else "unclear"


def idle(readings: Sequence[Reading]) -> list[Reading]:
    return [reading for reading in readings if reading.idle]


def warm_up(readings: Sequence[Reading]) -> list[Reading]:
    """Without the first third of the requests."""
    if not readings:
        return []
    begin = readings[0].requests + WARM_UP * (readings[-1].requests - readings[0].requests)
    return [reading for reading in readings if reading.requests >= begin]


def leaks(readings: Sequence[Reading]) -> list[str]:
    """What an idle server holds more of at the end than at the beginning: slots, pages, files, processes, sockets."""
    rests = idle(readings)
    if len(rests) < 2 * EDGE:
        return ["too few readings of an idle server"]
    first, last = rests[:EDGE], rests[-EDGE:]
    found = []
    for name in ("slots_used", "tokens_used", "running", "queued", "workers_busy"):
        before, after = (min(reading.gauges.get(name, 0.0) for reading in some) for some in (first, last))
        if after > before:
            found.append(f"{name}: {before:g} at the beginning, {after:g} at the end")
    # what is there in each of the last readings
    stays = set.intersection(*(set(reading.left) for reading in last))
    found += [f"a file of media stays: {file}" for file in sorted(stays)]
    before, after = (min(reading.shared for reading in some) for some in (first, last))
    if after > before:
        found.append(f"files in shared memory: {before} at the beginning, {after} at the end")
    return found + _of_processes(warm_up(rests)[:EDGE], last)


def _of_processes(first: Sequence[Reading], last: Sequence[Reading]) -> list[str]:
    found = []
    roles = sorted({process.role for reading in (*first, *last) for process in reading.processes})
    for role in roles:
        before, after = (min(_count(reading, role) for reading in some) for some in (first, last))
        if after > before:
            found.append(f"processes of {role}: {before} at the beginning, {after} at the end")
        for name, spare in SPARE.items():
            before, after = (min(_sum(reading, role, name) for reading in some) for some in (first, last))
            if after > before + spare:
                found.append(f"{name} of {role}: {before} at the beginning, {after} at the end")
    return found


def _count(reading: Reading, role: str) -> int:
    return sum(process.role == role for process in reading.processes)


def _sum(reading: Reading, role: str, name: str) -> int:
    return sum(getattr(process, name) for process in reading.processes if process.role == role)
