"""A server of a fork loses its client, then its scheduler: it serves until then, reports, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest
from serving import Servers, running

from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.cli.server import ServerProcess
from support.waiting import NET_S, eventually

_CLIENT = """
import json, sys, urllib.request
body = {"input_ids": [1001], "stream": True, "sampling_params": {"max_new_tokens": 4000, "ignore_eos": True}}
request = urllib.request.Request(sys.argv[1] + "/generate", json.dumps(body).encode(),
                                 {"Content-Type": "application/json"})
for line in urllib.request.urlopen(request, timeout=NET_S):
    print(line.decode(), flush=True)
"""


def fork_package(folder: Path) -> dict[str, str]:
    """A package that hands on our class, named to SGLang as forks do; the environment that finds it."""
    package = folder / "fork_of_nemotron"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "nano.py").write_text(
        "from sglang_nemotron.models.nemotron_h import NemotronHForCausalLM\n\nEntryClass = NemotronHForCausalLM\n"
    )
    return {"SGLANG_EXTERNAL_MODEL_PACKAGE": package.name, "PYTHONPATH": str(folder)}


def generate(url: str, token_ids: list[int], new_tokens: int) -> list[int]:
    body = {
        "input_ids": token_ids,
        "sampling_params": {"temperature": 0, "max_new_tokens": new_tokens, "ignore_eos": True},
    }
    request = urllib.request.Request(url + "/generate", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=NET_S) as reply:
        return json.load(reply)["output_ids"]


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.server
def test_client_dies_then_scheduler(servers: Servers, tmp_path: Path) -> None:
    # one start for three questions: a fork's package, a client's death, a scheduler's death
    server = ServerProcess(
        servers.checkpoint(PRESETS["toy"]),
        ["--dtype", "float32"],
        log_path=servers.log_path(),
        env=fork_package(tmp_path),
        time_limit_s=NET_S,
    )
    with server:
        assert "sglang-nemotron is broken" not in server.log_text()
        before = generate(server.url, [1001, 1002, 1003], 8)

        client = subprocess.Popen([sys.executable, "-c", _CLIENT, server.url], stdout=subprocess.PIPE)
        assert client.stdout is not None
        assert client.stdout.readline().startswith(b"data:")
        client.send_signal(signal.SIGKILL)
        client.wait()
        assert eventually(lambda: running(server.url) == 0), "the dead client's request still runs"
        assert generate(server.url, [1001, 1002, 1003], 8) == before

        (scheduler,) = _schedulers(server)
        os.kill(scheduler.pid, signal.SIGKILL)
        assert_ends(server)


@pytest.mark.server
@pytest.mark.matrix
def test_one_of_two_schedulers_dies(servers: Servers) -> None:
    server = ServerProcess(
        servers.checkpoint(PRESETS["toy"]), ["--tp", "2"], log_path=servers.log_path(), time_limit_s=NET_S
    )
    with server:
        assert generate(server.url, [1001, 1002, 1003], 8)
        os.kill(_schedulers(server)[1].pid, signal.SIGKILL)
        assert_ends(server)


def assert_ends(server: ServerProcess) -> None:
    """The server reports a dead scheduler and goes, with a code that says so, and leaves nothing."""

    def gone() -> bool:
        # asking for the code reaps the main process
        return server.returncode is not None and not server.children_alive() and is_free(server.port)

    assert eventually(gone), server.children_alive()
    assert server.returncode != 0
    assert "scheduler" in server.log_tail(60).lower()


def _schedulers(server: ServerProcess) -> list[psutil.Process]:
    return [process for process in _group(server) if "scheduler" in _name(process)]


def _group(server: ServerProcess) -> list[psutil.Process]:
    return [psutil.Process(pid) for pid in server.children_alive()]


def _name(process: psutil.Process) -> str:
    return " ".join(process.cmdline())
