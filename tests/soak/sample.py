"""A running server comes in, what it holds goes out: memory, files and sockets of processes, slots, pages.

Looks from outside, at /proc and at `/metrics`; changes nothing.
"""

from __future__ import annotations

import os
import re
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from support.omni_requests import STAMP, _role
from support.waiting import NET_S

# rows of `/metrics`, by the names of a reading
GAUGES = {
    "sglang:num_running_reqs": "running",
    "sglang:num_queue_reqs": "queued",
    "sglang:mamba_used_tokens": "slots_used",
    "sglang:kv_used_tokens": "tokens_used",
    "sglang_nemotron_states_kept": "states_kept",
    "sglang_nemotron_media_workers": "workers",
    "sglang_nemotron_media_workers_busy": "workers_busy",
}
SHARED = Path("/dev/shm")


@dataclass(frozen=True)
class Process:
    """private: bytes of anonymous memory that is in RAM. share: bytes by the kernel's proportional count (PSS)."""

    pid: int
    role: str
    private: int
    share: int = 0
    files: int = 0
    sockets: int = 0
    threads: int = 0


@dataclass(frozen=True)
class Reading:
    """at: seconds since the soak began. requests: that had ended by then. idle: whether nothing ran.

    left: files of media in shared memory, or open though they have no name any more. shared: files in shared memory
    that the server's processes made.
    """

    at: float
    requests: int
    idle: bool
    processes: tuple[Process, ...]
    gauges: dict[str, float]
    left: tuple[str, ...]
    shared: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def read(url: str, pid: int | None, *, at: float, requests: int, idle: bool) -> Reading:
    """pid: of the server's main process, if it is on this machine."""
    processes, left, shared = _processes(pid) if pid is not None else ([], [], 0)
    return Reading(at, requests, idle, tuple(processes), gauges(url), tuple(sorted(left)), shared)


def gauges(url: str) -> dict[str, float]:
    """Rows of all ranks and processes together; empty where the server counts nothing."""
    found: dict[str, float] = {}
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=NET_S) as reply:
            text = reply.read().decode()
    except OSError:
        return found
    for line in text.splitlines():
        match = re.match(r"([\w:]+)(?:\{[^}]*\})? (\S+)$", line)
        if match and match[1] in GAUGES:
            name = GAUGES[match[1]]
            found[name] = found.get(name, 0.0) + float(match[2])
    return found


def server_at(url: str) -> int | None:
    """The main process of the server that listens there, if it is on this machine."""
    host, _, port = url.removeprefix("http://").rstrip("/").partition(":")
    if host not in ("127.0.0.1", "localhost"):
        return None
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == int(port) and connection.pid:
            process = psutil.Process(connection.pid)
            # several processes may answer, which one has started
            while (parent := process.parent()) is not None and _role(parent) == "http":
                process = parent
            return process.pid
    return None


def family(pid: int) -> list[psutil.Process]:
    """The main process and all that it started."""
    try:
        main = psutil.Process(pid)
        return [main, *main.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def workers(pid: int) -> list[psutil.Process]:
    """Those that read media."""
    found = []
    for process in family(pid):
        try:
            if _role(process) == "media worker" and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def _processes(pid: int) -> tuple[list[Process], list[str], int]:
    processes: list[Process] = []
    left: list[str] = []
    shared: set[str] = set()
    alive = family(pid)
    numbers = {process.pid for process in alive}
    for process in alive:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            found, files = _of(process)
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            continue
        processes.append(found)
        left += [f"{found.role}: {file}" for file in files if STAMP.search(file)]
        shared |= {file for file in files if file.startswith(f"{SHARED}/")}
    for folder in (SHARED, Path("/tmp")):
        for path in folder.glob("sgl_shm_mm_*"):
            stamp = STAMP.search(path.name)
            if stamp and int(stamp[1]) in numbers:
                left.append(str(path))
    return processes, left, len(shared)


def _of(process: psutil.Process) -> tuple[Process, set[str]]:
    folder = Path(f"/proc/{process.pid}")
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    share = re.search(r"^Pss:\s+(\d+)", (folder / "smaps_rollup").read_text(), re.M)
    links = [_target(link) for link in (folder / "fd").iterdir()]
    # columns of addresses, rights, offset, device and inode come before a file's name
    maps = {
        line[73:] for line in (folder / "maps").read_text().splitlines() if "/dev/shm/" in line or "sgl_shm" in line
    }
    made = Process(
        process.pid,
        _role(process),
        int(status["RssAnon"].split()[0]) * 1024,
        int(share[1]) * 1024 if share else 0,
        len(links),
        sum(link.startswith("socket:") for link in links),
        int(status["Threads"]),
    )
    return made, {*links, *maps}


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return ""
