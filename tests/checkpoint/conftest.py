"""Checkpoints shared by the tests of this room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Write a preset with some fields replaced into a fresh folder."""
    count = 0

    def write(size: str = "toy", **changes: Any) -> Path:
        nonlocal count
        count += 1
        out = tmp_path / f"checkpoint{count}"
        write_checkpoint(replace(PRESETS[size], **changes), out)
        return out

    return write


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy preset, untouched; read only."""
    out = tmp_path_factory.mktemp("toy") / "checkpoint"
    write_checkpoint(PRESETS["toy"], out)
    return out
