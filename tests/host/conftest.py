"""SGLang is imported once, the way its command does it, so that the platform and the doors are those of a server."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import sglang.cli.serve  # noqa: F401
from sglang.srt.plugins import load_plugins

_before = set(os.environ)
load_plugins()
# what the doors set is for the servers of this process alone; the servers of other tests set their own
_set_by_doors = {name: os.environ.pop(name) for name in set(os.environ) - _before}

from sglang_nemotron.host import refusal, slots  # noqa: E402


@pytest.fixture(scope="package", autouse=True)
def _environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _set_by_doors.items():
            patch.setenv(name, value)
        yield


@pytest.fixture
def clean_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """No faults before the test, and none left after it."""
    monkeypatch.setattr(refusal, "_faults", [])
    monkeypatch.setattr(refusal, "_armed", True)


@pytest.fixture(autouse=True)
def _skip_lock_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a start sets for its schedulers is for none of the servers that later tests start."""
    monkeypatch.setattr(slots, "_set_by_us", False)
    monkeypatch.setenv("SGLANG_OPT_MAMBA_SKIP_DECODE_LOCK", "0")
    monkeypatch.delenv("SGLANG_OPT_MAMBA_SKIP_DECODE_LOCK")
    monkeypatch.delenv(slots.REQUEST_TOKENS, raising=False)
