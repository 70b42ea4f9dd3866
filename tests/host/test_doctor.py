"""`sglang-nemotron doctor` as a user runs it: what it says, and its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from sglang_nemotron.host import doors
from support.waiting import NET_S


def doctor(*flags: str, **changes: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("SGLANG")}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-m", "sglang_nemotron", "doctor", *flags]
    return subprocess.run(command, env={**env, **changes}, capture_output=True, text=True, timeout=NET_S)


def test_healthy_installation() -> None:
    run = doctor("--json")
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]
    report = json.loads(run.stdout)
    assert report["ok"] and report["refused"] == []
    assert [row["name"] for row in report["doors"]] == [door.name for door in doors.DOORS]
    assert all(row["is_ours"] for row in report["doors"])
    assert report["versions"]["sglang"] == doors.release.sglang_version()
    assert report["device"]["kind"] in ("cpu", "cuda")
    assert all(report["entry_points"].values())


@pytest.mark.matrix
def test_fault_is_named() -> None:
    run = doctor(SGLANG_EXTERNAL_MM_PROCESSOR_PACKAGE="somebody.elses")
    assert run.returncode == 1
    assert "NOT OURS processors" in run.stdout
    assert "reason: ValueError: SGLANG_EXTERNAL_MM_PROCESSOR_PACKAGE=somebody.elses is set" in run.stdout
    assert run.stdout.rstrip().endswith("a server would be refused")


def test_kill_switch_is_reported() -> None:
    run = doctor(SGLANG_NEMOTRON_DISABLE="1")
    assert run.returncode == 1
    assert "refused: package" in run.stdout and "unset SGLANG_NEMOTRON_DISABLE" in run.stdout
