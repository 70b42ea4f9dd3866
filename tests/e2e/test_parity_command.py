"""`sglang-nemotron parity DIR` as a fork's CI runs it: starts a server, compares, stops it, tells by its exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.cli.server import ServerProcess
from support.children import run
from support.serving import MAIN, OFFLINE, Servers

PARITY = [sys.executable, "-m", "sglang_nemotron", "parity"]


def _run(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
    return run([*PARITY, *args], {**os.environ, **env})


@pytest.mark.server
def test_against_a_running_server(server: ServerProcess, servers: Servers, tmp_path: Path):
    cache = servers.cached(MAIN)
    done = _run(MAIN.name, "--url", server.url, "--json", tmp_path / "out.json", HF_HUB_CACHE=cache, **OFFLINE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("PASS")
    raw = json.loads((tmp_path / "out.json").read_text())
    assert raw["worst"] <= 2e-5 and raw["disagreements"] == 0
    # the cache was hit, as SGLang says itself
    assert max(a["answer"]["cached"] for a in raw["answers"] if a["mode"] == "radix") == 592


@pytest.mark.server
def test_a_server_of_another_checkpoint_fails(server: ServerProcess, servers: Servers):
    other = servers.checkpoint(replace(MAIN.checkpoint, seed=1))
    done = _run(other, "--url", server.url, "--modes", "alone", "--new-tokens", 4, "--max-length", 40)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("FAIL")


@pytest.mark.server
@pytest.mark.matrix
@pytest.mark.parametrize(
    ("changes", "flags", "verdict"),
    [
        ({"quantization": "fp8"}, [], r"allowed 2e-05"),
        ({"quantization": "nvfp4"}, [], r"allowed 2e-05"),
        ({"quantization": "mixed"}, ["--server-args=--tp 2"], r"allowed 2e-05"),
        ({}, ["--dtype", "bfloat16"], r"ratio [01]\.\d+, allowed 1.25"),
        ({"quantization": "mixed"}, ["--dtype", "bfloat16"], r"ratio [01]\.\d+, allowed 1.25"),
    ],
    ids=["fp8", "nvfp4", "mixed, TP=2", "bfloat16", "mixed in bfloat16"],
)
def test_with_a_server_of_its_own(changes: dict, flags: list[str], verdict: str, servers: Servers):
    folder = servers.checkpoint(replace(PRESETS["toy"], **changes))
    done = _run(folder, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(verdict, done.stdout)
    assert "server: ready after" in done.stderr
    left = [p.pid for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or [])]
    assert left == []


@pytest.mark.server
@pytest.mark.matrix
def test_a_server_that_cannot_start(servers: Servers):
    done = _run(servers.checkpoint(PRESETS["toy"]), "--server-args=--no-such-flag")
    assert done.returncode == 2
    assert "no-such-flag" in done.stderr and "last lines of its log" in done.stderr
