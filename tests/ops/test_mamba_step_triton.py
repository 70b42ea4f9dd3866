"""The whole decode step of a mixer in one launch, against the references of its parts; and its random rounding."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_nemotron.ops.step import StochasticRounding
from support.mamba_step_cases import Step, case
from support.ops_cases import assert_near, form
from support.triton_cases import DEVICE, FULL_SIZE, INTERPRETED, ON_TRITON, on_device

pytestmark = ON_TRITON
REFERENCE = form("mamba_step", "reference")

# of the largest value. fp32: sums in another order and the device's exp. 16 bit: nearly equal values may be rounded to
# either side, which is one spacing, 2^-7 or 2^-10 of a value at most; y is rounded thrice (convolution, y, norm)
# the interpreter cuts bf16 off instead of rounding it, so that each factor of a product is off to the same side
_BF16 = 2**-7 * (3 if INTERPRETED else 1)
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3 * _BF16, torch.float16: 3 * 2**-10}
STATE_TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: _BF16, torch.float16: 2**-10}
# as mamba_step_triton._Schedule: programs per group, rows of a block, warps, blocks under way
SCHEDULES = [(1, 64, 4, 1), (1, 2, 1, 3), (2, 2, 2, 2), (16, 16, 4, 1)]


@pytest.fixture(scope="module")
def triton_form() -> Any:
    return form("mamba_step", "triton")


def compare(module: Any, step: Step) -> None:
    y, conv, state = step.run(module)
    expected_y, expected_conv, expected_state = step.run(REFERENCE)
    assert not expected_y.isnan().any()
    # the padding slot 0 promises nothing
    real_B = step.slots_B != 0
    for tensor in (conv, expected_conv, state, expected_state):
        tensor[0] = 0
    assert_near(y[real_B], expected_y[real_B], TOLERANCE[y.dtype])
    assert_near(conv, expected_conv, 0.0)
    # what the convolution rounds differently reaches the state
    assert_near(state, expected_state, max(STATE_TOLERANCE[state.dtype], STATE_TOLERANCE[y.dtype]))


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("slots", [[3], [-1], [4, -1, 2, -1], [7, 0, 0]])
def test_equals_reference(triton_form: Any, slots: list[int], dtype: torch.dtype, state_dtype: torch.dtype) -> None:
    compare(triton_form, case(slots, dtype=dtype, state_dtype=state_dtype))


def scheduled(monkeypatch: pytest.MonkeyPatch, triton_form: Any, *schedule: int) -> None:
    wanted = triton_form._Schedule(*schedule)
    monkeypatch.setattr(triton_form, "_schedule", lambda *_: wanted)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "shapes",
    [
        {},
        {"heads": 6, "head_dim": 6, "groups": 2, "state": 20},
        {"heads": 3, "head_dim": 8, "groups": 3, "state": 5},
        {"heads": 4, "groups": 1, "width": 2, "bias": False},
        {"norm": False},
    ],
)
def test_other_shapes_in_all_schedules(
    monkeypatch: pytest.MonkeyPatch, triton_form: Any, schedule: tuple[int, ...], shapes: dict[str, Any]
) -> None:
    scheduled(monkeypatch, triton_form, *schedule)
    compare(triton_form, case([4, -1, 2], **shapes))


@FULL_SIZE
@pytest.mark.parametrize(
    "schedule",
    [None, (1, 64, 4, 1), (1, 32, 8, 2, False), (1, 16, 4, 4), (4, 32, 4, 3), (16, 16, 2, 3), (32, 16, 1, 1)],
)
@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_rows", [1, 17, 128])
def test_full_size(
    monkeypatch: pytest.MonkeyPatch,
    triton_form: Any,
    schedule: tuple[int, ...] | None,
    state_dtype: torch.dtype,
    num_rows: int,
) -> None:
    if schedule is not None:
        scheduled(monkeypatch, triton_form, *schedule)
    slots = (torch.randperm(num_rows + 3)[:num_rows] + 1).tolist()
    slots[num_rows // 2] = -1 if num_rows > 1 else slots[0]
    sizes = {"heads": 64, "head_dim": 64, "groups": 8, "state": 128, "num_slots": num_rows + 4}
    step = case(slots, dtype=torch.bfloat16, state_dtype=state_dtype, **sizes)
    compare(triton_form, step)
    first, second = step.run(triton_form), step.run(triton_form)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(first, second, strict=True))


@FULL_SIZE
def test_replays_of_a_graph_are_calls_and_draw_anew(triton_form: Any) -> None:
    sizes = {"heads": 64, "head_dim": 64, "groups": 8, "state": 128}
    step = case([4, -1, 2, 7], dtype=torch.bfloat16, state_dtype=torch.float16, **sizes)
    given = (step.conv_in_BC, step.gate_BI, step.dt_BH)

    def call(conv_SCW: torch.Tensor, ssm_SHPN: torch.Tensor, rounding: StochasticRounding) -> torch.Tensor:
        rest = {"slots_B": step.slots_B, "eps": 1e-5, "rounding": rounding}
        y_BI = triton_form.mamba_step(*given, conv_SCW, ssm_SHPN, step.weights, **rest)
        rounding.seed_1.add_(1)
        return y_BI

    sides = []
    for _ in range(2):
        rounding = StochasticRounding(torch.tensor([5], device=DEVICE), 3)
        sides.append((step.conv_SCW.clone(), step.ssm_SHPN.clone(), rounding))
    expected = [call(*sides[0]) for _ in range(3)][-1]
    call(step.conv_SCW.clone(), step.ssm_SHPN.clone(), StochasticRounding(torch.tensor([5], device=DEVICE), 3))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y_BI = call(*sides[1])
    for _ in range(3):
        graph.replay()
    assert torch.equal(y_BI, expected)
    assert sides[1][2].seed_1.item() == 8
    for replayed, called in zip(sides[1][:2], sides[0][:2], strict=True):
        assert torch.equal(replayed.nan_to_num(), called.nan_to_num())


def test_slots_may_be_int32_and_dt_is_clamped(triton_form: Any) -> None:
    step = case([4, 2, -1])
    compare(triton_form, replace(step, slots_B=step.slots_B.int(), dt_limit=(0.5, 0.9)))
    assert not torch.equal(replace(step, dt_limit=(0.5, 0.9)).run(REFERENCE)[0], step.run(REFERENCE)[0])


@pytest.mark.parametrize("raw", [-30.0, -12.0, -3.0, 0.0, 5.0, 19.5, 20.5, 80.0])
def test_softplus_keeps_the_digits_of_a_small_dt(triton_form: Any, raw: float) -> None:
    step = case([4])
    weights = replace(step.weights, dt_bias_H=torch.zeros_like(step.weights.dt_bias_H), A_H=0.0 * step.weights.A_H)
    step = replace(step, dt_BH=torch.full_like(step.dt_BH, raw), weights=weights, ssm_SHPN=0.0 * step.ssm_SHPN)
    # with a zero state and no decay the state is dt times x B
    assert_near(
        step.run(triton_form)[2][4] / math.log1p(math.exp(raw)),
        step.run(REFERENCE)[2][4] / math.log1p(math.exp(raw)),
        2e-6,
    )


def test_padding_rows_are_zero_and_foreign_slots_untouched(triton_form: Any) -> None:
    step = case([4, -1, -1])
    y, conv, state = step.run(triton_form)
    others = [slot for slot in range(12) if slot != 4]
    assert torch.equal(y[1:], torch.zeros_like(y[1:]))
    assert state[others].isnan().all() and conv[others].isnan().all()


def test_batch_is_alone_slots_can_be_permuted_and_calls_repeat(triton_form: Any) -> None:
    step = case([4, 2, 7, 9])
    y, conv, state = step.run(triton_form)
    again = step.run(triton_form)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip((y, conv, state), again, strict=True))
    for b in range(4):
        rows = slice(b, b + 1)
        cut = {name: getattr(step, name)[rows] for name in ("conv_in_BC", "gate_BI", "dt_BH", "slots_B")}
        y_alone, conv_alone, state_alone = replace(step, **cut).run(triton_form)
        slot = int(step.slots_B[b])
        assert_near(y[rows], y_alone, 1e-6)
        assert_near(state[slot], state_alone[slot], 1e-6)
        assert torch.equal(conv[slot], conv_alone[slot])
    order = torch.randperm(12).to(DEVICE)
    moved = replace(step, conv_SCW=step.conv_SCW[order], ssm_SHPN=step.ssm_SHPN[order])
    y_moved, conv_moved, state_moved = replace(moved, slots_B=order.argsort()[step.slots_B]).run(triton_form)
    assert torch.equal(y, y_moved)
    assert_near(state_moved, state[order], 0.0)
    assert_near(conv_moved, conv[order], 0.0)


def test_no_rows_do_nothing(triton_form: Any) -> None:
    step = case([])
    y, _, state = replace(step, slots_B=step.slots_B.long()).run(triton_form)
    assert y.shape == (0, 32) and state.isnan().all()


def dithered(step: Step, seed: int = 1, stream: int = 3) -> Step:
    return replace(step, rounding=StochasticRounding(on_device(torch.tensor([seed])), stream))


@pytest.mark.parametrize("shapes", [{}, {"heads": 6, "head_dim": 6, "state": 20}])
@pytest.mark.parametrize("seed", [-5, 2**40 + 7])
def test_random_rounding_is_the_references(
    monkeypatch: pytest.MonkeyPatch, triton_form: Any, seed: int, shapes: dict[str, int]
) -> None:
    scheduled(monkeypatch, triton_form, 2, 4, 1, 1)
    step = dithered(case([4, -1, 2, 11], state_dtype=torch.float16, **shapes), seed)
    compare(triton_form, step)
    named = [2, 4, 11]
    found, expected = step.run(triton_form)[2][named], step.run(REFERENCE)[2][named]
    # the fp32 states differ in their last bits, of 13 that are dropped: one draw in a thousand may turn
    assert (found != expected).double().mean() < 0.005
    assert torch.equal(found, step.run(triton_form)[2][named])


def decayed(value: float) -> Step:
    """Slots 1 and 2 whose every new state is `value` itself: no decay, no update."""
    step = case([1, 2], num_slots=3, heads=4, head_dim=64, groups=1, state=128)
    weights = replace(step.weights, A_H=0.0 * step.weights.A_H, dt_bias_H=0.0 * step.weights.dt_bias_H)
    # softplus(-1e4) is zero
    return replace(
        step,
        weights=weights,
        dt_BH=torch.full_like(step.dt_BH, -1e4),
        ssm_SHPN=torch.full_like(step.ssm_SHPN, value).half(),
    )


@pytest.mark.parametrize("name", ["reference", "triton"])
def test_representable_states_stay(monkeypatch: pytest.MonkeyPatch, triton_form: Any, name: str) -> None:
    scheduled(monkeypatch, triton_form, 1, 64, 8, 1)
    for value in (0.0, 1.0, -65504.0, 2.0**-24, -(2.0**-14), 3.0 * 2.0**-20):
        step = dithered(decayed(value))
        assert torch.equal(step.run(form("mamba_step", name))[2][1], step.ssm_SHPN[1])


@pytest.mark.parametrize("name", ["reference", "triton"])
@pytest.mark.parametrize(("size", "fraction"), [(1.0, 0.25), (-3.0, 0.5), (2.0**-10, 0.9), (-(2.0**-18), 0.125)])
def test_random_rounding_has_no_bias(
    monkeypatch: pytest.MonkeyPatch, triton_form: Any, name: str, size: float, fraction: float
) -> None:
    scheduled(monkeypatch, triton_form, 1, 64, 8, 1)
    # a state of one value moves by `fraction` of a spacing: x B dt with all of them made constant
    spacing = 2.0 ** (max(math.floor(math.log2(abs(size))), -14) - 10)
    step = decayed(size)
    up = math.copysign(fraction * spacing, size)
    # conv outputs 1 for all B and `up / size` through the decay instead: exp(dt A) = 1 + up / size with dt = 1
    decay = math.log1p(up / size)
    raw = math.log(math.expm1(1.0))
    weights = replace(
        step.weights,
        A_H=torch.full_like(step.weights.A_H, decay),
        conv_CK=torch.zeros_like(step.weights.conv_CK),
        conv_bias_C=torch.zeros_like(step.weights.conv_bias_C),
    )
    step = replace(step, weights=weights, dt_BH=torch.full_like(step.dt_BH, raw))
    values = []
    for seed in range(2):
        state = dithered(step, seed).run(form("mamba_step", name))[2][1:].double()
        assert set(state.unique().tolist()) == {size, size + math.copysign(spacing, size)}
        values.append(((state - size) / math.copysign(spacing, size)).flatten())
    ups = torch.cat(values)
    # a mean of n draws of 0 or 1 is within 5 standard deviations (seeds are fixed); fp32 and exp leave the fraction
    # itself uncertain by 2^-22 of the size, 2^-11 of a spacing
    n = ups.numel()
    assert abs(ups.mean().item() - fraction) < 5 * math.sqrt(fraction * (1 - fraction) / n) + 2**-9
    # neighbours, rows, layers and seeds draw on their own
    for shift in (1, 2, 4, 8, 16, 512):
        both = (ups[:-shift] * ups[shift:]).mean().item()
        assert abs(both - fraction**2) < 5 * math.sqrt(fraction**2 * (1 - fraction**2) / n) + 2**-8
    other = dithered(step, 0, stream=4).run(form("mamba_step", name))[2][1:].double()
    assert not torch.equal(other, dithered(step, 0).run(form("mamba_step", name))[2][1:].double())


def test_refuses_what_it_was_not_built_for(triton_form: Any) -> None:
    step = case([4])
    with pytest.raises(ValueError, match="float16"):
        dithered(step).run(triton_form)
    apart_SHPN = step.ssm_SHPN.repeat_interleave(2, dim=3)[..., ::2]
    with pytest.raises(ValueError, match="contiguous"):
        triton_form.mamba_step(
            *(step.conv_in_BC, step.gate_BI, step.dt_BH, step.conv_SCW, apart_SHPN, step.weights),
            slots_B=step.slots_B,
            eps=1e-5,
        )


def faulty(change: str, triton_form: Any) -> Any:
    def mamba_step(conv_in, gate, dt, windows, states, weights, **rest):  # type: ignore[no-untyped-def]
        if change == "no skip":
            weights = replace(weights, D_H=torch.zeros_like(weights.D_H))
        if change == "window kept":
            windows = windows.clone()
        if change == "taps reversed":
            weights = replace(weights, conv_CK=weights.conv_CK.flip(1).contiguous())
        if change == "gate forgotten":
            gate = torch.full_like(gate, 30.0)
        if change == "slot off by one":
            rest["slots_B"] = rest["slots_B"] + 1
        return triton_form.mamba_step(conv_in, gate, dt, windows, states, weights, **rest)

    return SimpleNamespace(mamba_step=mamba_step)


@pytest.mark.parametrize("change", ["no skip", "window kept", "taps reversed", "gate forgotten", "slot off by one"])
def test_the_comparison_sees_a_fault(change: str, triton_form: Any) -> None:
    with pytest.raises(AssertionError):
        compare(faulty(change, triton_form), case([4, -1, 2]))
