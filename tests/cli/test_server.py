"""`ServerProcess` against a stand-in for `sglang serve`: readiness, progress, failure, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from sglang_nemotron.cli import server
from sglang_nemotron.cli.console import two_lines
from sglang_nemotron.cli.guard import Guard
from sglang_nemotron.cli.server import ServerFailed, ServerProcess, free_port, last_reason, stage_of
from support.children import end_with_parent
from support.waiting import NET_S, at_least, eventually

# says what SGLang says, keeps a child, answers /health; the checkpoint's name chooses what it does. A stubborn one's
# child ignores SIGTERM, as a process of SGLang may that is busy importing
_STAND_IN = """
import http.server, os, signal, subprocess, sys, time
model, port = sys.argv[sys.argv.index("--model-path") + 1], int(sys.argv[sys.argv.index("--port") + 1])
print("server_args={}", flush=True)
ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN); " if model.endswith("stubborn") else ""
child = subprocess.Popen([sys.executable, "-c", f"import signal, time; {ignore}time.sleep(600)"])
time.sleep(0.5)
print("Load weight begin", flush=True)
if model.endswith("dies"):
    print("\\n".join(f"line {n}" for n in range(100)) + "\\nreason: planted", flush=True)
    sys.exit(3)
if model.endswith("refuses"):
    print("\\nsglang-nemotron: the hub knows no model a/b\\n  remedy: look at its spelling", flush=True)
    sys.exit(1)
if model.endswith("taken"):
    print("ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 1): address already in use")
    sys.stdout.flush()
if model.endswith(("hangs", "taken")):
    time.sleep(600)
print("BYTECODE", os.environ.get("PYTHONDONTWRITEBYTECODE"), "MINE", os.environ.get("MINE"), flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    count = 0
    def do_GET(self):
        Handler.count += 1
        self.send_response(200 if Handler.count > 2 else 503)
        self.end_headers()
print("Uvicorn running", flush=True)
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture(autouse=True)
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "stand_in.py"
    script.write_text(_STAND_IN)
    monkeypatch.setattr(server, "_serve", lambda: [sys.executable, str(script)])


def _group(leader: int) -> list[int]:
    return [p.pid for p in psutil.process_iter(["status"]) if _in_group(p, leader)]


def _in_group(process: psutil.Process, leader: int) -> bool:
    try:
        return os.getpgid(process.pid) == leader and process.info["status"] != psutil.STATUS_ZOMBIE
    except ProcessLookupError:
        return False


def test_starts_tells_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("GONE", "1")
    told: list[str] = []
    process = ServerProcess(
        tmp_path / "stubborn",
        ["--flag", "7"],
        log_path=tmp_path / "log" / "server.log",
        env={"MINE": "yes", "GONE": None},
        progress=lambda stage, _: told.append(stage),
    )
    with process:
        assert process.url == f"http://127.0.0.1:{process.port}"
        assert process.command[-2:] == ["--flag", "7"]
        assert len(process.children_alive()) == 2 and process.returncode is None
        # the stand-in rests for half a second before it loads
        assert process.seconds_to_ready > 0.5
        # byte code is written whatever the caller does, and the caller's changes are taken
        assert "BYTECODE None MINE yes" in process.log_text()
        assert "GONE" not in psutil.Process(process.pid).environ()
        # the child that ignores SIGTERM gets its time, then SIGKILL
        with at_least(0.9):
            process.stop(grace_s=1.0)
    assert _group(process.pid) == [] and process.returncode is not None
    assert told[0] == "importing SGLang" and told[-1] == "answering a first request"
    process.stop()


def test_a_server_that_dies_says_why(tmp_path: Path):
    process = ServerProcess(tmp_path / "dies", log_path=tmp_path / "server.log")
    with pytest.raises(ServerFailed) as failed:
        process.start()
    message = str(failed.value)
    assert "ended with exit code 3" in message and message.endswith("reason: planted")
    assert "--model-path" in message and failed.value.returncode == 3
    assert failed.value.log_tail.splitlines()[0] == "line 76" and len(failed.value.log_tail.splitlines()) == 25
    # its child outlived it
    assert _group(process.pid) == []


def test_what_a_server_said_last_is_the_reason(tmp_path: Path):
    process = ServerProcess(tmp_path / "refuses", log_path=tmp_path / "server.log")
    with pytest.raises(ServerFailed, match="the server ended with exit code 1") as failed:
        process.start()
    assert failed.value.reason.endswith(" s: the hub knows no model a/b")
    # a command's last two lines then have both
    reason, remedy = two_lines("x", failed.value, "look at the log").splitlines()[-2:]
    assert reason.startswith("x: the server ended") and remedy == "  remedy: look at its spelling"
    assert last_reason("ValueError: a\n  remedy: b\n") == "a" and last_reason("  reason: a\n  remedy: b") == "a"
    assert last_reason("ValueError: a\n  remedy: b\nbye\n") is None and last_reason("ValueError: a\n") is None


def test_a_server_that_hangs_is_ended(tmp_path: Path):
    told: list[str] = []
    process = ServerProcess(
        tmp_path / "hangs",
        log_path=tmp_path / "server.log",
        time_limit_s=2.0,
        progress=lambda stage, _: told.append(stage),
    )
    with pytest.raises(ServerFailed, match=r"not ready after \d+ s; it was (.*)") as failed:
        process.start()
    assert failed.value.reason.endswith(f"; it was {told[-1]}")
    assert _group(process.pid) == []


def test_a_port_that_was_taken_meanwhile_is_named(tmp_path: Path):
    process = ServerProcess(tmp_path / "taken", log_path=tmp_path / "server.log")
    with pytest.raises(ServerFailed, match=f"port {process.port} is in use"):
        process.start()
    assert _group(process.pid) == []


def test_an_interrupt_while_it_starts_leaves_nothing(tmp_path: Path):
    def interrupt(stage: str, _: float) -> None:
        if stage == "loading weights":
            raise KeyboardInterrupt

    process = ServerProcess(tmp_path / "hangs", log_path=tmp_path / "server.log", progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        process.start()
    assert _group(process.pid) == []


def test_a_caller_that_forgets_leaves_nothing(tmp_path: Path):
    """The end of the interpreter ends the server too."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom sglang_nemotron.cli import server\n"
        f"server._serve = lambda: [sys.executable, {str(tmp_path / 'stand_in.py')!r}]\n"
        f"process = server.ServerProcess(Path('model'), log_path=Path({str(tmp_path / 'log')!r})).start()\n"
        "print(process.pid)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=NET_S, check=True)
    assert _group(int(done.stdout)) == []


def test_ports_are_free_and_differ():
    assert len({free_port() for _ in range(5)}) > 1


@pytest.mark.parametrize(
    ("log", "stage"),
    [
        ("", "importing SGLang"),
        ("x\nserver_args={'a': 1}\n", "starting the scheduler"),
        ("server_args=\nInit parallel begin.\nLoad weight begin. avail\n", "loading weights"),
        ("Load weight begin\nLoad weight end. elapsed\n", "allocating caches"),
        ("Load weight end\nMemory pool end.\nCapture decode CUDA graph begin.\n", "capturing CUDA graphs"),
        ("Uvicorn running on http://", "answering a first request"),
    ],
)
def test_stages(log: str, stage: str):
    assert stage_of(log) == stage


def test_serves_without_a_script_beside_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    python = sys.executable
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    _, *rest = server._serve()
    # a version is the quickest answer that only SGLang's own command line gives
    asked = [python, *rest[:-1], "version"]
    said = subprocess.run(asked, capture_output=True, text=True, timeout=NET_S, check=False)
    assert "sglang" in said.stdout.lower(), said


_TEST_RUN = """
import sys
from pathlib import Path
from sglang_nemotron.cli import server
from sglang_nemotron.cli.guard import Guard

server._serve = lambda: [sys.executable, {script!r}]

def test_that_takes_long(tmp_path):
    import time
    with server.ServerProcess(Path({model!r}), log_path=Path({folder!r}) / "log") as process:
        (Path({folder!r}) / "pid.new").write_text(str(process.pid))
        (Path({folder!r}) / "pid.new").rename(Path({folder!r}) / "pid")
        try:
            time.sleep(3600)
        finally:
            # the first ctrl-C ends the test, the second this
            (Path({folder!r}) / "leaving").touch()
            time.sleep(3600)
"""


@pytest.mark.parametrize(
    ("signals", "model"),
    [
        ([signal.SIGTERM], "model"),
        ([signal.SIGKILL], "model"),
        ([signal.SIGKILL], "stubborn"),
        pytest.param([signal.SIGINT, signal.SIGINT], "model", marks=pytest.mark.matrix),
    ],
)
def test_a_test_run_that_is_killed_leaves_no_server(signals: list[signal.Signals], model: str, tmp_path: Path):
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    file = run_folder / "test_long.py"
    file.write_text(_TEST_RUN.format(script=str(tmp_path / "stand_in.py"), model=model, folder=str(run_folder)))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(run_folder), str(file)]
    run = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=end_with_parent,
    )
    try:
        assert eventually((run_folder / "pid").exists)
        leader = int((run_folder / "pid").read_text())
        assert len(_group(leader)) == 2
        run.send_signal(signals[0])
        for number in signals[1:]:
            assert eventually((run_folder / "leaving").exists)
            run.send_signal(number)
        run.communicate(timeout=NET_S)
    finally:
        run.kill()
    assert run.returncode != 0
    assert eventually(lambda: _group(leader) == [])


def test_a_guard_that_is_dismissed_signals_nobody():
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    guard = Guard()
    guard.watch(other.pid)
    guard.dismiss()
    assert other.poll() is None
    other.communicate(b"\n", timeout=NET_S)
    assert other.returncode == 0
