"""Leaks that are put into series of readings are found, each of them; series of a sound server pass."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from soak.judge import ALLOWED, leaks, memory
from soak.sample import Process, Reading

MB = 1 << 20
ROLES = ("http", "scheduler", "detokenizer", "media worker")
# a rest every so many requests, for as long as half an hour on two cores takes
EVERY, REQUESTS = 60, 6000


def sound(seed: int = 0, requests: int = REQUESTS) -> list[Reading]:
    """What a server without leaks shows: caches that fill, noise that wanders, workers that are replaced, an answer's
    file on its way between two rests."""
    draw, wander, readings = random.Random(seed), dict.fromkeys(ROLES, 0.0), []
    for done in range(0, requests + 1, EVERY):
        for role in ROLES:
            wander[role] = 0.5 * wander[role] + draw.gauss(0, 1.5 * MB)
        filled = 120 * MB * (1 - math.exp(-6 * done / REQUESTS))
        # one that is killed now and then, and warms up again
        young = Process(900 + done // 700, "media worker", round(300 * MB + 0.2 * MB * (done % 700)))
        processes = (
            *(Process(10 + at, role, round(500 * MB + filled + wander[role])) for at, role in enumerate(ROLES)),
            young,
        )
        gauges = {"slots_used": 2.0, "tokens_used": 0.0, "running": 0.0, "queued": 0.0}
        readings.append(Reading(done / 3, done, True, processes, gauges, (), 4))
        busy = {"slots_used": draw.randint(3, 40), "tokens_used": 900.0, "running": 9.0, "queued": 20.0}
        readings.append(replace(readings[-1], idle=False, gauges=busy, left=("http: /dev/shm/sgl_shm_mm_10_a",)))
    return readings


def changed(readings: list[Reading], role: str, change: Callable[[Process, int], Process]) -> list[Reading]:
    def of(reading: Reading) -> Reading:
        made = (change(one, reading.requests) if one.role == role else one for one in reading.processes)
        return replace(reading, processes=tuple(made))

    return [of(reading) for reading in readings]


def verdicts(readings: list[Reading]) -> dict[str, str]:
    return {found.role: found.verdict for found in memory(readings)}


@pytest.mark.parametrize("seed", range(20))
def test_a_sound_server_passes(seed: int) -> None:
    assert verdicts(sound(seed)) == dict.fromkeys(ROLES, "flat")
    assert leaks(sound(seed)) == []


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("size", [2 * ALLOWED, 100_000])
def test_memory_that_stays_of_every_request_is_found(role: str, size: int) -> None:
    """100 KB of each, and a fifth of that; of one process, whatever the others do."""
    for seed in range(5):
        grows = lambda one, done: replace(one, private=one.private + size * done)  # noqa: E731
        found = verdicts(changed(sound(seed), role, grows))
        assert found.pop(role) == "leaks", seed
        assert set(found.values()) == {"flat"}


def test_too_few_readings_are_no_proof() -> None:
    few = sound(requests=6 * EVERY)
    assert "flat" not in verdicts(few).values()
    assert leaks(few[:4]) == ["too few readings of an idle server"]


def test_readings_that_differ_too_much_are_no_proof() -> None:
    draw = random.Random(0)
    rough = lambda one, done: replace(one, private=one.private + draw.randrange(3000 * MB))  # noqa: E731
    assert verdicts(changed(sound(), "http", rough))["http"] == "unclear"


@pytest.mark.parametrize("gauge", ["slots_used", "tokens_used", "running", "queued", "workers_busy"])
def test_one_in_a_thousand_requests_is_found(gauge: str) -> None:
    def leaking(reading: Reading) -> Reading:
        lost = reading.requests // 1000
        return replace(reading, gauges={**reading.gauges, gauge: reading.gauges.get(gauge, 0.0) + lost})

    (found,) = leaks([leaking(reading) for reading in sound()])
    assert found.startswith(gauge) and "at the end" in found
    # the first of them already
    (found,) = leaks([leaking(reading) for reading in sound(requests=1500)])
    assert found.startswith(gauge)


def test_what_is_held_for_a_moment_is_no_leak() -> None:
    readings = sound()
    busy = dict(readings[-2].gauges, slots_used=9.0)
    readings[-2] = replace(readings[-2], gauges=busy, left=("http: /dev/shm/sgl_shm_mm_10_b",), shared=9)
    assert leaks(readings) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"left": ("/dev/shm/sgl_shm_mm_10_c",)}, "a file of media stays: /dev/shm/sgl_shm_mm_10_c"),
        ({"shared": 5}, "files in shared memory: 4 at the beginning, 5 at the end"),
    ],
)
def test_files_that_stay_are_found(change: dict[str, Any], words: str) -> None:
    readings = sound()
    half = len(readings) // 2
    assert leaks(readings[:half] + [replace(reading, **change) for reading in readings[half:]]) == [words]


@pytest.mark.parametrize("name", ["files", "sockets", "threads"])
def test_what_a_process_opens_and_keeps_is_found(name: str) -> None:
    """One for every hundred requests."""
    grows = lambda one, done: replace(one, **{name: getattr(one, name) + done // 100})  # noqa: E731
    (found,) = leaks(changed(sound(), "http", grows))
    assert found.startswith(f"{name} of http")


def test_processes_that_stay_are_found() -> None:
    readings = sound()
    extra = Process(77, "media worker", MB)
    late = [replace(reading, processes=(*reading.processes, extra)) for reading in readings[-10:]]
    assert leaks(readings[:-10] + late) == ["processes of media worker: 2 at the beginning, 3 at the end"]
