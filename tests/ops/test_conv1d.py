"""The convolution: both forms against each other, transformers 5.19, and the meaning of slots and padding."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_cases import NAN, Conv, assert_near, conv_case, fast, form, ours, ragged, serving, snapshots
from transformers.models.nemotron_h import modeling_nemotron_h as hf

REFERENCE, TORCH = form("conv1d", "reference"), form("conv1d", "torch")
FORMS, FAST = ours("conv1d"), fast("conv1d")

# fp32: a sum of K + 1 products in another order; 16 bit: one rounding of nearly equal fp32 values
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def compare(module: object, case: Conv) -> None:
    y, state = case.run(module)  # type: ignore[arg-type]
    expected_y, expected_state = case.run(REFERENCE)
    assert not expected_y.isnan().any()
    assert_near(y, expected_y, TOLERANCE[y.dtype])
    # windows are copies of inputs: not a bit may differ
    assert_near(state, expected_state, 0.0)


def mixed_batch() -> tuple[object, object]:
    batch = ragged([5, 0, 70, 2, 1, 0, 64], [3, 1, 4, 7, 5, 9, 11], [True, True, False, True, False, False, True])
    return batch, snapshots((0, 1, 0), (2, 64, 2), (2, 70, 6), (3, 0, 8), (6, 33, 10))


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_reference(name: str, dtype: torch.dtype, state_dtype: torch.dtype, bias: bool) -> None:
    compare(form("conv1d", name), conv_case(*mixed_batch(), bias=bias, dtype=dtype, state_dtype=state_dtype))


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("width", [2, 3, 4, 5])
def test_equals_reference_for_other_widths(name: str, width: int) -> None:
    compare(form("conv1d", name), conv_case(*mixed_batch(), width=width))


@pytest.mark.parametrize("name", serving("conv1d"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_forms_that_serve_equal_the_reference(name: str, dtype: torch.dtype, bias: bool) -> None:
    """On what a server sends: no empty sequence, no padding, and windows kept after whole chunks."""
    batch = ragged([5, 70, 2, 1, 64], [3, 4, 7, 5, 11], [True, False, True, False, True])
    case = conv_case(batch, snapshots((1, 64, 2), (4, 32, 6)), bias=bias, dtype=dtype, state_dtype=dtype, tail=0)
    compare(form("conv1d", name), case)


@pytest.mark.parametrize("name", serving("conv1d"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_of_forms_that_serve_equal_the_reference(name: str, dtype: torch.dtype) -> None:
    case = conv_case(ragged([1] * 4, [1, 2, 3, 9], [True] * 4), dtype=dtype, state_dtype=dtype, tail=1)
    slots_B, results = torch.tensor([2, 9, 1, 3, -1], dtype=torch.int32), []
    for module in (form("conv1d", name), REFERENCE):
        state = case.state_SCW.clone(memory_format=torch.preserve_format)
        y = module.conv1d_step(case.x_TC, case.weight_CK, case.bias_C, state, slots_B=slots_B)
        # a row of padding promises nothing
        results.append((y[:4], state))
    # two fp32 sums on either side of a tie are a whole step of 16 bits apart
    assert_near(results[0][0], results[1][0], 2 * TOLERANCE[dtype])
    assert_near(results[0][1], results[1][1], 0.0)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.integers(0, 9)), min_size=1, max_size=6))
def test_torch_equals_reference_for_any_short_batch(rows: list[tuple[int, bool, int]]) -> None:
    batch = ragged([length for length, _, _ in rows], list(range(len(rows))), [initial for _, initial, _ in rows])
    wanted = snapshots(*((r, min(end, length), 11 - r) for r, (length, _, end) in enumerate(rows)))
    compare(TORCH, conv_case(batch, wanted, channels=5))


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("length", [1, 2, 3, 4, 50])
def test_equals_transformers(name: str, length: int) -> None:
    case = conv_case(ragged([length], [2], [False]), tail=0)
    y, state = case.run(form("conv1d", name))
    inputs_1CT = case.x_TC.t()[None]
    expected = hf.causal_conv1d_fn(inputs_1CT, case.weight_CK, case.bias_C, activation="silu")[0].t()
    assert_near(y, expected, 1e-6)
    # one more token on the window that was left behind
    new_1C = torch.randn(1, case.x_TC.shape[1])
    window_1CW = state[2:3].clone()
    expected = hf.causal_conv1d_update(new_1C[:, :, None], window_1CW, case.weight_CK, case.bias_C, "silu")[:, :, 0]
    module = form("conv1d", name)
    y = module.conv1d_step(new_1C, case.weight_CK, case.bias_C, state, slots_B=torch.tensor([2]))
    assert_near(y, expected, 1e-6)
    assert torch.equal(state[2:3], window_1CW)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("initial", [True, False])
def test_all_but_one_then_a_step_is_all(name: str, length: int, initial: bool) -> None:
    module = form("conv1d", name)
    whole = conv_case(ragged([length], [2], [initial]), tail=0)
    expected_y, expected_state = whole.run(module)
    first = replace(whole, x_TC=whole.x_TC[:-1], batch=ragged([length - 1], [2], [initial]))
    y, state = first.run(module)
    last = module.conv1d_step(whole.x_TC[-1:], whole.weight_CK, whole.bias_C, state, slots_B=torch.tensor([2]))
    assert_near(torch.cat([y, last]), expected_y, 1e-6)
    assert torch.equal(state[2], expected_state[2])


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("cut", [0, 1, 2, 3, 4, 8, 9])
def test_two_chunks_are_one(name: str, cut: int) -> None:
    module = form("conv1d", name)
    whole = conv_case(ragged([9], [2], [True]), tail=0)
    expected_y, expected_state = whole.run(module)
    y1, state = replace(whole, x_TC=whole.x_TC[:cut], batch=ragged([cut], [2], [True])).run(module)
    rest = replace(whole, x_TC=whole.x_TC[cut:], batch=ragged([9 - cut], [2], [True]), state_SCW=state)
    y2, state = rest.run(module)
    assert_near(torch.cat([y1, y2]), expected_y, 1e-6)
    assert torch.equal(state[2], expected_state[2])


@pytest.mark.parametrize("name", FORMS)
def test_batch_is_alone(name: str) -> None:
    module = form("conv1d", name)
    batch, _ = mixed_batch()
    case = conv_case(batch)
    y, state = case.run(module)
    begin = 0
    for length, slot, initial in zip(batch.seq_lens, batch.slots_R.tolist(), batch.has_initial, strict=True):
        alone = replace(case, x_TC=case.x_TC[begin : begin + length], batch=ragged([length], [slot], [initial]))
        y_alone, state_alone = alone.run(module)
        assert_near(y[begin : begin + length], y_alone, 1e-6)
        assert torch.equal(state[slot], state_alone[slot])
        begin += length


@pytest.mark.parametrize("name", FORMS)
def test_slots_can_be_permuted(name: str) -> None:
    module = form("conv1d", name)
    case = conv_case(ragged([5, 3], [1, 4], [True, False]))
    y, state = case.run(module)
    order = torch.randperm(12)
    slots = order.argsort()[case.batch.slots_R].tolist()
    moved = replace(case, state_SCW=case.state_SCW[order], batch=ragged([5, 3], slots, [True, False]))
    y_moved, state_moved = moved.run(module)
    assert torch.equal(y, y_moved)
    assert_near(state_moved, state[order], 0.0)


@pytest.mark.parametrize("name", FORMS)
def test_padding_rows_are_zero_and_foreign_slots_untouched(name: str) -> None:
    case = conv_case(ragged([5, 3], [1, 4], [True, False]), tail=4)
    y, state = case.run(form("conv1d", name))
    assert torch.equal(y[8:], torch.zeros(4, 24))
    assert state[[s for s in range(12) if s not in (1, 4)]].isnan().all()


@pytest.mark.parametrize("name", FORMS)
def test_empty_sequences_keep_or_clear_their_window(name: str) -> None:
    case = conv_case(ragged([0, 0], [1, 4], [True, False]), tail=0)
    y, state = case.run(form("conv1d", name))
    assert y.shape == (0, 24)
    assert torch.equal(state[1], case.state_SCW[1])
    assert torch.equal(state[4], torch.zeros(24, 3))


@pytest.mark.parametrize("name", FORMS)
def test_an_empty_batch_does_nothing(name: str) -> None:
    y, state = conv_case(ragged([], [], []), tail=2).run(form("conv1d", name))
    assert torch.equal(y, torch.zeros(2, 24)) and state.isnan().all()


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("slots", [[3], [-1], [4, -1, 2, -1], [1, 2, 3, 4], [7, 0, 0]])
@pytest.mark.parametrize("slot_dtype", [torch.int32, torch.int64])
def test_step_equals_reference(
    name: str, slots: list[int], dtype: torch.dtype, state_dtype: torch.dtype, slot_dtype: torch.dtype
) -> None:
    case = conv_case(ragged([], [], []), dtype=dtype, state_dtype=state_dtype)
    x_BC = torch.randn(len(slots), 40, dtype=dtype)[:, 3:27]
    x_BC[[slot < 0 for slot in slots]] = NAN
    results = []
    for module in (form("conv1d", name), REFERENCE):
        state = case.state_SCW.clone(memory_format=torch.preserve_format)
        generator = torch.Generator().manual_seed(1)
        for slot in set(slots) - {-1}:
            state[slot] = torch.randn(24, 3, generator=generator).to(state_dtype)
        slots_B = torch.tensor(slots, dtype=slot_dtype)
        y = module.conv1d_step(x_BC, case.weight_CK, case.bias_C, state, slots_B=slots_B)
        # rows of the padding slot 0 promise nothing
        state[0] = 0
        results.append((y[[slot != 0 for slot in slots]], state))
    (y, state), (expected_y, expected_state) = results
    assert not expected_y.isnan().any()
    assert_near(y, expected_y, TOLERANCE[dtype])
    assert_near(state, expected_state, 0.0)
    assert all((expected_y[b] == 0).all() for b, slot in enumerate(slots) if slot < 0)


def fault_window_late(x, w, b, state, *, batch, snapshots):  # type: ignore[no-untyped-def]
    y = TORCH.conv1d_prefill(x, w, b, state, batch=batch, snapshots=snapshots)
    state[batch.slots_R] = state[batch.slots_R].roll(1, -1)
    return y


def fault_snapshot_one_late(x, w, b, state, *, batch, snapshots):  # type: ignore[no-untyped-def]
    lens = [batch.seq_lens[row] for row in snapshots.rows]
    late = replace(snapshots, ends=[min(n + 1, most) for n, most in zip(snapshots.ends, lens, strict=True)])
    return TORCH.conv1d_prefill(x, w, b, state, batch=batch, snapshots=late)


def fault_taps_reversed(x, w, b, state, *, batch, snapshots):  # type: ignore[no-untyped-def]
    return TORCH.conv1d_prefill(x, w.flip(1), b, state, batch=batch, snapshots=snapshots)


def fault_initial_ignored(x, w, b, state, *, batch, snapshots):  # type: ignore[no-untyped-def]
    fresh = replace(batch, has_initial=[False] * len(batch.seq_lens))
    return TORCH.conv1d_prefill(x, w, b, state, batch=fresh, snapshots=snapshots)


def fault_initial_always(x, w, b, state, *, batch, snapshots):  # type: ignore[no-untyped-def]
    kept = replace(batch, has_initial=[True] * len(batch.seq_lens))
    return TORCH.conv1d_prefill(x, w, b, state, batch=kept, snapshots=snapshots)


@pytest.mark.parametrize(
    "fault",
    [fault_window_late, fault_snapshot_one_late, fault_taps_reversed, fault_initial_ignored, fault_initial_always],
)
def test_the_comparison_sees_a_fault(fault: object) -> None:
    with pytest.raises(AssertionError):
        compare(SimpleNamespace(conv1d_prefill=fault), conv_case(*mixed_batch()))
