"""The fuzzer of `make fuzz` runs: one small reply and one large one of it, and its command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from reply import fuzz
from support.waiting import NET_S

ROOT = Path(__file__).parents[2]


def test_one_reply_of_each_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "MEGABYTE", 1 << 14)
    for seed in range(20):
        fuzz.small(seed)
    assert fuzz.big(1) > 0


def test_its_command() -> None:
    command = [sys.executable, "-m", "tests.reply.fuzz", "--minutes", "0.01"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=NET_S, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
