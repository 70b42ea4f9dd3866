"""A launcher that is told to end while it starts, is killed, or loses a process comes in; nothing of it stays.

SGLang leaves SIGTERM as it is until its server answers, so that the launcher dies without a word to its children; and
they ask to die with it only once they are up, without a look at whether it still lives. Here the launcher of one of our
models ends them first, and each of them looks as soon as its plugins load. Other models are untouched.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from sglang_nemotron.host import leftovers
from sglang_nemotron.host.door import Door
from sglang_nemotron.reader.scratch import SHARED, scratch_folders
from sglang_nemotron.sglang_api.wrapping import Wrap, rebind

logger = logging.getLogger(__name__)

# for the processes that a launcher of ours starts: its number
LAUNCHER = "SGLANG_NEMOTRON_LAUNCHER"
# until killed processes are gone: those that held a device's memory take a moment
GONE_SECONDS = 10.0
_SERVER = "sglang.srt.entrypoints.http_server"
_TOKENIZER_MANAGER = "sglang.srt.managers.tokenizer_manager"
# what is run as a server: everything that it starts is SGLang's or ours
_SERVER_COMMAND = "sglang.launch_server"
# in shared memory, of one server: SGLang's, torch's, Python's and joblib's
_SHARED_NAMES = ("sgl_shm_", "sglang_loads_", "multi_tokenizer_args_", "torch_", "psm_", "sem.loky-")
# Python's own handlers; a process in the background of a shell ignores SIGINT, and goes on to
_DEFAULTS = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
# of prctl(2)
_SET_DEATH_SIGNAL, _GET_DEATH_SIGNAL = 1, 2


# ---- the launcher


def watch() -> None:
    """For the launcher of a model of ours, before it starts a process: a signal that ends it ends them too.

    Handlers of somebody else stay. In a program that uses the engine, all do: it may have started other processes, or
    want its KeyboardInterrupt.
    """
    os.environ[LAUNCHER] = str(os.getpid())
    if not is_command() or threading.current_thread() is not threading.main_thread():
        return
    for signum, default in _DEFAULTS.items():
        if signal.getsignal(signum) is default:
            signal.signal(signum, _end)


def is_command() -> bool:
    """Whether this process was started as a server, not a program that uses the engine."""
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    return _SERVER_COMMAND in sys.modules or (main is not None and main.name == _SERVER_COMMAND)


def _end(signum: int, frame: FrameType | None = None) -> None:
    """Ends this process by the signal it got, everything that it started first."""
    # none of this may be begun twice, and a child that dies calls with SIGQUIT
    for other in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(other, signal.SIG_IGN)
    name = signal.Signals(signum).name
    # other threads start processes too
    rebind(subprocess.Popen, "__init__", _start_nothing)
    try:
        count = end_children()
        # a handler may have come in the middle of a line of the log
        os.write(2, f"\n{name} while the server starts: ended, with {count} processes that it had started\n".encode())
    finally:
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)


def _start_nothing(*_: Any, **__: Any) -> None:
    raise OSError("this server ends")


def end_children() -> int:
    """Kills what this process started, and what that started, and removes what all of them shared; how many it killed.

    Trackers of resources stay: they go when those that they track for are gone, and remove what was left.
    """
    files, killed = set(_shared_files([os.getpid()])), 0
    while True:
        children = [child for child in psutil.Process().children(recursive=True) if not _is_tracker(child)]
        # threads may start another while these are killed
        alive = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
        if not alive:
            break
        files |= _shared_files(child.pid for child in alive)
        for child in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        gone, left = psutil.wait_procs(alive, timeout=GONE_SECONDS)
        killed += len(gone)
        if left:
            logger.warning("Killed, but still there: %s", [child.pid for child in left])
            break
    for path in files:
        with contextlib.suppress(OSError):
            path.unlink()
    leftovers.remove()
    return killed


def _is_tracker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return any("resource_tracker import" in word for word in process.cmdline())
    return False


def _shared_files(pids: Iterable[int]) -> set[Path]:
    """Files in shared memory that these processes have open or mapped, or that bear their number."""
    found: set[Path] = set()
    for pid in pids:
        for folder in scratch_folders():
            found.update(folder.glob(f"sgl_shm_*_{pid}_*"))
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
            found.update(Path(line[line.index("/") :]) for line in lines if f"{SHARED}/" in line)
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    found.add(Path(os.readlink(f"/proc/{pid}/fd/{descriptor}")))
    ours = (path for path in found if path.name.startswith(_SHARED_NAMES))
    # a full shared memory sends media elsewhere; of what else lies there, nothing is known
    return {path for path in ours if path.parent == SHARED or path.name.startswith("sgl_shm_")}


# ---- between "the server listens" and "it is ready"


def _is_starting() -> bool:
    """Whether SGLang's first request, its warm-up, is still to be answered."""
    state = getattr(sys.modules.get(_SERVER), "_global_state", None)
    if state is None:
        return True
    # where several processes answer, the manager of the main one is another, without a status
    status = getattr(state.tokenizer_manager, "server_status", None)
    return status == sys.modules[_TOKENIZER_MANAGER].ServerStatus.Starting


def _end_a_start(handle: Callable[..., Any]) -> Callable[..., Any]:
    """Around a handler that lets requests end first: a warm-up may take minutes, and nobody waits for its answer."""

    @functools.wraps(handle)
    def handled(self: Any, *args: Any) -> Any:
        if LAUNCHER in os.environ and _is_starting():
            # of a signal and a frame, if there are any
            _end(args[0] if args and args[0] is not None else signal.SIGTERM)
        return handle(self, *args)

    return handled


# ---- a process of a running server is gone


def _end_with_everything(kill: Callable[..., Any]) -> Callable[..., Any]:
    """Around the function by which SGLang kills its children and then itself, when one of them is gone.

    It removes no file, and kills the tracker of resources that would. The launcher ends as it did: by SIGKILL.
    """

    @functools.wraps(kill)
    def killed(parent_pid: int | None, include_parent: bool = True, *args: Any, **kwargs: Any) -> Any:
        if not (include_parent and parent_pid == os.getpid() and _is_launcher()):
            return kill(parent_pid, include_parent, *args, **kwargs)
        count = end_children()
        os.write(2, f"\nThis server ends by SIGKILL, with {count} processes that it had started\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)

    return killed


# ---- the processes that it starts


def tie_to_launcher() -> None:
    """Lets this process die with the one that started it; ends it at once if that is gone already."""
    started_by = multiprocessing.parent_process()
    assert started_by is not None
    _prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    # asked afterwards: it may have died just before
    if os.getppid() != started_by.pid:
        os.write(2, b"The launcher is gone; this process ends too.\n")
        os._exit(1)


def is_tied() -> bool:
    """Whether this process dies with the one that started it, as far as this system can be asked."""
    if not sys.platform.startswith("linux"):
        return True
    found = ctypes.c_int()
    _prctl(_GET_DEATH_SIGNAL, ctypes.byref(found))
    return found.value == signal.SIGKILL


def _prctl(option: int, value: Any) -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(option, value)


# ---- the door


def _is_launcher() -> bool:
    return os.environ.get(LAUNCHER) == str(os.getpid())


def _is_started_by_ours() -> bool:
    """Whether a launcher of ours, or a process that it started, started this one to do SGLang's work.

    A user's own process is not ours to end, nor one of a user's own HTTP server.
    """
    if LAUNCHER not in os.environ or multiprocessing.parent_process() is None:
        return False
    # what a process that multiprocessing started runs; a partial of functools has no module of its own
    work = str(getattr(getattr(multiprocessing.current_process(), "_target", None), "__module__", ""))
    return work.startswith("sglang.") or (work.startswith("uvicorn.") and _SERVER in sys.modules)


def _answers_http() -> bool:
    if _is_launcher():
        return is_command() and _TOKENIZER_MANAGER in sys.modules
    # of several processes that answer, one; a scheduler may have SGLang's server among its modules too
    work = getattr(multiprocessing.current_process(), "_target", None)
    return _is_started_by_ours() and str(getattr(work, "__module__", "")).startswith("uvicorn.")


def open_ending() -> None:
    """In the processes that a server of ours starts, and nowhere else; may be repeated."""
    if _is_started_by_ours():
        # also where SGLang asked for the signal before: it does not look
        tie_to_launcher()


def ending_is_ours() -> str | None:
    """None if a signal at the start ends everything, or if this is no server of ours."""
    if _is_started_by_ours() and not is_tied():
        return "this process would outlive its launcher"
    watches = _is_launcher() and is_command() and threading.current_thread() is threading.main_thread()
    if watches and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        return "SIGTERM would end the launcher and leave its children"
    return None


ENDING = Door("ending", "http", "nothing left of a start that is ended", opens=open_ending, proof=ending_is_ours)

SIGNALS = Door(
    "signals",
    "http",
    "a start that is ended waits for no warm-up",
    needs=("uvicorn", _TOKENIZER_MANAGER),
    wraps=(
        Wrap("uvicorn", "Server", "handle_exit", _end_a_start, takes=("sig",)),
        Wrap(_TOKENIZER_MANAGER, "SignalHandler", "sigterm_handler", _end_a_start, takes=("signum",)),
    ),
    without="would wait for the first request of a server that is told to end",
    # of another model's server nothing is touched
    wanted=_answers_http,
)

LEFTOVERS = Door(
    "leftovers",
    "http",
    "nothing left of a server that is killed",
    needs=(leftovers.SERVER_ARGS, leftovers.LOADS, _TOKENIZER_MANAGER),
    wraps=(
        leftovers.NOTES,
        Wrap(
            _TOKENIZER_MANAGER,
            "",
            "kill_process_tree",
            _end_with_everything,
            takes=("parent_pid", "include_parent"),
            held_by=(_SERVER, "sglang.srt.managers.multi_tokenizer_mixin"),
        ),
    ),
    proof=leftovers.can_note,
    without="would leave files behind where a process of its server dies",
    wanted=lambda: _is_launcher() and is_command(),
)
