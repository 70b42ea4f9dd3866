"""A start that stands still is said once with its place, its reason and what to try; one that goes on is not."""

from __future__ import annotations

import argparse
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from sglang.srt.server_args import ServerArgs

from sglang_nemotron.host import ending, start_watch
from sglang_nemotron.host.start_watch import Place, StartWatch, explain, seconds_of, stack_of
from sglang_nemotron.sglang_api import args
from support.children import end_with_parent
from support.waiting import NET_S

SGLANG = "/env/lib/sglang/srt/"
C10D = "/env/lib/torch/distributed/distributed_c10d.py"
LOADER = [
    Place("/env/lib/sglang_nemotron/decoder/weights.py", 20, "load"),
    Place(SGLANG + "managers/scheduler.py", 9, "init"),
]
LOCK = Place("/env/lib/filelock/_api.py", 1, "acquire")
STORE = Place(SGLANG + "distributed/parallel_state.py", 1, "_create_global_tcp_store")
BARRIER = [Place(C10D, 5000, "barrier"), Place("/env/lib/torch/distributed/c10d_logger.py", 83, "wrapper")]


class Start:
    """A start that a test moves on, and what was logged of it."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, start_watch.logger.name)
        self.stack: list[Place] = LOADER
        self._caplog = caplog
        self._watch = StartWatch("TP1 PP0 of 2 x 1", lambda: self.stack, 60.0)

    def said_at(self, *times: float) -> list[str]:
        self._caplog.clear()
        for now in times:
            self._watch.tick(now)
        return [record.getMessage() for record in self._caplog.records]


def test_one_line_after_the_time_and_the_next_after_twice_as_long(caplog: pytest.LogCaptureFixture) -> None:
    start = Start(caplog)
    assert start.said_at(1000, 1030, 1059) == []
    (line,) = start.said_at(1060)
    assert line == (
        "rank TP1 PP0 of 2 x 1 stands still in its start, for 60 s at sglang_nemotron/decoder/weights.py:20 load < "
        "sglang/srt/managers/scheduler.py:9 init: nothing is known of it"
    )
    assert start.said_at(1065, 1119) == []
    assert len(start.said_at(1120, 1125, 1239)) == 1
    assert len(start.said_at(1240)) == 1


def test_a_start_that_moves_is_not_told_of_and_one_that_goes_on_is(caplog: pytest.LogCaptureFixture) -> None:
    start = Start(caplog)
    for step in range(20):
        start.stack = [Place(SGLANG + "managers/scheduler.py", step, "init")]
        assert start.said_at(50.0 * step) == []
    assert len(start.said_at(1010)) == 1
    start.stack = LOADER
    assert start.said_at(1020) == ["rank TP1 PP0 of 2 x 1 goes on with its start, after 70 s"]
    assert start.said_at(1079) == []


def test_what_sglangs_line_calls_may_move(caplog: pytest.LogCaptureFixture) -> None:
    """A lock that is polled, say: the same call of SGLang's is still not back."""
    start = Start(caplog)
    said = []
    for now in range(0, 65, 5):
        start.stack = [replace(LOCK, line=now), *LOADER]
        said += start.said_at(now)
    assert len(said) == 1


FUSION = [
    Place(SGLANG + "layers/flashinfer_comm_fusion.py", 530, "initialize"),
    Place(SGLANG + "model_executor/runner/base_runner.py", 330, "_pre_initialize_flashinfer_allreduce_workspace"),
]


@pytest.mark.parametrize(
    ("stack", "said", "unsaid"),
    [
        ([*BARRIER, *LOADER], ("waits for the other ranks in barrier", "NCCL_DEBUG"), ("--",)),
        (
            [Place(C10D, 1, "_store_based_barrier"), Place(C10D, 9, "init_process_group"), *LOADER],
            ("until every rank has joined a group", "NCCL_DEBUG"),
            ("--",),
        ),
        (
            [Place(SGLANG + "distributed/parallel_state.py", 1, "_create_global_tcp_store"), *LOADER],
            ("joined",),
            ("--",),
        ),
        # a first start: one rank compiles FlashInfer's all-reduces, and the others wait for its lock
        (
            [
                Place("/env/lib/filelock/_api.py", 1, "acquire"),
                Place("/env/lib/flashinfer/jit/core.py", 342, "b"),
                *FUSION,
            ],
            ("compiles a kernel", "--enforce-disable-flashinfer-allreduce-fusion"),
            ("--disable-custom-all-reduce", "NCCL_DEBUG"),
        ),
        (
            [*BARRIER, Place("/env/lib/flashinfer/comm/mnnvl.py", 1, "barrier"), *FUSION],
            ("waits for the other ranks", "--enforce-disable-flashinfer-allreduce-fusion"),
            ("--disable-custom-all-reduce", "compiles"),
        ),
        (
            [*BARRIER, Place(SGLANG + "distributed/device_communicators/custom_all_reduce_v2.py", 1, "_init"), *LOADER],
            ("waits for the other ranks", "--disable-custom-all-reduce"),
            ("--enforce",),
        ),
        ([Place("/env/lib/torch/cuda/__init__.py", 1, "synchronize"), *LOADER], ("waits for the GPU",), ("--",)),
        ([Place("/env/lib/torch/cuda/__init__.py", 1, "is_available"), *LOADER], (), ("waits",)),
        ([Place(SGLANG + "model_loader/loader.py", 1, "load_model"), *LOADER], ("reads weights",), ("waits", "--")),
        (LOADER, (), ("waits", "--")),
    ],
)
def test_what_is_waited_for_and_what_to_try(stack: list[Place], said: tuple[str, ...], unsaid: tuple[str, ...]) -> None:
    text = explain(stack)
    assert all(part in text for part in said), text
    assert not any(part in text for part in unsaid), text


def test_the_flags_and_files_that_are_named_are_sglangs() -> None:
    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    for flag in re.findall(r"--([a-z-]+)", " ".join(hint for _, hint in start_watch._WITHOUT)):
        assert f"--{flag}" in parser._option_string_actions, flag
    import sglang.srt.distributed.device_communicators.custom_all_reduce_v2
    import sglang.srt.layers.flashinfer_comm_fusion

    for module in (
        sglang.srt.distributed.device_communicators.custom_all_reduce_v2,
        sglang.srt.layers.flashinfer_comm_fusion,
    ):
        assert "--" in explain([Place(str(module.__file__), 1, "any")]), module
    from sglang.srt.distributed import parallel_state

    assert hasattr(parallel_state, STORE.function)


def test_a_stack_is_this_threads() -> None:
    import threading

    here = stack_of(threading.get_ident())
    assert [place.function for place in here[:2]] == ["stack_of", "test_a_stack_is_this_threads"]
    assert stack_of(0) == []


@pytest.mark.parametrize("given", ["soon", "-1", "nan", "inf"])
def test_seconds_that_are_none_are_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"SGLANG_NEMOTRON_START_WATCH_SECONDS=.*allowed: seconds, or 0"):
        seconds_of({start_watch.WATCH_SECONDS: given})


def test_a_minute_unless_said_otherwise() -> None:
    assert seconds_of({}) == seconds_of({start_watch.WATCH_SECONDS: ""}) == 60.0
    assert seconds_of({start_watch.WATCH_SECONDS: "0"}) == 0.0


@pytest.mark.parametrize(
    ("ours", "tp_size", "seconds", "watched"),
    [(True, 2, "60", True), (True, 1, "60", False), (False, 2, "60", False), (True, 2, "0", False)],
)
def test_only_a_start_of_several_ranks_of_ours_is_watched(
    ours: bool, tp_size: int, seconds: str, watched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    @contextmanager
    def watching(rank: str, seconds: float) -> Iterator[None]:
        seen.append(rank)
        yield

    monkeypatch.setattr(start_watch, "Watching", watching)
    parallel = SimpleNamespace(tp_size=tp_size, tp_rank=1, pp_size=1, pp_rank=0)
    monkeypatch.setattr(args, "get_parallel", lambda: parallel)
    monkeypatch.setenv(start_watch.WATCH_SECONDS, seconds)
    monkeypatch.delenv(ending.LAUNCHER, raising=False)
    if ours:
        monkeypatch.setenv(ending.LAUNCHER, "1")
    begun: list[Any] = []
    start_watch._watched(lambda self, *args: begun.append(args))(object(), "server_args", "port_args")
    assert begun == [("server_args", "port_args")]
    assert seen == (["TP1 PP0 of 2 x 1"] if watched else [])


# ---- real stacks, of processes whose peer never comes

ALONE = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s")
from datetime import timedelta
from sglang_nemotron.host.start_watch import Watching
import torch.distributed as dist
with Watching("TP0 PP0 of 2 x 1", 0.2):
"""
JOIN = ALONE + "    dist.init_process_group('gloo', f'file://{sys.argv[1]}', timedelta(days=1), world_size=2, rank=0)"
# the other rank joins, and then never comes to the barrier
APART = """
import os, sys, threading, torch.distributed as dist
from datetime import timedelta
rank = int(sys.argv[2])
dist.init_process_group('gloo', f'file://{sys.argv[1]}', timedelta(days=1), world_size=2, rank=rank)
if rank:
    sys.stdin.read()
    os._exit(0)
"""
REDUCE = APART + ALONE.replace("with", "import torch\nwith") + "    dist.all_reduce(torch.zeros(1))"
# a call into C that keeps Python's lock for good
LOCKED = ALONE + "    import ctypes; ctypes.PyDLL(None).pause()"


def _said_by(processes: list[subprocess.Popen[str]], until: str) -> str:
    """What the first one writes, up to a line that has this."""
    stream = processes[0].stderr
    assert stream is not None
    lines = []
    try:
        for line in stream:
            lines.append(line)
            if until in line:
                return "".join(lines)
    finally:
        for process in processes:
            process.kill()
            process.communicate(timeout=NET_S)
    raise AssertionError("".join(lines))


def _run(code: str, *words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stderr=pipe, text=True, preexec_fn=end_with_parent)


def test_a_rank_whose_peer_never_comes_says_so(tmp_path: Any) -> None:
    said = _said_by([_run(JOIN, tmp_path / "store")], "stands still")
    assert "waits until every rank" in said and "look for the one that is elsewhere" in said


def test_a_collective_that_a_peer_never_enters_is_named(tmp_path: Any) -> None:
    said = _said_by([_run(REDUCE, tmp_path / "store", rank) for rank in (0, 1)], "stands still")
    assert "waits for the other ranks in all_reduce" in said


def test_a_call_that_keeps_pythons_lock_leaves_its_stack(tmp_path: Any) -> None:
    said = _said_by([_run(LOCKED, tmp_path / "store")], 'File "<string>"')
    assert "Timeout (" in said
