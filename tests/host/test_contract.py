"""The contract with SGLang, without a server: names, signatures and fields of the installed release; it can fail."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

import sglang_nemotron
from sglang_nemotron.host import drift
from sglang_nemotron.host.doors import DOORS
from sglang_nemotron.host.wrapping import Wrap

PACKAGE = Path(sglang_nemotron.__file__).parent
WRAPS = [wrap for door in DOORS for wrap in door.wraps]


def test_sglang_has_all_that_we_take_for_granted() -> None:
    assert drift.differences(WRAPS) == []


def test_what_is_taken_is_found() -> None:
    taken = set(drift.taken_names())
    assert len(taken) >= 99 and len({module for module, _ in taken}) >= 60
    # one of each kind: a name, a wrap that looks at parameters, a field
    assert ("sglang.srt.layers.radix_attention", "RadixAttention") in taken
    assert sum(bool(wrap.takes) for wrap in WRAPS) >= 10
    assert sum(map(len, drift.FIELDS.values())) >= 80


def _read_of(file: str, *objects: str) -> dict[str, set[str]]:
    """The attributes that a file reads of each of its arguments and variables with these names."""
    found: dict[str, set[str]] = {name: set() for name in objects}
    for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in found:
            found[node.value.id].add(node.attr)
    return found


def test_every_field_of_the_plan_is_in_the_table() -> None:
    read = _read_of("state/plan.py", "metadata", "mixed", "batch")
    names = {place.rpartition(":")[2]: set(wanted) for place, wanted in drift.FIELDS.items()}
    assert len(set.union(*read.values())) >= 28
    assert read["metadata"] <= names["Mamba2Metadata"] and read["mixed"] <= names["Mamba2Metadata.MixedMetadata"]
    assert read["batch"] <= names["ForwardBatch"]


# ---- it can fail


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("sglang.srt.managers.schedule_batch:Req", "has no no_such_field"),
        ("sglang.srt.managers.schedule_batch:NoSuchClass", "NoSuchClass"),
        ("sglang.srt.no_such_module:Req", "No module named"),
    ],
)
def test_a_field_that_is_gone_is_named(place: str, problem: str) -> None:
    (found,) = drift.differences(fields={place: ("sampling_params", "no_such_field")})
    assert found.startswith(place) and problem in found


def test_a_signature_that_changed_is_named() -> None:
    wrap = next(wrap for wrap in WRAPS if wrap.name == "_validate_one_request")
    assert drift.differences([replace(wrap, takes=("request", "input_ids"))], {}) == [
        "TokenizerManager._validate_one_request takes ['obj', 'input_ids'], not ['request', 'input_ids']"
    ]
    assert drift.differences([replace(wrap, name="gone")], {}) == ["TokenizerManager.gone is gone"]


def test_a_name_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sglang.srt.layers.radix_attention as module

    monkeypatch.delattr(module, "RadixAttention")
    assert "sglang.srt.layers.radix_attention: has no RadixAttention" in drift.differences((), {})


def test_a_call_that_no_longer_fits_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from sglang_nemotron.host.names import kernels

    monkeypatch.setattr(kernels, "track_mamba_states_all_layers", lambda conv, ssm, src, mask, dst: None)
    (found,) = drift.differences((), {})
    assert found.startswith("ops/track_sglang.py:") and "track_mamba_states_all_layers" in found


def test_a_wrap_names_what_it_hands_on() -> None:
    """Every wrapper with parameters of its own says so to the table; one of *args hands on what comes."""
    for wrap in WRAPS:
        assert isinstance(wrap, Wrap)
        code = wrap.around(lambda: None).__code__
        own = [name for name in code.co_varnames[: code.co_argcount] if name != "self"]
        assert list(wrap.takes[: len(own)]) == own, wrap.label
