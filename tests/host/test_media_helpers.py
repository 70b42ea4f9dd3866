"""Where a media worker's helpers may run."""

from __future__ import annotations

import gc
import os
import threading

import pytest

from sglang_nemotron.host import media_helpers
from sglang_nemotron.host.media_helpers import Helpers
from support.waiting import NET_S


def allowed(helpers: Helpers) -> list[set[int]]:
    return [os.sched_getaffinity(native_id) for native_id in helpers.native_ids]


def test_helpers_are_all_there() -> None:
    with Helpers(3) as helpers:
        assert len(set(helpers.native_ids)) == 3
        assert {int(name) for name in os.listdir("/proc/self/task")} >= set(helpers.native_ids)
        assert helpers.submit(threading.get_native_id).result() in helpers.native_ids


def test_a_thread_that_cannot_start_leaves_none_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = threading.Thread.start, []

    def once(self: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(self)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", once)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        Helpers(2)
    # ends with the last reference to its pool
    gc.collect()
    started[0].join(NET_S)
    assert not started[0].is_alive()


def test_helpers_keep_away_from_the_processor_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = os.sched_getaffinity(0)
    if len(ours) < 2:
        pytest.skip("needs two processors")
    with Helpers(2) as helpers:
        for here in sorted(ours)[:2]:
            monkeypatch.setattr(media_helpers, "_this_processor", lambda here=here: here)
            helpers.keep_away()
            assert allowed(helpers) == [ours - {here}] * 2
    assert os.sched_getaffinity(0) == ours


def test_one_processor_is_shared() -> None:
    ours = os.sched_getaffinity(0)
    only = {min(ours)}
    os.sched_setaffinity(0, only)
    try:
        with Helpers(2) as helpers:
            helpers.keep_away()
            assert allowed(helpers) == [only] * 2
    finally:
        os.sched_setaffinity(0, ours)


def test_a_thread_knows_its_processor() -> None:
    """Of the real machine: not a number that no test made up."""
    ours = os.sched_getaffinity(0)
    try:
        for only in ours:
            os.sched_setaffinity(0, {only})
            assert media_helpers._this_processor is not None and media_helpers._this_processor() == only
    finally:
        os.sched_setaffinity(0, ours)


def test_a_library_that_does_not_tell_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_helpers, "_this_processor", None)
    with Helpers(1) as helpers:
        before = allowed(helpers)
        helpers.keep_away()
        assert allowed(helpers) == before
