"""`sglang-nemotron parity DIR` as a fork's CI runs it: starts a server, compares, stops it, tells by its exit code."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file, save_file

from sglang_nemotron.checkpoint.spec import OMNI_PRESETS, PRESETS
from sglang_nemotron.cli.parity_media import MEDIA_MODES
from sglang_nemotron.cli.server import ServerProcess
from support.children import run
from support.serving import MAIN, OFFLINE, OMNI, Servers

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


# ---- Omni


@pytest.mark.matrix
@pytest.mark.server(OMNI)
def test_omni_against_a_running_server(server: ServerProcess, servers: Servers, tmp_path: Path):
    cache = servers.cached(OMNI)
    done = _run(OMNI.name, "--url", server.url, "--json", tmp_path / "out.json", HF_HUB_CACHE=cache, **OFFLINE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("PASS") and "\nmedia: max |delta logprob|" in done.stdout
    raw = json.loads((tmp_path / "out.json").read_text())
    text, media = raw["parts"]["text"], raw["parts"]["media"]
    assert text["worst"] <= 2e-5 and media["worst"] <= 5e-5 and raw["disagreements"] == 0
    assert {answer["mode"] for answer in raw["answers"]} == {"alone", "concurrent", "radix", *MEDIA_MODES}
    # a second time everything up to the question behind the media came from the cache, as SGLang says itself
    again = [answer for answer in raw["answers"] if answer["mode"] == "media-again"]
    assert len(again) == 32 and all(a["answer"]["cached"] > 0.6 * len(a["answer"]["prompt"]) for a in again)


@pytest.mark.matrix
@pytest.mark.server(OMNI)
@pytest.mark.parametrize(
    ("tensor", "failing"),
    [("mlp1.3.weight", {"image", "video"}), ("sound_projection.linear2.weight", {"audio"})],
)
def test_a_fault_in_a_tower_is_seen_by_its_media_alone(
    tensor: str, failing: set[str], server: ServerProcess, servers: Servers, tmp_path: Path
):
    """One weight of a projector is not the one that is served."""
    folder = tmp_path / "other"
    shutil.copytree(servers.checkpoint(OMNI.checkpoint), folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[tensor][0, 0] += 0.05
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    flags = ("--modes", "alone,image,video,audio", "--max-length", 40, "--json", tmp_path / "out.json")
    done = _run(folder, "--url", server.url, *flags)
    assert done.returncode == 1, done.stdout + done.stderr
    raw = json.loads((tmp_path / "out.json").read_text())
    assert raw["parts"]["text"]["passed"] and not raw["parts"]["media"]["passed"]
    worst = {mode: [] for mode in ("image", "video", "audio")}
    for answer in raw["answers"]:
        if answer["mode"] in worst:
            worst[answer["mode"]].append(max(*answer["prompt"], *answer["output"]))
    assert {mode for mode, values in worst.items() if min(values) > 5e-5} == failing, worst
    assert all(max(values) <= 5e-5 for mode, values in worst.items() if mode not in failing), worst


@pytest.mark.matrix
@pytest.mark.server
@pytest.mark.parametrize(
    ("changes", "flags", "verdict"),
    [
        ({"quantization": "fp8"}, ["--server-args=--tp 2"], r"media: .* allowed 5e-05"),
        ({"quantization": "mixed"}, ["--dtype", "bfloat16"], r"media: .* ratio [01]\.\d+, allowed 1.25"),
    ],
    ids=["fp8, TP=2", "mixed in bfloat16"],
)
def test_omni_with_a_server_of_its_own(changes: dict, flags: list[str], verdict: str, servers: Servers):
    folder = servers.checkpoint(replace(OMNI_PRESETS["toy"], **changes))
    done = _run(folder, "--modes", "alone,image,images,video,audio,video-sound,mixed", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(verdict, done.stdout)
    left = [p.pid for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or [])]
    assert left == []
