"""One decode token: both forms against each other, transformers 5.19, and the meaning of slots."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ops_cases import NAN, Scan, assert_near, fast, form, ours, ragged, scan_case, serving
from transformers.models.nemotron_h import modeling_nemotron_h as hf

REFERENCE, TORCH = form("ssm_step", "reference"), form("ssm_step", "torch")
FORMS, FAST = ours("ssm_step"), fast("ssm_step")

# of the largest value. fp32: a sum over N in another order; 16 bit: one rounding of nearly equal values
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def step_case(slots: list[int], **shapes: Any) -> tuple[Scan, torch.Tensor]:
    """Rows of padding are NaN, and so is every slot that is not named."""
    named = sorted({slot for slot in slots if slot >= 0})
    tail = len(slots) - len(named)
    case = scan_case(ragged([1] * len(named), named, [True] * len(named)), tail=tail, **shapes)
    fresh = {name: torch.randn(getattr(case, name).shape).to(case.x_THP.dtype) for name in ("x_THP", "B_TGN", "C_TGN")}
    for tensor in fresh.values():
        tensor[[slot < 0 for slot in slots]] = NAN
    dt_TH = torch.randn(len(slots), 30)[:, 3 : 3 + case.A_H.shape[0]].to(case.x_THP.dtype)
    return replace(case, **fresh, dt_TH=dt_TH), torch.tensor(slots)


def compare(module: Any, case: Scan, slots_B: torch.Tensor) -> None:
    y, state = case.step(module, slots_B)
    expected_y, expected_state = case.step(REFERENCE, slots_B)
    assert not expected_y.isnan().any()
    # rows of the padding slot 0 promise nothing
    state[0] = expected_state[0] = 0
    assert_near(y[slots_B != 0], expected_y[slots_B != 0], TOLERANCE[y.dtype])
    assert_near(state, expected_state, TOLERANCE[state.dtype])


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("slots", [[3], [-1], [4, -1, 2, -1], [1, 2, 3, 4], [7, 0, 0], [11, 5, 1]])
def test_equals_reference(name: str, slots: list[int], dtype: torch.dtype, state_dtype: torch.dtype) -> None:
    compare(form("ssm_step", name), *step_case(slots, dtype=dtype, state_dtype=state_dtype))


# of the largest value; on a GPU exp, softplus and sums over N are another's, and a state of 16 bits is rounded once
TOLERANCE_SERVED = {torch.float32: 1e-5, torch.bfloat16: 2**-7}


@pytest.mark.parametrize("name", serving("ssm_step"))
@pytest.mark.parametrize("state_dtype", TOLERANCE_SERVED, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE_SERVED, ids=str)
@pytest.mark.parametrize(("groups", "head_dim", "state"), [(2, 16, 16), (8, 64, 128)])
def test_forms_that_serve_equal_the_reference(
    name: str, dtype: torch.dtype, state_dtype: torch.dtype, groups: int, head_dim: int, state: int
) -> None:
    case, slots_B = step_case(
        [4, 2, 9, 7, -1], dtype=dtype, state_dtype=state_dtype, groups=groups, head_dim=head_dim, state=state
    )
    y, kept = case.step(form("ssm_step", name), slots_B.int())
    expected_y, expected = case.step(REFERENCE, slots_B)
    # a row of padding promises nothing, and writes nothing
    assert_near(y[:4], expected_y[:4], TOLERANCE_SERVED[dtype])
    assert_near(kept, expected, TOLERANCE_SERVED[state_dtype])


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("state", [16, 64, 128])
@pytest.mark.parametrize("in_place_from", [1, 1 << 30])
@pytest.mark.parametrize("matmul_from", [1, 1 << 30])
def test_torch_equals_reference_for_other_shapes(
    monkeypatch: pytest.MonkeyPatch, groups: int, state: int, in_place_from: int, matmul_from: int
) -> None:
    monkeypatch.setattr(TORCH, "_IN_PLACE_FROM", in_place_from)
    monkeypatch.setattr(TORCH, "_MATMUL_FROM", matmul_from)
    compare(TORCH, *step_case([4, -1, 2, 9], groups=groups, state=state))


def test_slots_may_be_int32() -> None:
    case, slots_B = step_case([4, 2, -1])
    compare(TORCH, case, slots_B.int())


def test_a_strided_state_is_written_through() -> None:
    case, slots_B = step_case([4])
    compare(TORCH, case, slots_B)
    state_SHPN = case.state_SHPN.transpose(2, 3).contiguous().transpose(2, 3)
    fixed = (case.A_H, case.B_TGN, case.C_TGN, case.D_H, case.dt_bias_H)
    y = TORCH.ssm_step(case.x_THP, case.dt_TH, *fixed, state_SHPN, slots_B=slots_B)
    expected_y, expected_state = case.step(REFERENCE, slots_B)
    assert_near(y, expected_y, 1e-6)
    assert_near(state_SHPN, expected_state, 1e-6)


def test_dt_limit_clamps() -> None:
    case, slots_B = step_case([4, 2])
    compare(TORCH, replace(case, dt_limit=(0.5, 0.9)), slots_B)
    assert not torch.equal(
        replace(case, dt_limit=(0.5, 0.9)).step(REFERENCE, slots_B)[0], case.step(REFERENCE, slots_B)[0]
    )


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_equals_transformers(name: str, groups: int) -> None:
    case, slots_B = step_case([4, 2, 7], groups=groups)
    y, state = case.step(form("ssm_step", name), slots_B)
    H, P, N = case.state_SHPN.shape[1:]
    expected_state = case.state_SHPN[slots_B].clone()
    expected_y = hf.mamba2_selective_state_update(
        expected_state,
        case.x_THP,
        case.dt_TH[:, :, None].expand(-1, H, P),
        case.A_H[:, None, None].expand(H, P, N),
        case.B_TGN,
        case.C_TGN,
        case.D_H[:, None].expand(H, P),
        dt_bias=case.dt_bias_H[:, None].expand(H, P),
        dt_softplus=True,
    )
    assert_near(y, expected_y, 1e-6)
    assert_near(state[slots_B], expected_state, 1e-6)


@pytest.mark.parametrize("name", FORMS)
def test_batch_is_alone_and_slots_can_be_permuted(name: str) -> None:
    case, slots_B = step_case([4, 2, 7, 9])
    y, state = case.step(form("ssm_step", name), slots_B)
    for b in range(4):
        y_alone, state_alone = case.tokens(slice(b, b + 1), case.batch).step(form("ssm_step", name), slots_B[b : b + 1])
        assert_near(y[b : b + 1], y_alone, 1e-6)
        assert_near(state[slots_B[b]], state_alone[slots_B[b]], 1e-6)
    order = torch.randperm(12)
    moved = replace(case, state_SHPN=case.state_SHPN[order])
    y_moved, state_moved = moved.step(form("ssm_step", name), order.argsort()[slots_B])
    assert torch.equal(y, y_moved)
    assert_near(state_moved, state[order], 0.0)


@pytest.mark.parametrize("name", FORMS)
def test_padding_rows_are_zero_and_foreign_slots_untouched(name: str) -> None:
    case, slots_B = step_case([4, -1, -1])
    y, state = case.step(form("ssm_step", name), slots_B)
    assert torch.equal(y[1:], torch.zeros(2, 8, 4))
    assert state[[s for s in range(12) if s != 4]].isnan().all()


@pytest.mark.parametrize("name", FORMS)
def test_no_rows_do_nothing(name: str) -> None:
    case, slots_B = step_case([])
    y, state = case.step(form("ssm_step", name), slots_B.long())
    assert y.shape == (0, 8, 4) and state.isnan().all()


def fault_groups_swapped(x, dt, A, B, C, D, bias, state, **rest):  # type: ignore[no-untyped-def]
    return TORCH.ssm_step(x, dt, A, B.flip(1), C.flip(1), D, bias, state, **rest)


def fault_no_skip(x, dt, A, B, C, D, bias, state, **rest):  # type: ignore[no-untyped-def]
    return TORCH.ssm_step(x, dt, A, B, C, torch.zeros_like(D), bias, state, **rest)


def fault_no_dt_bias(x, dt, A, B, C, D, bias, state, **rest):  # type: ignore[no-untyped-def]
    return TORCH.ssm_step(x, dt, A, B, C, D, torch.zeros_like(bias), state, **rest)


def fault_old_state_read_out(x, dt, A, B, C, D, bias, state, **rest):  # type: ignore[no-untyped-def]
    old = TORCH.ssm_step(x, dt - 1e4, A, B, C, D, bias, state.clone(), **rest)
    TORCH.ssm_step(x, dt, A, B, C, D, bias, state, **rest)
    return old


@pytest.mark.parametrize("fault", [fault_groups_swapped, fault_no_skip, fault_no_dt_bias, fault_old_state_read_out])
def test_the_comparison_sees_a_fault(fault: Any) -> None:
    with pytest.raises(AssertionError):
        compare(SimpleNamespace(ssm_step=fault), *step_case([4, -1, 2]))
