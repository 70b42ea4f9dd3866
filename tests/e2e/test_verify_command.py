"""`sglang-nemotron verify URL` on real servers: sound ones agree, and each fault planted in kept states is found."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sglang_nemotron.checkpoint.spec import OMNI_PRESETS, PRESETS
from sglang_nemotron.cli.server import ServerProcess
from support.children import run
from support.faults import Fault, plant
from support.serving import Served, Servers
from support.waiting import NET_S

pytestmark = pytest.mark.matrix

VERIFY = [sys.executable, "-m", "sglang_nemotron", "verify"]
# room for the prompt of 8k tokens; states are kept in steps of 16
TOY = replace(PRESETS["toy"], max_position_embeddings=16_384)
_STRATEGY = "--mamba-radix-cache-strategy"
DEFAULT = Served(TOY)
NO_BUFFER = Served(TOY, (_STRATEGY, "no_buffer", "--disable-overlap-schedule"))
EXTRA = Served(TOY, (_STRATEGY, "extra_buffer", "--dtype", "float32"))
# the longest prompt takes 16 chunks
SMALL_CHUNKS = Served(TOY, ("--chunked-prefill-size", "512"))
OMNI = Served(OMNI_PRESETS["toy"])
OMNI_SMALL_CHUNKS = Served(OMNI_PRESETS["toy"], ("--chunked-prefill-size", "256", "--dtype", "float32"))

SOUND = [
    pytest.param(served, id=name, marks=pytest.mark.server(served))
    for name, served in {
        "default": DEFAULT,
        "no_buffer": NO_BUFFER,
        "extra_buffer in float32": EXTRA,
        "small chunks": SMALL_CHUNKS,
        "Omni": OMNI,
        "Omni, small chunks, in float32": OMNI_SMALL_CHUNKS,
    }.items()
]

# what is kept for a prefix is the state of so many tokens earlier: of one, of a whole chunk
_EARLIER = """
_sound_snapshots = _snapshots
def _snapshots(metadata, batch, prefill):
    import dataclasses
    kept = _sound_snapshots(metadata, batch, prefill)
    return kept and dataclasses.replace(kept, ends=[max(end - {}, 0) for end in kept.ends])
"""
# the place where SGLang copies a kept state for a hit: the convolution's window comes back one token late
_LATE_WINDOW = """
_sound_copy = MambaPool.copy_from
def _copy_from(self, src_indices, dst_indices):
    _sound_copy(self, src_indices, dst_indices)
    for window in self.mamba_cache.conv:
        window[:, dst_indices] = window[:, dst_indices].roll(1, dims=-1)
MambaPool.copy_from = _copy_from
"""
FAULTS = {
    "kept one token early": Fault("sglang_nemotron.state.plan", after=_EARLIER.format("1")),
    "kept one chunk early": Fault("sglang_nemotron.state.plan", after=_EARLIER.format("prefill.chunk_size")),
    "restored one token late": Fault("sglang.srt.mem_cache.memory_pool", after=_LATE_WINDOW),
}
# nothing is copied aside while answers are made, and what lay in those slots before is taken for it
_NOT_TRACKED = Fault("sglang_nemotron.state.plan", after="_decode_track = lambda *_: None")


def _verify(server: ServerProcess, out: Path, *more: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    done = run([*VERIFY, server.url, "--json", out, *more], dict(os.environ))
    assert out.exists(), done.stdout + done.stderr
    return done, json.loads(out.read_text())


@pytest.mark.parametrize("served", SOUND)
def test_a_sound_server_agrees(served: Served, server: ServerProcess, tmp_path: Path):
    done, raw = _verify(server, tmp_path / "out.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("AGREES")
    runs = raw["runs"]
    hit = {run["conversation"] for run in runs if run["reused"]}
    assert hit == set(raw["conversations"]) and len(hit) == (13 if served in (OMNI, OMNI_SMALL_CHUNKS) else 9)
    assert max(run["reused"] for run in runs) > 8000
    # what was kept while an answer was made is reused
    (after,) = (run for run in runs if (run["conversation"], run["mode"]) == ("own answer", "turns"))
    assert after["prompt_tokens"] - 10 <= after["reused"]
    # nothing was won by ignoring what differs
    assert sum(run["positions"] for run in runs) > 0.9 * sum(16 for _ in runs)


@pytest.mark.server(DEFAULT)
def test_others_may_use_the_cache(server: ServerProcess, tmp_path: Path):
    """With salts nothing is flushed, and what others left is there afterwards."""
    done, raw = _verify(server, tmp_path / "out.json", "--keep-cache", "--longest", "2000")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a salt of its own" in done.stderr and max(run["reused"] for run in raw["runs"]) > 1700
    flushes = len(re.findall("flush", server.log_text(), re.I))
    _verify(server, tmp_path / "again.json", "--keep-cache", "--longest", "2000")
    assert len(re.findall("flush", server.log_text(), re.I)) == flushes


@pytest.mark.server(DEFAULT)
def test_a_text_model_takes_no_media(server: ServerProcess):
    done = run([*VERIFY, server.url, "--media", "yes"], dict(os.environ))
    assert done.returncode == 2
    assert re.search(r"takes no media: .*400.*\n  remedy: leave --media out", done.stderr)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str, servers: Servers, tmp_path: Path):
    raw = _with_fault(FAULTS[fault], servers, tmp_path)
    wrong = [run for run in raw["runs"] if not run["agrees"]]
    # only what was reused is wrong, in every conversation and mode, and far beyond the bound
    assert all(run["reused"] for run in wrong)
    assert {run["conversation"] for run in wrong} == set(raw["conversations"])
    assert {run["mode"] for run in wrong} >= {"warm", "batched", "chunked"}
    assert all(run in wrong for run in raw["runs"] if (run["conversation"], run["mode"]) == ("boundary", "warm"))
    assert max(run["excess"] for run in wrong) > 5


def test_a_fault_in_what_answers_leave_is_found(servers: Servers, tmp_path: Path):
    raw = _with_fault(_NOT_TRACKED, servers, tmp_path)
    wrong = [run for run in raw["runs"] if not run["agrees"]]
    assert {(run["conversation"], run["mode"]) for run in wrong} == {("own answer", "turns")}
    assert all(run["excess"] > 2 for run in wrong)


def _with_fault(fault: Fault, servers: Servers, folder: Path) -> dict[str, Any]:
    """What the command says of a server with a fault, which it must find."""
    env = plant(folder / "fault", fault) | {"OMP_WAIT_POLICY": "PASSIVE"}
    checkpoint, log = servers.checkpoint(TOY), servers.log_path()
    with ServerProcess(checkpoint, log_path=log, env=env, time_limit_s=NET_S) as server:
        done, raw = _verify(server, folder / "out.json")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("DISAGREES")
    return raw
