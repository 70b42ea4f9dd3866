"""A launcher that gets a signal in the middle of its start, or is killed: nothing that it started outlives it.

Moments are lines of the log, and processes that are there; what must be quick is shown by the order of events.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from e2e.test_death import is_free
from sglang_nemotron.checkpoint.spec import OMNI_PRESETS, PRESETS, CheckpointSpec
from sglang_nemotron.cli.server import ServerProcess
from sglang_nemotron.host.ending import _shared_files
from support.children import end_with_parent
from support.serving import Servers
from support.waiting import NET_S, eventually

TEXT, OMNI = PRESETS["tiny"], OMNI_PRESETS["tiny"]


class Start:
    """One start of a server, not waited for."""

    def __init__(self, servers: Servers, spec: CheckpointSpec, *args: str) -> None:
        plan = ServerProcess(servers.checkpoint(spec), [*args, "--dtype", "float32"], log_path=servers.log_path())
        self.log_path, self.port = plan.log_path, plan.port
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                plan.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def group(self) -> list[psutil.Process]:
        """All of its processes that run, itself included; those that multiprocessing starts stay in its session."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (OSError, psutil.NoSuchProcess):
                continue
        return found

    def children(self, word: str) -> list[psutil.Process]:
        others = (process for process in self.group() if process.pid != self.process.pid)
        return [process for process in others if word in _command(process)]

    def reached(self, holds: Callable[[Start], bool]) -> None:
        assert eventually(lambda: holds(self) or self.process.poll() is not None), self.log()[-3000:]
        assert self.process.poll() is None, f"the server ended by itself:\n{self.log()[-3000:]}"


@pytest.fixture
def begin(servers: Servers) -> Iterator[Callable[..., Start]]:
    started: list[Start] = []

    def start(spec: CheckpointSpec, *args: str) -> Start:
        started.append(Start(servers, spec, *args))
        return started[-1]

    yield start
    for left in started:
        for process in left.group():
            process.kill()
        left.process.wait(NET_S)


def says(pattern: str) -> Callable[[Start], bool]:
    return lambda start: re.search(pattern, start.log()) is not None


def imports(start: Start) -> bool:
    """Scheduler and detokenizer are there, and have not said a word."""
    return len(start.children("spawn_main")) >= 2


def reads_media(start: Start) -> bool:
    return len(start.children("reader.worker")) >= 1


# from the first line on that a launcher of ours writes, to the warm-up that SGLang would wait for
MOMENTS = {
    "arguments": (TEXT, (), says("server_args=")),
    "imports": (TEXT, (), imports),
    "scheduler": (TEXT, (), says("Load weight begin")),
    "pools": (TEXT, (), says("Memory pool end")),
    "two ranks": (TEXT, ("--tp", "2"), says("Init torch distributed ends|Load weight begin")),
    "media workers": (OMNI, (), reads_media),
    "listening": (TEXT, (), says("Uvicorn running")),
}


def _command(process: psutil.Process) -> str:
    """Empty for a process that is past its end, whose memory is gone already."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def assert_nothing_is_left(start: Start, files: set[Path]) -> None:
    left = [command for command in map(_command, start.group()) if command and "resource_tracker" not in command]
    assert not left, left
    # trackers of resources remove what was left, and go
    assert eventually(lambda: not start.group()), start.group()
    assert is_free(start.port)
    assert not [path for path in files if path.exists()]


def end(start: Start, signum: signal.Signals) -> None:
    pids = [process.pid for process in start.group()]
    files = _shared_files(pids)
    os.kill(start.process.pid, signum)
    assert start.process.wait(NET_S) == -signum, start.log()[-3000:]
    # it is the last to go: nothing is waited for here
    assert_nothing_is_left(start, files | _shared_files(pids))


@pytest.mark.matrix
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_at_any_moment_of_the_start_ends_everything(
    moment: str, signum: signal.Signals, begin: Callable[..., Start]
) -> None:
    spec, args, holds = MOMENTS[moment]
    start = begin(spec, *args)
    start.reached(holds)
    end(start, signum)
    assert "ready to roll" not in start.log()


@pytest.mark.matrix
@pytest.mark.parametrize("moment", ["imports", "scheduler", "media workers"])
def test_a_launcher_that_is_killed_leaves_nothing_that_loads(moment: str, begin: Callable[..., Start]) -> None:
    """What imports looks for its launcher when it is done, before it loads a model; what loads dies with it."""
    spec, args, holds = MOMENTS[moment]
    start = begin(spec, *args)
    start.reached(holds)
    loads = "Load weight begin" in start.log()
    start.process.kill()
    start.process.wait(NET_S)
    assert eventually(lambda: not start.group()), [_command(process) for process in start.group()]
    assert is_free(start.port)
    assert loads or "Load weight begin" not in start.log()
