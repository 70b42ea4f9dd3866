"""One small checkpoint of each kind, and the reference of text, for the whole room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.parity.reference import Reference
from support.small_omni import SMALL_OMNI

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


@pytest.fixture(scope="session")
def omni(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("omni")
    write_checkpoint(SMALL_OMNI, folder)
    return folder
