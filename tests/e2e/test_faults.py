"""A fault under load, one at a time: each process killed, folders full, no file handles left, nobody reading the log.

The server ends, or goes on, as docs/reliability.md says; open requests end; what it leaves is nothing, or what that
page names; and the same command serves again, with the same answers.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import openai
import psutil
import pytest

from e2e.test_death import generate, is_free
from sglang_nemotron.checkpoint.spec import OMNI_PRESETS
from sglang_nemotron.cli.server import ServerFailed, ServerProcess
from sglang_nemotron.parity.client import Client
from support.children import run
from support.omni_media import photo
from support.omni_requests import Said, Wish, _role, difference, part, tell, text
from support.places import within
from support.serving import Servers, post, running
from support.waiting import NET_S, eventually

SPEC = OMNI_PRESETS["toy"]
SHARED = Path("/dev/shm")
FLAGS = ("--dtype", "float32")
IDS = [1001, 1002, 1003]
CHAT = "/v1/chat/completions"


# ---- a server whose files can be told from others'


class Watched(ServerProcess):
    """Its temporary files lie in a folder of its own."""

    def __init__(self, servers: Servers, folder: Path, *args: str, port: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.temporary = folder
        # of servers long gone, whose numbers may come again
        self._older = set(SHARED.iterdir())
        super().__init__(
            servers.checkpoint(SPEC),
            [*FLAGS, *args],
            log_path=servers.log_path(),
            env={"TMPDIR": str(folder), "OMP_WAIT_POLICY": "PASSIVE"},
            port=port,
            time_limit_s=NET_S,
        )

    def process(self, role: str) -> psutil.Process:
        if role == "http":
            return psutil.Process(self.pid)
        found = [process for pid in self.children_alive() if _role(process := psutil.Process(pid)) == role]
        return found[0]

    def shared(self) -> set[Path]:
        """Files in shared memory that its processes have, or that bear their numbers."""
        found: set[Path] = set()
        for pid in self.children_alive():
            found |= {path for path in SHARED.iterdir() if re.search(rf"[_-]{pid}[_-]", path.name)}
            with suppress(OSError):
                lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
                found |= {Path(line[73:]) for line in lines if f"{SHARED}/" in line and "(deleted)" not in line}
        return found - self._older

    def is_gone(self) -> bool:
        return self.returncode is not None and not self.children_alive() and is_free(self.port)

    def left(self, shared: set[Path]) -> list[str]:
        """What stays of it: files in shared memory, temporary files that hold anything, and sockets."""
        there = [str(path) for path in shared if path.exists()]
        there += [str(path) for path in SHARED.glob(f"sgl_shm_*_{self.pid}_*")]
        for path in self.temporary.rglob("*"):
            if path.is_socket() or (path.is_file() and path.stat().st_size):
                there.append(str(path.relative_to(self.temporary)))
        return there


class Open(threading.Thread):
    """A request of thousands of tokens. ended: what its client saw in the end."""

    def __init__(self, url: str, *, stream: bool) -> None:
        super().__init__(daemon=True)
        params = {"temperature": 0, "max_new_tokens": 20_000, "ignore_eos": True}
        body = {"input_ids": IDS, "stream": stream, "sampling_params": params}
        head = {"Content-Type": "application/json"}
        self._request = urllib.request.Request(f"{url}/generate", json.dumps(body).encode(), head)
        self.ended, self.last, self._leaves = "", b"", False
        self.start()

    def run(self) -> None:
        try:
            with urllib.request.urlopen(self._request, timeout=NET_S) as reply:
                for line in reply:
                    self.last = line.strip() or self.last
                    if self._leaves:
                        return
            # a client of a stream looks for the last line; without it the answer is not whole
            self.ended = "whole" if self.last == b"data: [DONE]" else "cut"
        except urllib.error.HTTPError as error:
            self.ended = f"status {error.code}"
        except OSError as error:
            self.ended = type(error).__name__

    def hang_up(self) -> None:
        """Of a stream that goes on."""
        self._leaves = True
        self.join(NET_S)


@contextmanager
def under_load(server: ServerProcess) -> Iterator[list[Open]]:
    """Streams and whole answers that run while the block does its worst, and an image that was answered before."""
    message = [{"role": "user", "content": [part("image", photo(60, 40, seed=1), "png"), text("?")]}]
    assert tell(server.url, Wish(message)) is not None
    asked = [Open(server.url, stream=stream) for stream in (True, False, True, False)]
    assert eventually(lambda: running(server.url) == len(asked)), running(server.url)
    assert eventually(lambda: all(one.last for one in asked[::2])), "no stream has begun"
    yield asked


# ---- a process is killed


@pytest.mark.server
@pytest.mark.matrix
@pytest.mark.parametrize("role", ["scheduler", "detokenizer", "http"])
def test_a_process_is_killed_under_load(role: str, servers: Servers, tmp_path: Path) -> None:
    server = Watched(servers, tmp_path / "temporary", "--enable-metrics")
    with server:
        before = generate(server.url, IDS, 8)
        shared = server.shared()
        assert shared, "the test looks in the wrong place"
        with under_load(server) as asked:
            server.process(role).kill()
            # every open request ends, and none of them as if it were whole
            for one in asked:
                one.join(NET_S)
        assert [one.is_alive() for one in asked] == [False] * len(asked)
        assert {one.ended for one in asked[::2]} == {"cut"}, [one.ended for one in asked]
        assert {one.ended for one in asked[1::2]} <= {"RemoteDisconnected", "ConnectionResetError"}
        assert eventually(server.is_gone), server.children_alive()
        # SGLang ends itself by SIGKILL; a shell and Docker call that 137
        assert server.returncode == -signal.SIGKILL
        if role != "http":
            assert f"Subprocess {role}" in server.log_text() and "crashed with exit code -9" in server.log_text()
            assert eventually(lambda: server.left(shared) == []), server.left(shared)
        else:
            # nobody is left to remove temporary files: they are named in docs/reliability.md, and are small
            assert eventually(lambda: not [name for name in server.left(shared) if name.startswith("/dev")])
            names = server.left(shared)
            assert all(re.fullmatch(r"tmp\w+|tmp\w+/\w+\.db", name) for name in names), names
    # as a supervisor does it: the same command, the same port
    again = Watched(servers, tmp_path / "again", port=server.port)
    with again:
        assert generate(again.url, IDS, 8) == before


# ---- places are full, and handles are gone


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Not a byte is left there."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass
    try:
        yield
    finally:
        filler.unlink()


def picture(seed: int) -> Wish:
    return Wish([{"role": "user", "content": [part("image", photo(300, 200, seed=seed), "png"), text("?")]}])


def answers(server: ServerProcess, wish: Wish, before: list[Said] | None) -> None:
    """It is served, and as before."""
    said = tell(server.url, wish)
    assert said is not None and before is not None and difference(wish, said, before[0]) == (None, False)


@pytest.mark.server
@pytest.mark.matrix
def test_full_folders_and_no_handles(servers: Servers, tmp_path: Path) -> None:
    """One server, in a namespace of its own: full shared memory, full temporary files, both, no handles."""
    server = Watched(servers, tmp_path / "temporary")
    server.command = [*within(SHARED, "size=200m"), *within(server.temporary, "size=50m"), *server.command]
    with server:
        root = Path(f"/proc/{server.pid}/root")
        shared, temporary = root / "dev" / "shm", root / server.temporary.relative_to("/")
        assert shared.stat().st_dev != SHARED.stat().st_dev, "the test would fill the machine's shared memory"
        before = generate(server.url, IDS, 8)
        # others, so that no cache has them
        seen = [tell(server.url, picture(seed)) for seed in range(4)]
        Client(server.url).flush()
        for full, seed in ((shared, 0), (temporary, 1)):
            with filled(full):
                assert generate(server.url, IDS, 8) == before
                # what goes through memory goes through files instead, and the other way round
                answers(server, picture(seed), seen[seed])
        with filled(shared), filled(temporary):
            status, said = post(server.url, CHAT, body(picture(50)))
            assert 400 <= status < 600 and "No space left" in said, (status, said)
            # of others nobody notices anything
            assert generate(server.url, IDS, 8) == before
        for seed in range(4):
            answers(server, picture(seed), seen[seed])
        no_handles(server, before)
        answers(server, picture(2), seen[2])
        assert [path.name for path in shared.glob("sgl_shm_mm_*")] == []
        assert server.returncode is None


# a process that counts, as SGLang's do: many rows of a metric that has a label
_COUNTS = """
import os, sys
os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[1]
import prometheus_client
rows = prometheus_client.Counter("rows_total", "Rows.", ["name"])
rows.labels("first").inc()
with open(sys.argv[1] + "/filler", "wb", buffering=0) as filler:
    try:
        while filler.write(bytes(1 << 12)):
            pass
    except OSError:
        print("full", flush=True)
for number in range(3000):
    rows.labels(str(number) * 9).inc()
print("all are there", flush=True)
"""


def test_metrics_end_their_process_where_their_folder_is_full(tmp_path: Path) -> None:
    """A limit of prometheus_client's: its files are mapped before the disk has given them room. Fails once it is gone.

    The test beside this one is without metrics for that reason.
    """
    folder = tmp_path / "metrics"
    ended = run([*within(folder, "size=2m"), sys.executable, "-c", _COUNTS, folder])
    assert (ended.stdout, ended.returncode) == ("full\n", -signal.SIGBUS), ended.stderr


def no_handles(server: Watched, before: list[int]) -> None:
    """Streams go on; who comes then waits, or is turned away; once there are handles again all is as it was."""
    stream = Open(server.url, stream=True)
    assert eventually(lambda: stream.last != b"")
    limits = server.process("http").rlimit(psutil.RLIMIT_NOFILE)
    said: list[list[int] | str] = []

    def ask() -> None:
        try:
            said.append(generate(server.url, IDS, 8))
        except OSError as error:
            said.append(type(error).__name__)

    waiting = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
    try:
        server.process("http").rlimit(psutil.RLIMIT_NOFILE, (server.process("http").num_fds(), limits[1]))
        for one in waiting:
            one.start()
        told = stream.last
        assert eventually(lambda: stream.last != told), "the stream stood still"
    finally:
        server.process("http").rlimit(psutil.RLIMIT_NOFILE, limits)
    for one in waiting:
        one.join(NET_S)
    # never a wrong answer, and none that hangs
    turned_away = {"HTTPError", "RemoteDisconnected", "ConnectionResetError", "URLError"}
    assert len(said) == 4 and all(one == before or one in turned_away for one in said), said
    assert generate(server.url, IDS, 8) == before
    stream.hang_up()
    assert eventually(lambda: running(server.url) == 0)


def body(wish: Wish) -> dict[str, object]:
    return {"model": "default", "messages": list(wish.messages), "max_tokens": 4}


# ---- nobody reads the log, or it lies on a full disk


class Piped(Watched):
    """Its log goes into a pipe, whose reader may go."""

    def __init__(self, servers: Servers, folder: Path) -> None:
        super().__init__(servers, folder)
        self.log_path = folder.parent / "pipe"
        os.mkfifo(self.log_path)
        self._text, self._goes = bytearray(), threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with open(self.log_path, "rb", buffering=0) as pipe:
            while not self._goes.is_set():
                if select.select([pipe], [], [], 0.1)[0]:
                    self._text += pipe.read(1 << 16)

    def log_text(self) -> str:
        return bytes(self._text).decode(errors="replace")

    def break_log(self) -> None:
        self._goes.set()
        self._reader.join()


class OnFullDisk(Watched):
    """Not a byte of its log can be written."""

    def __init__(self, servers: Servers, folder: Path) -> None:
        super().__init__(servers, folder)
        self.log_path = Path("/dev/full")

    def log_text(self) -> str:
        return ""


@pytest.mark.server
@pytest.mark.matrix
def test_nobody_reads_the_log(servers: Servers, tmp_path: Path) -> None:
    server = Piped(servers, tmp_path / "temporary")
    with server:
        before, seen = generate(server.url, IDS, 8), tell(server.url, picture(0))
        assert "Uvicorn running" in server.log_text()
        server.break_log()
        goes_on(server, before, seen)


@pytest.mark.server
@pytest.mark.matrix
def test_a_log_on_a_full_disk_is_no_start(servers: Servers, tmp_path: Path) -> None:
    """Nothing can say why, the code does not tell either, and sockets stay among temporary files."""
    server = OnFullDisk(servers, tmp_path / "temporary")
    with pytest.raises(ServerFailed) as failed:
        server.start()
    assert failed.value.returncode == -signal.SIGKILL
    assert eventually(server.is_gone), server.children_alive()
    assert all((server.temporary / name).is_socket() for name in server.left(set()))


def goes_on(server: Watched, before: list[int], seen: list[Said] | None) -> None:
    """Served, refused, a worker lost: all of these write lines."""
    for seed in range(1, 4):
        assert tell(server.url, picture(seed)) is not None
    assert generate(server.url, IDS, 8) == before
    answers(server, picture(0), seen)
    status, said = post(server.url, CHAT, {"messages": []})
    assert status == 400, said
    server.process("media worker").kill()
    assert eventually(lambda: not said_wrong(server, seen))
    shared = server.shared()
    os.kill(server.pid, signal.SIGTERM)
    assert eventually(server.is_gone), server.children_alive()
    assert eventually(lambda: server.left(shared) == []), server.left(shared)


def said_wrong(server: Watched, seen: list[Said] | None) -> bool:
    """A worker that is killed between two items costs nothing; an item that it had taken costs that request."""
    try:
        said = tell(server.url, picture(0))
    except openai.BadRequestError as error:
        assert "its reader came to an end" in str(error)
        return True
    return said is None or seen is None or difference(picture(0), said, seen[0]) != (None, False)
