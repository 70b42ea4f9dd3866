"""What a launcher started ends before it does, by a signal at any moment; what it leaves to others stays theirs."""

from __future__ import annotations

import inspect
import multiprocessing
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sglang.srt.managers.tokenizer_manager import SignalHandler

from sglang_nemotron.host import ending
from support.children import end_with_parent
from support.waiting import NET_S, eventually

SHARED = Path("/dev/shm")
# a launcher: as SGLang's command or not; it has a child, a grandchild, a tracker of resources, and shared memory
LAUNCHER = """
import multiprocessing.shared_memory, os, subprocess, sys, time, types
from sglang_nemotron.host import ending
if "command" in sys.argv:
    sys.modules["sglang.launch_server"] = types.ModuleType("sglang.launch_server")
before = dict.fromkeys(sys.argv)
if "handler" in before:
    import signal
    signal.signal(signal.SIGTERM, lambda *_: (print("mine", flush=True), os._exit(3)))
ending.watch()
shared = multiprocessing.shared_memory.SharedMemory(create=True, size=100)
open(f"/dev/shm/sgl_shm_mm_{os.getpid()}_test", "w").close()
nest = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(10**6)']); "
nest += "print('up', flush=True); time.sleep(10**6)"
child = subprocess.Popen([sys.executable, "-c", nest], stdout=subprocess.PIPE)
child.stdout.readline()
try:
    print(shared.name, flush=True)
    while True:
        time.sleep(1000)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    ending.end_children()
"""


@pytest.fixture
def launch() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    begun = []

    def start(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, *words]
        begun.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=end_with_parent))
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def _left(pids: list[int]) -> list[int]:
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_what_the_launcher_started_and_then_the_launcher(
    signum: signal.Signals, launch: Callable[..., subprocess.Popen[str]]
) -> None:
    launcher = launch("-c", LAUNCHER, "command")
    shared = SHARED / launcher.stdout.readline().strip()
    others = psutil.Process(launcher.pid).children(recursive=True)
    trackers = [process.pid for process in others if "resource_tracker" in " ".join(process.cmdline())]
    children = [process.pid for process in others if process.pid not in trackers]
    assert len(children) == 2 and len(trackers) == 1 and shared.exists()
    launcher.send_signal(signum)
    assert launcher.wait(NET_S) == -signum
    # nothing is waited for: the launcher goes last
    assert not _left(children)
    assert not shared.exists() and not (SHARED / f"sgl_shm_mm_{launcher.pid}_test").exists()
    assert eventually(lambda: not _left(trackers))


def test_a_program_that_uses_the_engine_keeps_its_signals(launch: Callable[..., subprocess.Popen[str]]) -> None:
    """It may want its KeyboardInterrupt, and have started processes that are to outlive it."""
    launcher = launch("-c", LAUNCHER)
    launcher.stdout.readline()
    launcher.send_signal(signal.SIGINT)
    assert launcher.communicate(timeout=NET_S)[0] == "interrupted\n" and launcher.returncode == 0
    launcher = launch("-c", LAUNCHER)
    launcher.stdout.readline()
    others = psutil.Process(launcher.pid).children(recursive=True)
    children = [process.pid for process in others if "resource_tracker" not in " ".join(process.cmdline())]
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(NET_S) == -signal.SIGTERM
    assert len(_left(children)) == 2
    for pid in children:
        psutil.Process(pid).kill()
    (SHARED / f"sgl_shm_mm_{launcher.pid}_test").unlink()


def test_a_handler_of_somebody_else_stays(launch: Callable[..., subprocess.Popen[str]]) -> None:
    launcher = launch("-c", LAUNCHER, "handler", "command")
    launcher.stdout.readline()
    children = [process.pid for process in psutil.Process(launcher.pid).children(recursive=True)]
    launcher.send_signal(signal.SIGTERM)
    assert launcher.communicate(timeout=NET_S)[0] == "mine\n" and launcher.returncode == 3
    for pid in _left(children):
        psutil.Process(pid).kill()
    (SHARED / f"sgl_shm_mm_{launcher.pid}_test").unlink()


# a launcher whose child has not looked for it yet, or has
ORPHAN = """
import multiprocessing, os, sys, time
from sglang_nemotron.host import ending

def work(late):
    if not late:
        ending.tie_to_launcher()
    print(os.getpid(), flush=True)
    while late and os.getppid() == multiprocessing.parent_process().pid:
        time.sleep(0.01)
    if late:
        ending.tie_to_launcher()
        print("survived", flush=True)
    time.sleep(10**6)

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    child = multiprocessing.Process(target=work, args=(sys.argv[1] == "late",))
    child.start()
    time.sleep(10**6)
"""


@pytest.mark.parametrize("when", ["early", "late"])
def test_a_process_whose_launcher_is_killed_ends(
    when: str, tmp_path: Path, launch: Callable[..., subprocess.Popen[str]]
) -> None:
    """Also one that only looks when it is long gone."""
    program = tmp_path / "orphan.py"
    program.write_text(ORPHAN)
    launcher = launch(str(program), when)
    pid = int(launcher.stdout.readline())
    launcher.kill()
    launcher.wait(NET_S)
    assert eventually(lambda: not _left([pid]))
    # the pipe closes with the last of them
    assert launcher.stdout.read() == ""


# ---- whom it concerns


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes this process look like one that multiprocessing started to do such work."""

    def make(module: str) -> None:
        work = types.SimpleNamespace(_target=types.SimpleNamespace(__module__=module))
        monkeypatch.setattr(multiprocessing, "current_process", lambda: work)
        monkeypatch.setattr(multiprocessing, "parent_process", lambda: types.SimpleNamespace(pid=os.getppid()))

    return make


@pytest.mark.parametrize(
    ("module", "launcher", "tied"),
    [
        ("sglang.srt.managers.scheduler", "17", True),
        # a program of the user's, a server of the user's, another model's server, and no child at all
        ("my_program", "17", False),
        ("uvicorn._subprocess", "17", False),
        ("sglang.srt.managers.scheduler", None, False),
        (None, "17", False),
    ],
)
def test_only_processes_of_a_server_of_ours_are_tied(
    module: str | None, launcher: str | None, tied: bool, child: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[bool] = []
    monkeypatch.delitem(sys.modules, ending._SERVER, raising=False)
    monkeypatch.setattr(ending, "tie_to_launcher", lambda: done.append(True))
    monkeypatch.setattr(ending, "is_tied", lambda: False)
    # a test that ran a start in this process may have left one
    monkeypatch.delenv(ending.LAUNCHER, raising=False)
    if launcher is not None:
        monkeypatch.setenv(ending.LAUNCHER, launcher)
    if module is not None:
        child(module)
    ending.open_ending()
    assert bool(done) == tied
    assert (ending.ending_is_ours() is None) != tied
    # a detokenizer of SGLang's has asked for the signal by now, and has not looked
    monkeypatch.setattr(ending, "is_tied", lambda: True)
    ending.open_ending()
    assert len(done) == 2 * tied and ending.ending_is_ours() is None


def test_a_process_that_answers_http_for_a_server_of_ours_is_tied(
    child: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of several; only then are a server's handlers ours too."""
    wrapped: list[object] = []
    monkeypatch.delitem(sys.modules, ending._SERVER, raising=False)
    monkeypatch.setattr(ending, "tie_to_launcher", lambda: wrapped.append("tied"))
    monkeypatch.setenv(ending.LAUNCHER, "17")
    child("uvicorn._subprocess")
    ending.open_ending()
    assert wrapped == [] and not ending.SIGNALS.wanted()
    monkeypatch.setitem(sys.modules, ending._SERVER, types.ModuleType(ending._SERVER))
    ending.open_ending()
    assert wrapped == ["tied"] and ending.SIGNALS.wanted()


def test_elsewhere_no_handler_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ending.LAUNCHER, raising=False)
    before = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)]
    ending.open_ending()
    assert [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)] == before
    assert not ending.SIGNALS.wanted()
    assert ending.ending_is_ours() is None


# ---- a warm-up is not waited for


@pytest.mark.parametrize(("status", "ends"), [("Starting", True), ("Up", False), ("UnHealthy", False), (None, True)])
def test_a_start_ends_where_a_server_would_wait(
    status: str | None, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sglang.srt.managers.tokenizer_manager import ServerStatus

    told: list[tuple[str, int | None]] = []
    manager = types.SimpleNamespace(server_status=status and ServerStatus[status], gracefully_exit=False)
    state = types.SimpleNamespace(tokenizer_manager=manager) if status else None
    monkeypatch.setitem(sys.modules, ending._SERVER, types.SimpleNamespace(_global_state=state))
    monkeypatch.setenv(ending.LAUNCHER, str(os.getpid()))
    monkeypatch.setattr(ending, "_end", lambda signum: told.append(("ended", signum)))
    import uvicorn

    for wrap in ending.SIGNALS.wraps:
        (owner,) = wrap.places()
        monkeypatch.setattr(owner, wrap.name, wrap.around(inspect.unwrap(getattr(owner, wrap.name))))
    handler: Any = SignalHandler(manager)
    handler.sigterm_handler()
    server = uvicorn.Server(uvicorn.Config("nothing:app"))
    server.handle_exit(signal.SIGINT, None)
    assert told == ([("ended", signal.SIGTERM), ("ended", signal.SIGINT)] if ends else [])
    # and SGLang's own goes on where nothing was ended
    assert manager.gracefully_exit and server.should_exit
