"""Whole layers of a step with few rows, residual and norm included, against the references of their parts."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import triton

from sglang_nemotron.ops import few_rows_reference as REFERENCE
from sglang_nemotron.ops.layers import MambaLayer
from sglang_nemotron.ops.schedules import Tile
from support import few_rows_cases as cases
from support.few_rows_cases import FLOAT8
from support.ops_cases import assert_near
from support.triton_cases import DEVICE, FULL_SIZE, INTERPRETED, ON_TRITON

pytestmark = ON_TRITON
# of the largest value; fp32: sums in another order. 16 bit: roundings fall elsewhere, a few spacings of a chain.
# FP8: a value between two neighbours may be quantised to either, an eighth of it, one of many terms of a sum
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4 * 2**-10, torch.bfloat16: 4 * 2**-7}
FLOAT8_TOLERANCE = 2e-2
# the interpreter cannot multiply bfloat16 and truncates FP8: CI runs float16, and FP8 of numbers that need no rounding
DTYPES = [torch.float32, torch.float16, *([] if INTERPRETED else [torch.bfloat16])]
HIDDEN = 40


@pytest.fixture
def triton_form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The form; at toy sizes rows of weights are cut into many steps, as they are at the model's."""
    module = importlib.import_module("sglang_nemotron.ops.few_rows_triton")
    if "size" not in request.node.name:
        monkeypatch.setattr(module, "_TILES", dict.fromkeys((1, 2), module.Tiles(*[Tile(4, 16, 4, 1)] * 5)))
    return module


def stream(num_rows: int, hidden: int, dtype: torch.dtype) -> torch.Tensor:
    """A residual stream as a view: rows lie apart."""
    return torch.randn(num_rows, hidden + 8).to(DEVICE, dtype)[:, :hidden]


def moved(h_TD: torch.Tensor, move: Callable[[torch.Tensor], None]) -> torch.Tensor:
    h_TD = h_TD.clone()
    move(h_TD)
    return h_TD


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_rows", "num_out", "num_in"), [(1, 8, HIDDEN), (2, 7, 130), (1, 18, 12)])
def test_linears(triton_form: Any, dtype: torch.dtype, num_rows: int, num_out: int, num_in: int) -> None:
    h_TD, norm, linear = (
        stream(num_rows, num_in, dtype),
        cases.norm(num_in, dtype),
        cases.linear(num_out, num_in, dtype),
    )
    assert_near(
        triton_form.norm_linear(h_TD, norm, linear), REFERENCE.norm_linear(h_TD, norm, linear), TOLERANCE[dtype]
    )
    into = stream(num_rows, num_out, dtype)
    found = moved(into, lambda h: triton_form.linear_add(h, h_TD, linear))
    assert_near(found, moved(into, lambda h: REFERENCE.linear_add(h, h_TD, linear)), TOLERANCE[dtype])


def run_mamba(module: Any, layer: MambaLayer, h_TD: torch.Tensor, kept: Any, slots: list[int]) -> list[torch.Tensor]:
    h_TD, conv_SCW, ssm_SHPN = h_TD.clone(), *(s.clone(memory_format=torch.preserve_format) for s in kept)
    module.mamba_layer(h_TD, layer, conv_SCW, ssm_SHPN, slots_B=torch.tensor(slots, device=DEVICE))
    return [h_TD, conv_SCW, ssm_SHPN]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("slots", "shapes"),
    [([3], {}), ([4, 2], {"bias": False, "width": 2}), ([-1, 5], {"heads": 6, "head_dim": 8, "groups": 3})],
)
def test_mamba_layer(triton_form: Any, dtype: torch.dtype, slots: list[int], shapes: dict[str, Any]) -> None:
    layer = cases.mamba(HIDDEN, dtype, dtype, **shapes)
    h_TD, kept = stream(len(slots), HIDDEN, dtype), cases.states(layer, 7, dtype)
    found = run_mamba(triton_form, layer, h_TD, kept, slots)
    expected = run_mamba(REFERENCE, layer, h_TD, kept, slots)
    for one, other in zip(found, expected, strict=True):
        assert_near(one, other, TOLERANCE[dtype])
    untouched = [slot for slot in range(7) if slot not in slots]
    assert torch.equal(found[1][untouched], kept[0][untouched]) and torch.equal(found[2][untouched], kept[1][untouched])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("num_rows", "shapes"),
    # steps of the shared expert's down product: two, seven (more than are under way at once), one
    [(1, {}), (2, {"experts": 5, "top_k": 1, "width": 7, "shared": 100}), (1, {"shared": 3})],
)
def test_moe_layer(triton_form: Any, dtype: torch.dtype, num_rows: int, shapes: dict[str, Any]) -> None:
    layer, h_TD = cases.moe(HIDDEN, dtype, dtype, **shapes), stream(num_rows, HIDDEN, dtype)
    found = moved(h_TD, lambda h: triton_form.moe_layer(h, layer))
    assert_near(found, moved(h_TD, lambda h: REFERENCE.moe_layer(h, layer)), TOLERANCE[dtype])
    # counters are back at zero, so a second call finds what the first found
    assert torch.equal(moved(h_TD, lambda h: triton_form.moe_layer(h, layer)), found)


def test_rows_do_not_meet(triton_form: Any) -> None:
    layer, h_TD = cases.moe(HIDDEN, torch.float32, torch.float32), stream(2, HIDDEN, torch.float32)
    both = moved(h_TD, lambda h: triton_form.moe_layer(h, layer))
    for row in range(2):
        assert torch.equal(both[row : row + 1], moved(h_TD[row : row + 1], lambda h: triton_form.moe_layer(h, layer)))


@FULL_SIZE
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("num_rows", [1, 2])
def test_full_size_float8(triton_form: Any, num_rows: int, per_row: bool) -> None:
    dtype, hidden = torch.bfloat16, 2688
    h_TD, slots = stream(num_rows, hidden, dtype), [2, 4][:num_rows]
    layer = cases.mamba(hidden, dtype, FLOAT8, heads=64, head_dim=64, groups=8, state=128, per_row=per_row)
    kept = cases.states(layer, 6, dtype, state=128)
    found, expected = (run_mamba(m, layer, h_TD, kept, slots) for m in (triton_form, REFERENCE))
    for one, other in zip(found, expected, strict=True):
        assert_near(one, other, FLOAT8_TOLERANCE)
    for shared in (FLOAT8, dtype):
        moe = cases.moe(hidden, dtype, FLOAT8, experts=16, top_k=6, width=1856, shared=3712, shared_dtype=shared)
        found = moved(h_TD, lambda h, moe=moe: triton_form.moe_layer(h, moe))
        assert_near(found, moved(h_TD, lambda h, moe=moe: REFERENCE.moe_layer(h, moe)), FLOAT8_TOLERANCE)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a layer keeps between its launches begins as NaN, or as an expert that does not exist."""
    empty = torch.empty

    def filled(*args: Any, **options: Any) -> torch.Tensor:
        made = empty(*args, **options)
        if made.dtype == FLOAT8:
            made.view(torch.uint8).fill_(0x7F)
            return made
        return made.fill_(float("nan") if made.is_floating_point() else 10**6)

    monkeypatch.setattr(torch, "empty", filled)


@pytest.mark.parametrize("num_rows", [1, 2])
def test_nothing_is_read_before_it_is_written(triton_form: Any, poisoned: None, num_rows: int) -> None:
    dtype = torch.float16
    h_TD, mamba, moe = (
        stream(num_rows, HIDDEN, dtype),
        cases.mamba(HIDDEN, dtype, dtype),
        cases.moe(HIDDEN, dtype, dtype),
    )
    kept = cases.states(mamba, 6, dtype)
    assert all(found.isfinite().all() for found in run_mamba(triton_form, mamba, h_TD, kept, [2, 4][:num_rows]))
    assert moved(h_TD, lambda h: triton_form.moe_layer(h, moe)).isfinite().all()


@FULL_SIZE
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("weights", [torch.bfloat16, FLOAT8])
def test_full_size_many_tokens(triton_form: Any, poisoned: None, weights: torch.dtype, per_row: bool) -> None:
    sizes = {"experts": 128, "top_k": 6, "width": 1856, "shared": 3712}
    moe = cases.moe(2688, torch.bfloat16, weights, per_row=per_row, **sizes)
    for _ in range(300):
        assert moved(stream(1, 2688, torch.bfloat16), lambda h: triton_form.moe_layer(h, moe)).isfinite().all()


@FULL_SIZE
def test_full_size_in_a_graph(triton_form: Any) -> None:
    dtype, hidden = torch.bfloat16, 2688
    h_TD = stream(1, hidden, dtype)
    mamba = cases.mamba(hidden, dtype, dtype, heads=64, head_dim=64, groups=8, state=128)
    moe = cases.moe(hidden, dtype, dtype, experts=128, top_k=6, width=1856, shared=3712)
    kept, slots_B = cases.states(mamba, 4, dtype, state=128), torch.tensor([2], device=DEVICE)

    def step(module: Any, h: torch.Tensor, conv: torch.Tensor, ssm: torch.Tensor) -> None:
        module.mamba_layer(h, mamba, conv, ssm, slots_B=slots_B)
        module.moe_layer(h, moe)

    def fresh() -> list[torch.Tensor]:
        return [h_TD.clone(), *(s.clone(memory_format=torch.preserve_format) for s in kept)]

    expected, called, replayed = fresh(), fresh(), fresh()
    step(REFERENCE, *expected)
    step(triton_form, *called)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(triton_form, *replayed)
    graph.replay()
    for one, other, again in zip(called, expected, replayed, strict=True):
        assert_near(one, other, TOLERANCE[dtype])
        assert torch.equal(one, again)


def test_refuses_what_it_was_not_built_for(triton_form: Any) -> None:
    h_TD, norm = stream(1, HIDDEN, torch.float16), cases.norm(HIDDEN, torch.float16)
    linear = cases.linear(8, HIDDEN + 1, torch.float16)
    with pytest.raises(ValueError, match=r"weight of shape \(8, 41\)"):
        triton_form.norm_linear(h_TD, norm, linear)
    layer = cases.mamba(HIDDEN, torch.float16, torch.float16, heads=3, head_dim=2, groups=1, state=16)
    with pytest.raises(ValueError, match="no multiples of 4"):
        run_mamba(triton_form, layer, h_TD, cases.states(layer, 3, torch.float16), [1])


# what is made wrong -> (file, what it says, what it shall say instead, the kernel that is taken from there)
FAULTS = {
    "steps": ("_few_stream_triton", "if step + 4 < steps:", "if step + 5 < steps:", "streamed"),
    "norm": ("_few_stream_triton", "/ K + eps)", "+ eps)", "streamed"),
    "shared": ("_few_moe_triton", "out += beside + tl.load(", "out += tl.load(", "down_and_add_kernel"),
    "residual": ("_few_moe_triton", "out += beside + tl.load(", "out += beside + 0 * tl.load(", "down_and_add_kernel"),
    "ahead": ("_few_moe_triton", "step + ahead < steps", "step + ahead + 1 < steps", "down_and_add_kernel"),
    "logits": ("_few_moe_triton", "t * E + es, logits", "t * E + es, -logits", "route_and_shared_up_kernel"),
    "kept": ("_few_moe_triton", "x_TD + t * D, eps", "x_TD, eps", "route_and_shared_up_kernel"),
    "window": ("_few_mamba_triton", "_shift(out, ", "_shift(2 * out, ", "mamba_in_kernel"),
    "decay": ("_few_mamba_triton", "head) * 2 + 1, decay", "head) * 2 + 1, dt", "mamba_in_kernel"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_comparison_sees_a_fault(
    triton_form: Any, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, old, new, kernel = FAULTS[fault]
    source = Path(triton_form.__file__).with_name(f"{file}.py").read_text()
    assert old in source
    path = tmp_path / f"broken{file}.py"
    path.write_text(source.replace(old, new))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(triton_form, kernel, getattr(module, kernel))
    if kernel == "streamed":
        # a kernel that is compiled already keeps the functions that it called then
        monkeypatch.setattr(triton_form, "_linear_kernel", triton.jit(triton_form._linear_kernel.fn))
    # a counter that was left wrong must not meet the tests that follow
    zeroes = torch.zeros(8, dtype=torch.int32, device=DEVICE)
    monkeypatch.setattr(triton_form, "_counters", lambda device: zeroes)
    with pytest.raises(AssertionError):
        if kernel == "streamed":
            test_linears(triton_form, torch.float32, 2, 7, 130)
        elif kernel == "mamba_in_kernel":
            test_mamba_layer(triton_form, torch.float32, [4, 2], {})
        else:
            test_moe_layer(triton_form, torch.float32, 2, {"shared": 100})
