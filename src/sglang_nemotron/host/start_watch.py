"""A rank whose start stands still says where, what it waits for, and what to try; in: stacks of the thread that starts.

Starts of several ranks wait for each other in collectives, and SGLang 0.5.23 says nothing until a time-out, if there is
one. Watches a scheduler of ours from its first line to its last; never touches a device, nor what it watches.
"""

from __future__ import annotations

import faulthandler
import functools
import itertools
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sglang_nemotron.host import ending
from sglang_nemotron.host.door import Door
from sglang_nemotron.sglang_api.wrapping import Wrap

logger = logging.getLogger(__name__)

WATCH_SECONDS = "SGLANG_NEMOTRON_START_WATCH_SECONDS"
_SECONDS = 60.0
# looks between two lines
_LOOKS = 12
_SCHEDULER = "sglang.srt.managers.scheduler"
# innermost lines of SGLang's and ours that are told
_TOLD = 4
_HOSTS = ("/sglang/", "/sglang_nemotron/")


@dataclass(frozen=True)
class Place:
    """One line of a stack."""

    file: str
    line: int
    function: str

    def is_in(self, parts: Sequence[str]) -> bool:
        return any(part in self.file for part in parts)

    def __str__(self) -> str:
        """From the package on: paths of a machine mean nothing elsewhere."""
        start = next((self.file.rfind(host) + 1 for host in _HOSTS if host in self.file), None)
        return f"{self.file[start or self.file.rfind('/') + 1 :]}:{self.line} {self.function}"


@dataclass(frozen=True)
class _Wait:
    """Where a stack is when it waits: parts of a file's path, and functions there of which it is in one (none: any)."""

    files: tuple[str, ...]
    what: str
    functions: tuple[str, ...] = ()
    hint: str = ""


# calls each collective for torch
_LOGGER = "torch/distributed/c10d_logger.py"
_PEERS = (
    "every rank that stands still says so: look for the one that is elsewhere, or has failed; NCCL_DEBUG=INFO says more"
)
_JOIN = "waits until every rank has joined a group"
# the innermost line that is in one of them says what is waited for; {} is the function that was called there
_WAITS: tuple[_Wait, ...] = (
    _Wait(
        ("flashinfer/jit/", "tvm_ffi/cpp/", "triton/compiler/", "torch/utils/cpp_extension.py"),
        "compiles a kernel, or waits for the rank that does",
        hint="a first start compiles for minutes, and later ones find the result in the cache",
    ),
    _Wait(("torch/distributed/",), _JOIN, ("init_process_group", "new_group", "split_group"), _PEERS),
    _Wait(("torch/distributed/",), "waits for the other ranks in {}", hint=_PEERS),
    _Wait(("srt/distributed/parallel_state.py",), _JOIN, ("_create_global_tcp_store",), _PEERS),
    _Wait(("device_communicators/pynccl",), "waits for the other ranks in NCCL, {}", hint=_PEERS),
    _Wait(("torch/cuda/",), "waits for the GPU, where a kernel may wait for another rank", ("synchronize",), _PEERS),
    _Wait(("safetensors/", "srt/model_loader/"), "reads weights", hint="a disk or a network may be slow"),
)
# whose wait it is says what to go without
_WITHOUT: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("flashinfer/comm/", "flashinfer_comm_fusion.py", "_flashinfer_allreduce"),
        "--enforce-disable-flashinfer-allreduce-fusion starts without these all-reduces",
    ),
    (("device_communicators/custom_all_reduce",), "--disable-custom-all-reduce leaves all-reduces to NCCL"),
)


def explain(stack: Sequence[Place]) -> str:
    """What a stack, innermost line first, waits for, and what to try; "" where nothing is known of it."""
    wait, function = next(_waits(stack), (None, ""))
    said = [] if wait is None else [wait.what.format(function), wait.hint]
    said += [hint for files, hint in _WITHOUT if any(place.is_in(files) for place in stack)]
    return "; ".join(filter(None, said))


def _waits(stack: Sequence[Place]) -> Iterator[tuple[_Wait, str]]:
    """Every wait that the stack is in, and the function that was called for it, not those that this calls in turn."""
    for number in range(len(stack)):
        for wait in _WAITS:
            inside = itertools.takewhile(lambda place, wait=wait: place.is_in(wait.files), stack[number:])
            functions = [place.function for place in inside if not place.is_in((_LOGGER,))]
            if functions and (not wait.functions or not set(functions).isdisjoint(wait.functions)):
                yield wait, functions[-1]


def _where(stack: Sequence[Place]) -> tuple[Place, ...]:
    """The lines of SGLang's and ours, innermost first; all where there is none. What they call may move."""
    return tuple(place for place in stack if place.is_in(_HOSTS)) or tuple(stack)


class StartWatch:
    """Looks at one thread's start now and then; says it where every look for so many seconds found the same lines."""

    def __init__(self, rank: str, look: Callable[[], Sequence[Place]], seconds: float) -> None:
        self._rank = rank
        self._look = look
        self._seconds = seconds
        self._seen: tuple[Place, ...] = ()
        self._since = self._next = 0.0

    def tick(self, now: float) -> None:
        """One look, at `now` seconds of any clock. A second line comes after twice the time, and so on."""
        stack = self._look()
        seen = _where(stack)
        if seen != self._seen:
            if self._next > self._seconds:
                logger.info("rank %s goes on with its start, after %d s", self._rank, now - self._since)
            self._seen, self._since, self._next = seen, now, self._seconds
        elif now - self._since >= self._next:
            self._next *= 2
            places = " < ".join(map(str, seen[:_TOLD]))
            why = explain(stack) or "nothing is known of it"
            logger.warning(
                "rank %s stands still in its start, for %d s at %s: %s", self._rank, now - self._since, places, why
            )


def stack_of(thread: int) -> list[Place]:
    """The lines that a thread of this process is in now, innermost first."""
    frame, found = sys._current_frames().get(thread), []
    while frame is not None:
        found.append(Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return found


def seconds_of(environment: Any) -> float:
    """Seconds until a start that stands still says so, 0 for never; ValueError for no number."""
    given = environment.get(WATCH_SECONDS, "")
    try:
        seconds = float(given) if given else _SECONDS
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{WATCH_SECONDS}={given}; allowed: seconds, or 0 for no watch")
    return seconds


class Watching:
    """A context in which the thread that enters it is watched from another."""

    def __init__(self, rank: str, seconds: float) -> None:
        thread = threading.get_ident()
        self._watch = StartWatch(rank, lambda: stack_of(thread), seconds)
        self._seconds = seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nemotron-start-watch", daemon=True)

    def __enter__(self) -> None:
        self._arm()
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._seconds / _LOOKS):
            self._watch.tick(time.monotonic())
            self._arm()
        faulthandler.cancel_dump_traceback_later()

    def _arm(self) -> None:
        # a call that keeps Python's lock keeps this thread too: then all stacks are written, by a thread without it
        faulthandler.dump_traceback_later(self._seconds * (1 + 1 / _LOOKS), exit=False)


def _watched(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        seconds = seconds_of(os.environ) if ending.LAUNCHER in os.environ else 0.0
        rank = _rank() if seconds else None
        if rank is None:
            return original(self, *args, **kwargs)
        with Watching(rank, seconds):
            return original(self, *args, **kwargs)

    return init


def _rank() -> str | None:
    """This rank's name among those that it starts with; None if it starts alone."""
    from sglang_nemotron.sglang_api.args import get_parallel

    parallel = get_parallel()
    if parallel.tp_size * parallel.pp_size == 1:
        return None
    return f"TP{parallel.tp_rank} PP{parallel.pp_rank} of {parallel.tp_size} x {parallel.pp_size}"


START = Door(
    "start watch",
    "engine",
    "a start of several ranks that stands still says where",
    needs=(_SCHEDULER,),
    wraps=(Wrap(_SCHEDULER, "Scheduler", "__init__", _watched),),
    without="would wait in silence",
)
