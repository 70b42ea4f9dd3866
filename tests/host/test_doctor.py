"""`sglang-nemotron doctor` as a user runs it: what it says, and its exit code."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.host import doors
from sglang_nemotron.sglang_api import release
from support.hub import TEXT_IDS, hub
from support.waiting import NET_S


def doctor(*flags: str, **changes: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("SGLANG")}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-m", "sglang_nemotron", "doctor", *flags]
    return subprocess.run(command, env={**env, **changes}, capture_output=True, text=True, timeout=NET_S)


@pytest.mark.matrix
def test_healthy_installation() -> None:
    run = doctor("--json")
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]
    report = json.loads(run.stdout)
    assert report["ok"] and report["refused"] == []
    assert [row["name"] for row in report["doors"]] == [door.name for door in doors.DOORS]
    assert all(row["is_ours"] for row in report["doors"])
    assert report["versions"]["sglang"] == release.sglang_version()
    assert report["device"]["kind"] in ("cpu", "cuda")
    assert all(report["entry_points"].values())


@pytest.mark.matrix
def test_fault_is_named() -> None:
    run = doctor(SGLANG_EXTERNAL_MM_PROCESSOR_PACKAGE="somebody.elses")
    assert run.returncode == 1
    assert "NOT OURS   processors" in run.stdout
    assert "reason: ValueError: SGLANG_EXTERNAL_MM_PROCESSOR_PACKAGE=somebody.elses is set" in run.stdout
    assert run.stdout.rstrip().endswith("a server would be refused")


def test_kill_switch_is_reported() -> None:
    run = doctor(SGLANG_NEMOTRON_DISABLE="1")
    assert run.returncode == 1
    assert "refused: package" in run.stdout and "unset SGLANG_NEMOTRON_DISABLE" in run.stdout


# ---- a model


def test_an_id_that_would_start(tmp_path: Path) -> None:
    write_checkpoint(PRESETS["toy"], tmp_path / "toy")
    with hub() as there:
        there.models[TEXT_IDS[0]] = {"main": tmp_path / "toy"}
        there.download(TEXT_IDS[0], tmp_path / "cache")
    env = {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        free = taken.getsockname()[1]
    done = doctor(TEXT_IDS[0], "--json", "--port", str(free), **env)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    model = json.loads(done.stdout)["model"]
    assert model["ours"] == "text" and model["folder"].startswith(str(tmp_path / "cache"))
    if json.loads(done.stdout)["device"]["kind"] == "cpu":
        assert (model["chosen"]["attention_backend"], model["chosen"]["max_mamba_cache_size"]) == ("torch_native", 512)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.matrix) for case in ("damaged", "flag", "gated", "wrong name")]
)
def test_a_model_that_would_not_start(case: str, tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    write_checkpoint(PRESETS["toy"], folder)
    with hub() as there:
        there.models["nvidia/gated"], there.gated = {"main": folder}, {"nvidia/gated"}
        asked, said = {
            "damaged": ([str(folder)], "is truncated"),
            "flag": ([str(folder), "--serve-args=--tp 3"], "mamba_num_heads=8 cannot be split over tp_size=3"),
            "gated": (["nvidia/gated"], "nvidia/gated is gated"),
            "wrong name": (["nvidia/wrong"], "the hub knows no model nvidia/wrong"),
        }[case]
        if case == "damaged":
            (file,) = folder.glob("*.safetensors")
            file.write_bytes(file.read_bytes()[:-10])
        done = doctor(*asked, **there.environment(tmp_path / "cache"), HF_TOKEN="")
    assert done.returncode == 1
    assert said in done.stdout.split("refused: model\n  reason: ")[1].splitlines()[0]
    assert done.stdout.rstrip().endswith("a server would be refused") and "  remedy: " in done.stdout
