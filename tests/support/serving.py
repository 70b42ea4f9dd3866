"""What the end-to-end tests serve, and the servers they share: at most the main one and one other alive at a time."""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sglang_nemotron.checkpoint.spec import OMNI_PRESETS, PRESETS, CheckpointSpec
from sglang_nemotron.checkpoint.tower_spec import TOWERS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.cli.server import ServerProcess
from support.hub import OMNI_IDS, TEXT_IDS, hub
from support.waiting import NET_S, eventually

# SGLang publishes its gauges when it becomes idle, up to half a minute after; what is still held ten times as long
# after is a leak
LEAK_S = 300.0
OFFLINE = {"HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Served:
    """One server: a checkpoint, flags of `sglang serve` and environment variables (None removes one).

    The same value gives the same server within a test session. `--enable-metrics` is always added, for `Usage`.
    name: an id of the hub, under which the checkpoint lies in a cache and is served from it, without a network.
    """

    checkpoint: CheckpointSpec = PRESETS["tiny"]
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str | None], ...] = ()
    name: str | None = None

    def __str__(self) -> str:
        shape = f"{self.checkpoint.hybrid_override_pattern} {self.checkpoint.quantization}"
        return " ".join([shape, *self.args, *(f"{name}=..." for name, _ in self.env)])


# kept for the whole session: what most tests talk to. Like the main Omni server it serves an id, as the published
# commands do; demo, parity and the others serve folders
MAIN = Served(args=("--dtype", "float32"), name=TEXT_IDS[0])

# a plugin that keeps sampled replies of random weights to words, for tests of what a client sees of one
WORDY = str(Path(__file__).parents[1] / "e2e" / "wordy")
TEXT_EXAMPLES = Served(
    args=("--reasoning-parser", "nano_v3", "--tool-call-parser", "qwen3_coder"), env=(("PYTHONPATH", WORDY),)
)

_FOLDERS = "SGLANG_NEMOTRON_MEDIA_FOLDERS"
_OMNI_ARGS = ("--dtype", "float32", "--enable-cache-report")
_SAMPLES = Path(__file__).parents[2] / "src" / "sglang_nemotron" / "cli" / "media"
# tells in its log what its towers encode
_SPY_PATH = str(Path(__file__).parents[1] / "e2e" / "omni_spy")
_SPY: tuple[tuple[str, str | None], ...] = (("PYTHONPATH", _SPY_PATH),)
# for every test of Omni that needs nothing special: with the flags of its published command
OMNI = Served(
    OMNI_PRESETS["tiny"],
    (*_OMNI_ARGS, "--reasoning-parser", "nano_v3", "--tool-call-parser", "qwen3_coder"),
    (
        ("PYTHONPATH", os.pathsep.join([_SPY_PATH, WORDY])),
        # what tests serve on this machine
        ("SGLANG_NEMOTRON_MEDIA_ADDRESSES", "public,127.0.0.1"),
        # no token of the hub, which is not asked: whether it is told (`tests/e2e/test_hostile.py`)
        ("HF_TOKEN", "hf_of_nobody_and_told_to_nobody"),
    ),
    name=OMNI_IDS[0],
)
# states kept in the steps of the published checkpoint
OMNI_PUBLISHED_CHUNKS = Served(replace(OMNI_PRESETS["tiny"], chunk_size=128), _OMNI_ARGS, _SPY)
# room for less than the largest image
OMNI_SHORT = Served(OMNI_PRESETS["tiny"], (*_OMNI_ARGS, "--context-length", "1024"), _SPY)
# a template that leaves a message's parts in their order
OMNI_IN_ORDER = Served(
    replace(OMNI_PRESETS["tiny"], towers=replace(TOWERS["tiny"], template="in-order")), _OMNI_ARGS, _SPY
)
OMNI_CHUNKED = Served(OMNI_PRESETS["tiny"], (*_OMNI_ARGS, "--chunked-prefill-size", "64"), _SPY)
OMNI_TP2 = Served(OMNI_PRESETS["tiny"], (*_OMNI_ARGS, "--tp", "2"), (*_SPY, ("OMP_WAIT_POLICY", None)))
OMNI_TP4 = Served(OMNI_PRESETS["tiny"], (*_OMNI_ARGS, "--tp", "4"), (*_SPY, ("OMP_WAIT_POLICY", None)))
OMNI_NO_BUFFER = Served(
    OMNI_PRESETS["tiny"],
    (*_OMNI_ARGS, "--mamba-radix-cache-strategy", "no_buffer", "--disable-overlap-schedule"),
    _SPY,
)


@dataclass(frozen=True)
class Usage:
    """What requests hold on an idle server, and what the caches have in all."""

    requests: int
    tokens_used: int
    slots_used: int
    tokens: int
    slots: int

    def leaks(self, start: Usage) -> str | None:
        """What is held now and was not at `start`; None if all came back."""
        if self == start:
            return None
        return f"the server started with {start} and now, idle, has {self}"


class Servers:
    """Starts servers and checkpoints once per session and per key."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._say = say
        self._checkpoints: dict[CheckpointSpec, Path] = {}
        self._alive: dict[Served, ServerProcess] = {}
        self._start_usage: dict[Served, Usage] = {}
        self._count = 0

    def checkpoint(self, spec: CheckpointSpec) -> Path:
        """The folder of this checkpoint, written on first use."""
        if spec not in self._checkpoints:
            path = self._folder / f"checkpoint{len(self._checkpoints)}"
            write_checkpoint(spec, path)
            self._checkpoints[spec] = path
        return self._checkpoints[spec]

    def cached(self, served: Served) -> str:
        """A cache of the hub that holds this server's checkpoint under its name."""
        assert served.name is not None
        cache = self._folder / "hub"
        with hub() as there:
            there.models[served.name] = {"main": self.checkpoint(served.checkpoint)}
            there.download(served.name, cache)
        return str(cache)

    def _folders(self) -> str:
        """Where a request may name files: what examples name, and what tests of this session wrote."""
        return os.pathsep.join((str(_SAMPLES), str(self._folder.parent)))

    def log_path(self) -> Path:
        """A fresh path for a server's log."""
        self._count += 1
        return self._folder / f"server{self._count}.log"

    def get(self, served: Served) -> ServerProcess:
        """The running server of this key, started if need be; another that is not the main one is stopped first."""
        server = self._alive.get(served)
        if server is not None and server.returncode is None:
            return server
        for key in [key for key in self._alive if key != MAIN or key == served]:
            self.stop(key)
        cached: dict[str, str] = {} if served.name is None else {"HF_HUB_CACHE": self.cached(served), **OFFLINE}
        server = ServerProcess(
            served.name or self.checkpoint(served.checkpoint),
            [*served.args, "--enable-metrics"],
            log_path=self.log_path(),
            # threads that spin while they wait make a server ten times slower wherever other work shares its cores
            env={
                "OMP_WAIT_POLICY": "PASSIVE",
                _FOLDERS: self._folders(),
                **cached,
                **_with_path_of_this_process(dict(served.env)),
            },
            time_limit_s=NET_S,
        )
        self._say(f"starting a server: {served}")
        server.start()
        self._say(f"ready after {server.seconds_to_ready:.0f} s")
        self._alive[served] = server
        self._start_usage[served] = usage(server)
        return server

    def check_leaks(self, served: Served) -> None:
        """Fails if the server holds anything that it did not hold at its start, or died."""
        server = self._alive[served]
        start = self._start_usage[served]
        now = usage(server, until=start)
        problem = (
            now.leaks(start)
            or ("memory leak detected" in server.log_text() and "SGLang's own check found a leak")
            or _files_left(server)
        )
        if problem:
            # the next test must not suffer for this one
            tail = server.log_tail()
            self.stop(served)
            raise AssertionError(f"{problem}\nlast lines of the server:\n{tail}")

    def stop(self, served: Served) -> None:
        self._start_usage.pop(served, None)
        server = self._alive.pop(served, None)
        if server is not None:
            server.stop()

    def stop_all(self) -> None:
        for served in list(self._alive):
            self.stop(served)


def _with_path_of_this_process(env: dict[str, str | None]) -> dict[str, str | None]:
    """Plugins of a server come before what this process finds, and do not hide it: tests may run on another tree."""
    ours, added = os.environ.get("PYTHONPATH"), env.get("PYTHONPATH")
    return {**env, "PYTHONPATH": os.pathsep.join([added, ours])} if ours and added else env


def _files_left(server: ServerProcess) -> str | None:
    """Media lie in shared memory while they are on their way, and not a moment longer."""
    left = sorted(path.name for path in Path("/dev/shm").glob(f"sgl_shm_mm_{server.pid}_*"))
    return f"the server is idle, but media lie in shared memory: {left}" if left else None


def usage(server: ServerProcess, until: Usage | None = None) -> Usage:
    """What an idle server holds. Waits until nothing runs, and for `until` as long as the gauges may lag behind.

    A request of one token goes ahead: its prefill makes SGLang publish the gauges anew, so that they cannot be those
    of before. Needs --enable-metrics.
    """

    def settled() -> bool:
        now = _usage_now(server.url)
        return now.requests == 0 and (now == until if until else now.slots_used == now.tokens_used == 0)

    try:
        eventually(lambda: running(server.url) == 0, net_s=LEAK_S)
        _post(server.url + "/generate", {"input_ids": [3], "sampling_params": {"max_new_tokens": 1}})
        eventually(settled, poll_s=0.2, net_s=LEAK_S)
        return _usage_now(server.url)
    except (urllib.error.URLError, OSError) as error:
        tail = server.log_tail()
        raise AssertionError(f"the server no longer answers ({error}); last lines of its log:\n{tail}") from error


def _usage_now(url: str) -> Usage:
    gauges = {}
    for line in get(url + "/metrics").splitlines():
        match = re.match(r"sglang:(\w+)(?:\{[^}]*\})? (\S+)$", line)
        if match:
            gauges[match[1]] = float(match[2])
    slots_used, tokens_used = int(gauges["mamba_used_tokens"]), int(gauges["kv_used_tokens"])
    return Usage(
        requests=running(url),
        tokens_used=tokens_used,
        slots_used=slots_used,
        tokens=int(gauges["kv_available_tokens"] + gauges["kv_evictable_tokens"]) + tokens_used,
        slots=int(gauges["mamba_available_tokens"] + gauges["mamba_evictable_tokens"]) + slots_used,
    )


def running(url: str) -> int:
    """Requests that the server runs or keeps waiting."""
    loads = json.loads(get(url + "/v1/loads"))["loads"]
    return sum(load["num_running_reqs"] + load["num_waiting_reqs"] for load in loads)


def json_of(path: Path) -> dict[str, Any]:
    """A file of a checkpoint."""
    return json.loads(path.read_text())


def post(address: str, path: str, body: dict[str, Any]) -> tuple[int, str]:
    """Status and text of the answer to a JSON body, refusals included."""
    request = urllib.request.Request(address + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=NET_S) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=NET_S) as reply:
        return reply.read().decode()


def _post(url: str, body: dict[str, object]) -> str:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=NET_S) as reply:
        return reply.read().decode()
