"""Runs `sglang serve` for the commands and the tests: a model comes in, a URL that answers goes out.

Knows SGLang only as a command line, an HTTP port and a log; it never imports it.
"""

from __future__ import annotations

import atexit
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from sglang_nemotron.cli.guard import GRACE_S, Guard

# (what the server is doing, seconds since its start)
Progress = Callable[[str, float], None]

# lines of the log, in the order in which a start meets them, and what the server does from then on
_STAGES = (
    (re.compile(r"server_args="), "starting the scheduler"),
    (re.compile(r"Init parallel begin"), "connecting the ranks"),
    (re.compile(r"Load weight begin"), "loading weights"),
    (re.compile(r"Load weight end"), "allocating caches"),
    (re.compile(r"Memory pool end"), "preparing the engine"),
    (re.compile(r"Capture .*graph begin", re.IGNORECASE), "capturing CUDA graphs"),
    (re.compile(r"Uvicorn running"), "answering a first request"),
)
# where no script lies beside Python: SGLang's module does nothing when it is run as one
_CLI = "import sys; from sglang.cli.main import main; sys.argv[0] = 'sglang'; sys.exit(main())"
# an error of ours, or of a library that was explained, and what to do
_LAST_WORDS = re.compile(r"^(?:\w*Error: |sglang-nemotron: |  reason: )(.+)\n  remedy: .+\s*\Z", re.MULTILINE)
_PORT_TAKEN = "address already in use"
_FIRST_STAGE = "importing SGLang"
_TAIL_LINES = 25
_POLL_S = 0.25
# a quiet stage is reported again this often, so that nobody takes it for a hang
_REMIND_S = 5.0


class ServerFailed(RuntimeError):
    """The server did not become ready; the message ends with the last lines of its log."""

    def __init__(self, reason: str, command: Sequence[str], log_tail: str, returncode: int | None) -> None:
        super().__init__(f"{reason}\ncommand: {' '.join(command)}\nlast lines of its log:\n{log_tail}")
        self.reason = reason
        self.log_tail = log_tail
        self.returncode = returncode


class ServerProcess:
    """One `sglang serve` in a process group of its own; a context manager that starts it and leaves nothing behind.

    The group also ends when this process is killed, by whatever signal: a guard beside it sees to that.
    """

    def __init__(
        self,
        model: Path | str,
        args: Sequence[str] = (),
        *,
        log_path: Path,
        env: Mapping[str, str | None] | None = None,
        port: int | None = None,
        time_limit_s: float = 300.0,
        progress: Progress | None = None,
    ) -> None:
        """Prepares the command; nothing runs before `start`.

        Args:
            model: the checkpoint's folder, or its id of the hub.
            args: flags of `sglang serve`, beside --model-path, --host and --port.
            log_path: file that takes all the server writes; overwritten.
            env: variables to set for the server, or to remove (None).
            port: to listen on; None takes a free one.
            time_limit_s: for becoming ready.
            progress: told what the server does, at every change and every five seconds.
        """
        self.log_path = log_path
        self.port = port or free_port()
        self.command = [*_serve(), "--model-path", str(model), "--host", "127.0.0.1", "--port", str(self.port)]
        self.command += [str(arg) for arg in args]
        self._env = _environment(env or {})
        self._time_limit_s = time_limit_s
        self._progress = progress
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: Guard | None = None
        self.seconds_to_ready = 0.0

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`, without a path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the main process, which leads the group."""
        assert self._process is not None, "the server was not started"
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Of the main process; None while it runs, negative for a signal."""
        return None if self._process is None else self._process.poll()

    def start(self) -> ServerProcess:
        """Starts the server and returns once it answers. Raises ServerFailed, with everything stopped."""
        assert self._process is None, "the server was started before"
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._guard = Guard()
        with open(self.log_path, "wb") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                start_new_session=True,
            )
        self._guard.watch(self.pid)
        # the last resort of a caller that ends without `stop`
        atexit.register(self.stop)
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Ends every process of the group: SIGTERM, then SIGKILL for what is left after `grace_s`. May be repeated."""
        if self._process is None:
            return
        for signum, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
            if not self._signal_group(signum):
                break
            deadline = time.monotonic() + patience_s
            while self.children_alive() and time.monotonic() < deadline:
                self._process.poll()
                time.sleep(0.05)
        self._process.wait(timeout=10)
        if self._guard is not None:
            self._guard.dismiss()
            self._guard = None
        atexit.unregister(self.stop)

    def children_alive(self) -> list[int]:
        """Process ids of the group, main process included, that still run (a zombie does not)."""
        return list(_members(self.pid))

    def log_text(self) -> str:
        """All the server wrote so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self, lines: int = _TAIL_LINES) -> str:
        """The last `lines` lines of the log, each cut to a readable length."""
        return "\n".join(line[:400] for line in self.log_text().splitlines()[-lines:])

    def __enter__(self) -> ServerProcess:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait_ready(self) -> None:
        assert self._process is not None
        began = time.monotonic()
        stage, told = "", 0.0
        while True:
            spent = time.monotonic() - began
            if self._process.poll() is not None:
                ended = f"the server ended with exit code {self._process.returncode} after {spent:.0f} s"
                self._fail(ended + (f": {why}" if (why := last_reason(self.log_text())) else ""))
            log = self.log_text()
            if _PORT_TAKEN in log:
                # SGLang's HTTP server then ends, and the processes around it wait for ever
                self._fail(f"port {self.port} is in use: something else bound it while the server started")
            now = stage_of(log)
            if self._progress is not None and (now != stage or spent - told >= _REMIND_S):
                self._progress(now, spent)
                told = spent
            stage = now
            if _answers(self.url + "/health"):
                self.seconds_to_ready = time.monotonic() - began
                return
            if spent > self._time_limit_s:
                self._fail(f"the server was not ready after {spent:.0f} s; it was {stage}")
            time.sleep(_POLL_S)

    def _fail(self, reason: str) -> None:
        returncode = self.returncode
        # the processes behind the main one may still be writing why
        self.stop(grace_s=2.0)
        raise ServerFailed(reason, self.command, self.log_tail(), returncode)

    def _signal_group(self, signum: int) -> bool:
        """Whether anything was there to signal."""
        if not self.children_alive():
            return False
        try:
            os.killpg(self.pid, signum)
        except ProcessLookupError:
            return False
        return True


def last_reason(log: str) -> str | None:
    """What a server of ours gave as its reason in its last lines, where it ended with a reason and a remedy."""
    found = _LAST_WORDS.search(log)
    return found[1] if found else None


def stage_of(log: str) -> str:
    """What a server with this log is doing, in a few words."""
    stage = _FIRST_STAGE
    for pattern, text in _STAGES:
        if pattern.search(log):
            stage = text
    return stage


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_taken(port: int) -> bool:
    """Whether something listens on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _serve() -> list[str]:
    """The `sglang` of this very Python, whatever PATH says."""
    script = Path(sys.executable).parent / "sglang"
    return [str(script), "serve"] if script.is_file() else [sys.executable, "-c", _CLI, "serve"]


def _environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    # without byte-code files every start compiles SGLang anew, which takes a minute
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for name, value in changes.items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    return env


def _members(group: int) -> Iterator[int]:
    for process in psutil.process_iter(["status"]):
        try:
            if process.info["status"] != psutil.STATUS_ZOMBIE and os.getpgid(process.pid) == group:
                yield process.pid
        except ProcessLookupError:
            continue


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=20) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False
