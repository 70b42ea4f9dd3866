"""One small checkpoint and its reference for the whole room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.parity.reference import Reference

# the least that has every kind of layer
SPEC = replace(PRESETS["toy"], hybrid_override_pattern="M*E-")


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`make(field=value, ...)` writes such a checkpoint."""

    def write(**changes: object) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint")
        write_checkpoint(replace(SPEC, **changes), folder)
        return folder

    return write


@pytest.fixture(scope="session")
def folder(make: Callable[..., Path]) -> Path:
    return make()


@pytest.fixture(scope="session")
def reference(folder: Path) -> Reference:
    return Reference(folder)
