"""Files of a server that SGLang kills, or that kills itself, go with it; nobody else's do."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from sglang_nemotron.host import ending, leftovers
from sglang_nemotron.reader import arena, worker
from support.children import end_with_parent
from support.waiting import NET_S, eventually

SHARED = Path("/dev/shm")
# a launcher whose handler does what SGLang's does when a child is gone: kills all, then itself
LAUNCHER = """
import dataclasses, multiprocessing.shared_memory, os, subprocess, sys, tempfile, time, types
from sglang_nemotron.host import ending, leftovers

@dataclasses.dataclass
class PortArgs:
    tokenizer_ipc_name: str
    nccl_port: int
    instance_id: str

sys.modules["sglang.launch_server"] = types.ModuleType("sglang.launch_server")
names = types.ModuleType("sglang.srt.managers.load_snapshot")
names.shm_path_for = lambda name: f"/dev/shm/sglang_loads_{name}_1.shm"
common = types.ModuleType("sglang.srt.utils.common")
common.prometheus_multiproc_dir = tempfile.TemporaryDirectory(dir=sys.argv[1])
for module in (names, common):
    sys.modules[module.__name__] = module
ending.watch()
socket = sys.argv[1] + "/socket"
init_new = leftovers.NOTES.around(lambda: PortArgs(f"ipc://{socket}", 1234, f"test{os.getpid()}"))
init_new()
load = f"/dev/shm/sglang_loads_test{os.getpid()}_1.shm"
media = f"/dev/shm/sgl_shm_mm_{os.getpid()}_test"
for path in (socket, load, media, common.prometheus_multiproc_dir.name + "/gauge.db"):
    open(path, "w").close()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(10**6)"])
print(load, media, child.pid, flush=True)
sys.stdin.readline()
if sys.argv[2] == "crash":
    ending._end_with_everything(lambda *_: print("SGLang's own", flush=True))(os.getpid())
child.kill()
os.unlink(media)
"""


@pytest.mark.parametrize("end", ["crash", "return", "SIGKILL"])
def test_nothing_is_left(end: str, tmp_path: Path) -> None:
    """By SGLang's own hand, by an end that takes its time, and from outside: then Python's tracker does what it can."""
    command = [sys.executable, "-c", LAUNCHER, str(tmp_path), end]
    launcher = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=end_with_parent
    )
    assert launcher.stdin is not None and launcher.stdout is not None
    load, media, child = launcher.stdout.readline().split()
    assert Path(load).exists() and Path(media).exists() and len(list(tmp_path.rglob("*"))) == 3
    if end == "SIGKILL":
        launcher.kill()
        os.kill(int(child), signal.SIGKILL)
        Path(media).unlink()
    else:
        launcher.stdin.write("\n")
        launcher.stdin.flush()
    assert launcher.wait(NET_S) == (0 if end == "return" else -signal.SIGKILL)
    assert eventually(lambda: not Path(load).exists())
    assert not Path(media).exists()
    assert launcher.stdout.read() == ""
    assert [path.name for path in tmp_path.rglob("*") if end != "SIGKILL"] == []


@dataclass
class Ports:
    first_ipc_name: str
    other: str
    number: int
    instance_id: str


def test_only_what_was_noted_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_sockets", "_loads"):
        monkeypatch.setattr(leftovers, name, set())
    monkeypatch.setattr(leftovers, "_COMMON", "no.such.module")
    importlib.import_module(leftovers.LOADS)
    ours, other, remote = (tmp_path / name for name in ("ours", "other", "remote"))
    for path in (ours, other, remote):
        path.touch()
    leftovers.note(Ports(f"ipc://{ours}", str(other), 7, "leftovers_test"))
    leftovers.note(Ports("tcp://127.0.0.1:7", f"tcp://{remote}", 7, "leftovers_test"))
    leftovers.remove()
    assert not ours.exists() and other.exists() and remote.exists()
    # again, and with nothing there
    leftovers.remove()


def test_other_launchers_and_other_processes_are_killed_as_sglang_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[object, ...]] = []
    ours = ending._end_with_everything(lambda *args, **kwargs: told.append((args, kwargs)))
    monkeypatch.setattr(ending, "end_children", lambda: pytest.fail("ended what is not ours"))
    monkeypatch.setenv(ending.LAUNCHER, str(os.getpid()))
    ours(1234)
    ours(os.getpid(), include_parent=False, wait_timeout=NET_S)
    ours(None)
    monkeypatch.delenv(ending.LAUNCHER)
    ours(os.getpid())
    assert [args[0] for args, _ in told] == [1234, os.getpid(), None, os.getpid()]
    assert told[1] == ((os.getpid(), False), {"wait_timeout": NET_S})


def test_a_worker_removes_media_of_a_server_that_is_gone_and_of_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arena, "scratch_folders", lambda: (tmp_path / "a", tmp_path / "b"))
    monkeypatch.setattr(worker, "_LAST_LOOKS", 2)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for name in ("sgl_shm_mm_7_one", "sgl_shm_mm_77_two"):
            (tmp_path / folder / name).touch()
    # the server lives, and closed its socket
    worker._clear_if_orphaned(os.getppid(), "sgl_shm_mm_7_")
    assert len(list(tmp_path.glob("?/*"))) == 4
    # another process is the parent now
    worker._clear_if_orphaned(os.getppid() + 1, "sgl_shm_mm_7_")
    assert [path.name for path in tmp_path.glob("?/*")] == ["sgl_shm_mm_77_two"] * 2


def test_a_name_that_is_gone_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(leftovers.LOADS)
    assert ending.LEFTOVERS.proof() is None
    monkeypatch.delattr(module, "shm_path_for")
    assert "has no shm_path_for" in str(ending.LEFTOVERS.proof())
