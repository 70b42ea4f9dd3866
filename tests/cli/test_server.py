"""`ServerProcess` against a stand-in for `sglang serve`: readiness, progress, failure, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sglang_nemotron.cli import server
from sglang_nemotron.cli.server import ServerFailed, ServerProcess, free_port, stage_of

# says what SGLang says, keeps a child that ignores SIGTERM, answers /health; the checkpoint's name chooses what it does
_STAND_IN = """
import http.server, os, signal, subprocess, sys, time
model, port = sys.argv[sys.argv.index("--model-path") + 1], int(sys.argv[sys.argv.index("--port") + 1])
print("server_args={}", flush=True)
child = subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"])
time.sleep(0.5)
print("Load weight begin", flush=True)
if model.endswith("dies"):
    print("\\n".join(f"line {n}" for n in range(100)) + "\\nreason: planted", flush=True)
    sys.exit(3)
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
        tmp_path / "model",
        ["--flag", "7"],
        log_path=tmp_path / "log" / "server.log",
        env={"MINE": "yes", "GONE": None},
        progress=lambda stage, _: told.append(stage),
    )
    with process:
        assert process.url == f"http://127.0.0.1:{process.port}"
        assert process.command[-2:] == ["--flag", "7"]
        assert len(process.children_alive()) == 2 and process.returncode is None
        assert 0.5 < process.seconds_to_ready < 60
        # byte code is written whatever the caller does, and the caller's changes are taken
        assert "BYTECODE None MINE yes" in process.log_text()
        assert "GONE" not in psutil.Process(process.pid).environ()
        began = time.monotonic()
        process.stop(grace_s=1.0)
        assert 0.9 < time.monotonic() - began < 15, "the child that ignores SIGTERM gets its time, then SIGKILL"
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


def test_a_server_that_hangs_is_ended(tmp_path: Path):
    process = ServerProcess(tmp_path / "hangs", log_path=tmp_path / "server.log", time_limit_s=2.0)
    with pytest.raises(ServerFailed, match=r"not ready after \d+ s; it was loading weights"):
        process.start()
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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
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
    said = subprocess.run(asked, capture_output=True, text=True, timeout=300, check=False)
    assert "sglang" in said.stdout.lower(), said
