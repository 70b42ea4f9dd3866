"""The scan: chunk algebra against the token-by-token recurrence, transformers 5.19, and the meaning of slots."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_cases import Scan, assert_near, error, fast, form, ours, ragged, scan_case, serving, snapshots
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.nemotron_h import modeling_nemotron_h as hf

REFERENCE, TORCH = form("ssd", "reference"), form("ssd", "torch")
FORMS, FAST = ours("ssd"), fast("ssd")
BOTH = ours("ssd", "ssm_step")

# of the largest value. fp32: sums of up to N * Q products in another order; 16 bit: one rounding of nearly equal values
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def compare(module: Any, case: Scan) -> None:
    y, state = case.run(module)
    expected_y, expected_state = case.run(REFERENCE)
    assert not expected_y.isnan().any()
    assert_near(y, expected_y, TOLERANCE[y.dtype])
    assert_near(state, expected_state, TOLERANCE[state.dtype])


def mixed_batch(chunk_size: int = 128) -> tuple[Any, Any]:
    batch = ragged(
        [5, 0, 70, 2, 1, 0, 64, 33],
        [3, 1, 4, 7, 5, 9, 11, 0],
        [True, True, False, True, False, False, True, False],
        chunk_size,
    )
    return batch, snapshots((0, 1, 10), (2, 64, 2), (2, 70, 6), (3, 0, 8))


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_equals_reference(name: str, dtype: torch.dtype, state_dtype: torch.dtype) -> None:
    compare(form("ssd", name), scan_case(*mixed_batch(), dtype=dtype, state_dtype=state_dtype))


# of the largest value, for products on matrix units: their operands are rounded to 10 bits (fp32 as TF32) or to 8
TOLERANCE_SERVED = {torch.float32: 2**-9, torch.bfloat16: 2**-6}


@pytest.mark.parametrize("name", serving("ssd"))
@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", TOLERANCE_SERVED, ids=str)
@pytest.mark.parametrize(("groups", "head_dim", "state"), [(2, 16, 16), (8, 64, 128)])
def test_forms_that_serve_equal_the_reference(
    name: str, dtype: torch.dtype, state_dtype: torch.dtype, groups: int, head_dim: int, state: int
) -> None:
    """On what a server sends: no empty sequence, no padding, and states kept after whole chunks."""
    initial = [True, False, True, False, False, True]
    batch = ragged([5, 70, 2, 1, 64, 33], [3, 4, 7, 5, 9, 1], initial, 16)
    # on the grid of the flattened batch, off it, and at a sequence's end
    wanted = snapshots((1, 64, 2), (4, 64, 6), (5, 16, 10))
    case = scan_case(batch, wanted, 8, head_dim, groups, state, dtype=dtype, state_dtype=state_dtype, tail=0)
    (y, kept), (expected_y, expected) = case.run(form("ssd", name)), case.run(REFERENCE)
    written = [1, 2, 3, 4, 5, 6, 7, 9, 10]
    assert_near(y, expected_y, TOLERANCE_SERVED[dtype])
    assert_near(kept[written], expected[written], max(TOLERANCE_SERVED[dtype], TOLERANCE_SERVED[state_dtype]))
    assert kept[[0, 8, 11]].isnan().all()


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("state", [16, 64, 128])
@pytest.mark.parametrize("chunk_size", [16, 64, 128, 256])
def test_equals_reference_for_other_shapes(name: str, groups: int, state: int, chunk_size: int) -> None:
    compare(form("ssd", name), scan_case(*mixed_batch(chunk_size), groups=groups, state=state))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 19), st.booleans(), st.integers(0, 19)), min_size=1, max_size=6))
def test_torch_equals_reference_for_any_short_batch(rows: list[tuple[int, bool, int]]) -> None:
    # chunks of 4: these lengths cross up to four boundaries
    batch = ragged([length for length, _, _ in rows], list(range(len(rows))), [initial for _, initial, _ in rows], 4)
    wanted = snapshots(*((r, min(end, length), 11 - r) for r, (length, _, end) in enumerate(rows)))
    compare(TORCH, scan_case(batch, wanted, heads=4, head_dim=3, state=5))


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("length", [31, 32, 33, 63, 64, 65, 127, 128, 129])
def test_equals_reference_around_chunk_boundaries(name: str, length: int) -> None:
    wanted = snapshots((0, 32, 3), (0, min(length, 64), 4), (0, length - 1, 5), (0, length, 6)) if length > 31 else None
    compare(form("ssd", name), scan_case(ragged([length], [1], [True]), wanted))


@pytest.mark.parametrize(("block", "states"), [(1, 1), (9000, 1024), (40000, 1 << 25)])
def test_torch_equals_reference_in_small_pieces(monkeypatch: pytest.MonkeyPatch, block: int, states: int) -> None:
    # a chunk has 2,048 numbers at most and a state 512: blocks of one, four and 19 chunks, groups of one, two and all
    monkeypatch.setattr(TORCH, "_BLOCK_NUMBERS", block)
    monkeypatch.setattr(TORCH, "_STATE_NUMBERS", states)
    compare(TORCH, scan_case(*mixed_batch()))


def test_dt_limit_clamps() -> None:
    case = replace(scan_case(*mixed_batch()), dt_limit=(0.5, 0.9))
    compare(TORCH, case)
    free = replace(case, dt_limit=(0.0, float("inf")))
    assert error(case.run(REFERENCE)[0], free.run(REFERENCE)[0]) > 0.1


def test_small_steps_after_large_ones_keep_their_digits() -> None:
    """exp of a difference of two large sums: fp32 sums are wrong by over 1e-4 here."""
    case = scan_case(ragged([256], [1], [False]), tail=0)
    dt_TH = torch.full_like(case.dt_TH, -5.0)
    dt_TH[::16] = 40.0
    case = replace(case, dt_TH=dt_TH, A_H=torch.full_like(case.A_H, -60.0), dt_bias_H=torch.zeros_like(case.dt_bias_H))
    # D x would hide the small terms
    case = replace(case, D_H=torch.zeros_like(case.D_H))
    # each token against its own magnitude
    y, expected = case.run(TORCH)[0], case.run(REFERENCE)[0]
    worst = ((y - expected).abs().amax((1, 2)) / expected.abs().amax((1, 2))).max().item()
    assert worst <= 1e-5, worst


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("length", [1, 7, 64, 100])
def test_equals_transformers(name: str, groups: int, length: int) -> None:
    case = scan_case(ragged([length], [2], [True]), groups=groups, tail=0)
    y, state = case.run(form("ssd", name))
    heads = {"D": case.D_H, "dt_bias": case.dt_bias_H, "dt_softplus": True, "dt_limit": (0.0, float("inf"))}
    expected_y, expected_state = hf.mamba2_chunk_scan(
        case.x_THP[None],
        case.dt_TH[None],
        case.A_H,
        case.B_TGN[None],
        case.C_TGN[None],
        chunk_size=32,
        initial_states=case.state_SHPN[2:3],
        return_final_states=True,
        **heads,
    )
    assert_near(y, expected_y[0], 5e-6)
    assert_near(state[2], expected_state[0], 5e-6)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("length", [1, 2, 32, 33, 65])
@pytest.mark.parametrize("initial", [True, False])
def test_all_but_one_then_a_step_is_all(name: str, length: int, initial: bool) -> None:
    module = form("ssd", name)
    whole = scan_case(ragged([length], [2], [initial]), tail=0)
    expected_y, expected_state = whole.run(module)
    y, state = whole.tokens(slice(0, length - 1), ragged([length - 1], [2], [initial])).run(module)
    last = whole.tokens(slice(length - 1, length), ragged([1], [2], [True]), state)
    y_last, state = last.step(form("ssm_step", name), torch.tensor([2]))
    assert_near(torch.cat([y, y_last]), expected_y, 2e-6)
    assert_near(state[2], expected_state[2], 2e-6)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("cut", [0, 1, 31, 32, 33, 64, 70])
def test_two_chunks_are_one(name: str, cut: int) -> None:
    module = form("ssd", name)
    whole = scan_case(ragged([70], [2], [True]), tail=0)
    expected_y, expected_state = whole.run(module)
    y1, state = whole.tokens(slice(0, cut), ragged([cut], [2], [True])).run(module)
    y2, state = whole.tokens(slice(cut, 70), ragged([70 - cut], [2], [True]), state).run(module)
    assert_near(torch.cat([y1, y2]), expected_y, 2e-6)
    assert_near(state[2], expected_state[2], 2e-6)


@pytest.mark.parametrize("name", FORMS)
def test_batch_is_alone(name: str) -> None:
    module = form("ssd", name)
    batch, _ = mixed_batch()
    case = scan_case(batch)
    y, state = case.run(module)
    begin = 0
    for length, slot, initial in zip(batch.seq_lens, batch.slots_R.tolist(), batch.has_initial, strict=True):
        rows = slice(begin, begin + length)
        y_alone, state_alone = case.tokens(rows, ragged([length], [slot], [initial])).run(module)
        assert_near(y[rows], y_alone, 1e-6)
        assert_near(state[slot], state_alone[slot], 1e-6)
        begin += length


@pytest.mark.parametrize("name", FORMS)
def test_one_sequence_of_nan_stays_alone(name: str) -> None:
    case = scan_case(ragged([40, 40, 40], [1, 2, 3], [False] * 3))
    expected_y, expected_state = case.run(form("ssd", name))
    x_THP = case.x_THP.clone()
    x_THP[40:80] = float("nan")
    y, state = replace(case, x_THP=x_THP).run(form("ssd", name))
    for rows in (slice(0, 40), slice(80, None)):
        assert torch.equal(y[rows], expected_y[rows])
    assert torch.equal(state[[1, 3]], expected_state[[1, 3]]) and state[2].isnan().any()


@pytest.mark.parametrize("name", FORMS)
def test_slots_can_be_permuted(name: str) -> None:
    case = scan_case(ragged([5, 40], [1, 4], [True, False]))
    y, state = case.run(form("ssd", name))
    order = torch.randperm(12)
    slots = order.argsort()[case.batch.slots_R].tolist()
    moved = replace(case, state_SHPN=case.state_SHPN[order], batch=ragged([5, 40], slots, [True, False]))
    y_moved, state_moved = moved.run(form("ssd", name))
    assert torch.equal(y, y_moved)
    assert_near(state_moved, state[order], 0.0)


@pytest.mark.parametrize("name", FORMS)
def test_padding_rows_are_zero_and_foreign_slots_untouched(name: str) -> None:
    y, state = scan_case(ragged([5, 40], [1, 4], [True, False]), tail=4).run(form("ssd", name))
    assert torch.equal(y[45:], torch.zeros(4, 8, 4))
    assert state[[s for s in range(12) if s not in (1, 4)]].isnan().all()


@pytest.mark.parametrize("name", FORMS)
def test_empty_sequences_keep_or_clear_their_state(name: str) -> None:
    case = scan_case(ragged([0, 0], [1, 4], [True, False]), snapshots((0, 0, 5)), tail=0)
    y, state = case.run(form("ssd", name))
    assert y.shape == (0, 8, 4)
    assert torch.equal(state[1], case.state_SHPN[1]) and torch.equal(state[5], case.state_SHPN[1])
    assert torch.equal(state[4], torch.zeros(8, 4, 16))


@pytest.mark.parametrize("name", FORMS)
def test_an_empty_batch_does_nothing(name: str) -> None:
    y, state = scan_case(ragged([], [], []), tail=2).run(form("ssd", name))
    assert torch.equal(y, torch.zeros(2, 8, 4)) and state.isnan().all()


class _Largest(TorchDispatchMode):
    """The size of the largest tensor any call returns."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                # an expanded view holds no memory of its own
                self.numel = max(self.numel, min(tensor.numel(), tensor.untyped_storage().nbytes() // 2))
        return out


@pytest.mark.parametrize(("block", "bounded"), [(1 << 14, True), (1 << 30, False)])
def test_temporaries_are_bounded(monkeypatch: pytest.MonkeyPatch, block: int, bounded: bool) -> None:
    monkeypatch.setattr(TORCH, "_BLOCK_NUMBERS", block)
    case = scan_case(ragged([1500], [1], [False]), head_dim=2)
    with _Largest() as largest:
        case.run(TORCH)
    # nothing larger than the inputs, unless all decay matrices are made at once: heads * T * Q = 192,000 numbers
    assert (largest.numel <= 1503 * (8 * 2 + 2 * 2 * 16)) is bounded, largest.numel


def fault_groups_interleaved(x, dt, A, B, C, D, bias, state, **places):  # type: ignore[no-untyped-def]
    return TORCH.ssd_prefill(x, dt, A, B.flip(1), C.flip(1), D, bias, state, **places)


def fault_no_skip(x, dt, A, B, C, D, bias, state, **places):  # type: ignore[no-untyped-def]
    return TORCH.ssd_prefill(x, dt, A, B, C, torch.zeros_like(D), bias, state, **places)


def fault_no_dt_bias(x, dt, A, B, C, D, bias, state, **places):  # type: ignore[no-untyped-def]
    return TORCH.ssd_prefill(x, dt, A, B, C, D, torch.zeros_like(bias), state, **places)


def fault_snapshot_one_early(x, dt, A, B, C, D, bias, state, *, snapshots, **places):  # type: ignore[no-untyped-def]
    early = replace(snapshots, ends=[max(end - 1, 0) for end in snapshots.ends])
    return TORCH.ssd_prefill(x, dt, A, B, C, D, bias, state, snapshots=early, **places)


def fault_initial_ignored(x, dt, A, B, C, D, bias, state, *, batch, **places):  # type: ignore[no-untyped-def]
    fresh = replace(batch, has_initial=[False] * len(batch.seq_lens))
    return TORCH.ssd_prefill(x, dt, A, B, C, D, bias, state, batch=fresh, **places)


def fault_state_not_written(x, dt, A, B, C, D, bias, state, **places):  # type: ignore[no-untyped-def]
    return TORCH.ssd_prefill(x, dt, A, B, C, D, bias, state.clone(), **places)


FAULTS = [
    fault_groups_interleaved,
    fault_no_skip,
    fault_no_dt_bias,
    fault_snapshot_one_early,
    fault_initial_ignored,
    fault_state_not_written,
]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_comparison_sees_a_fault(fault: Any) -> None:
    with pytest.raises(AssertionError):
        compare(SimpleNamespace(ssd_prefill=fault), scan_case(*mixed_batch()))
