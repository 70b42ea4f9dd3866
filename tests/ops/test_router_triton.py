"""The router in one launch: against the reference, and what it promises beyond it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from support.ops_cases import NAN, assert_near, form
from support.triton_cases import DEVICE, FULL_SIZE, ON_TRITON

pytestmark = ON_TRITON
REFERENCE = form("router", "reference")
RULE = {"top_k": 3, "scale": 2.5, "renormalize": True}


@pytest.fixture(scope="module")
def triton_form() -> Any:
    return form("router", "triton")


def inputs(
    tokens: int, hidden: int = 40, experts: int = 16, dtypes: tuple[torch.dtype, ...] = (torch.float32,) * 2
) -> tuple[torch.Tensor, ...]:
    """x is a view of wider rows that end in NaN; a bias as large as the scores moves many choices."""
    x_TD = torch.full((tokens, hidden + 3), NAN)
    x_TD[:, :hidden] = torch.randn(tokens, hidden)
    weight_ED = torch.randn(experts, hidden) * 2 / hidden**0.5
    return (
        x_TD.to(DEVICE, dtypes[0])[:, :hidden],
        weight_ED.to(DEVICE, dtypes[1]),
        torch.rand(experts).to(DEVICE),
    )


def by_expert(weights_Tk: torch.Tensor, ids_Tk: torch.Tensor, num_experts: int) -> torch.Tensor:
    assert weights_Tk.dtype == torch.float32 and ids_Tk.dtype == torch.int64
    return torch.zeros(len(ids_Tk), num_experts, device=DEVICE).scatter_(1, ids_Tk, weights_Tk)


def compare(module: Any, given: tuple[torch.Tensor, ...], rule: dict[str, Any]) -> None:
    x_TD, weight_ED, bias_E = given
    num_experts, top_k = weight_ED.shape[0], rule["top_k"]
    found = by_expert(*module.route(*given, **rule), num_experts)
    expected = by_expert(*REFERENCE.route(*given, **rule), num_experts)
    # sums in another order cannot decide between two experts this close: rows where the last chosen and the first left
    # out are that close are not compared, and they are rare
    scores = torch.sigmoid(x_TD.double() @ weight_ED.double().t()) + bias_E.double()
    ranked = scores.sort(dim=1, descending=True)[0]
    if top_k < num_experts:
        clear = ranked[:, top_k - 1] - ranked[:, top_k] > 1e-6
        assert clear.double().mean() > 0.98
        found, expected = found[clear], expected[clear]
    assert ((found > 0).sum(1) == top_k).all()
    assert_near(found, expected, 4e-6)


@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize(
    "dtypes",
    [
        (torch.float32, torch.float32),
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32),
    ],
)
@pytest.mark.parametrize("tokens", [1, 5, 16, 33])
def test_equals_reference(triton_form: Any, tokens: int, dtypes: tuple[torch.dtype, ...], renormalize: bool) -> None:
    compare(triton_form, inputs(tokens, dtypes=dtypes), {**RULE, "renormalize": renormalize})


@pytest.mark.parametrize(
    "schedule", [(16, 1, 16, 4), (16, 3, 32, 4), (32, 7, 16, 2), (16, 50, 16, 4), (16, 3, 16, 4, 2)]
)
@pytest.mark.parametrize(("hidden", "experts", "top_k"), [(40, 8, 1), (100, 20, 6), (130, 128, 6), (16, 6, 6)])
def test_other_shapes_in_all_schedules(
    monkeypatch: pytest.MonkeyPatch,
    triton_form: Any,
    schedule: tuple[int, ...],
    hidden: int,
    experts: int,
    top_k: int,
) -> None:
    monkeypatch.setattr(triton_form, "_SCHEDULES", ((1 << 30, triton_form._Schedule(*schedule)),))
    given = inputs(19, hidden, experts)
    compare(triton_form, given, {**RULE, "top_k": top_k})
    first, second = triton_form.route(*given, **RULE), triton_form.route(*given, **RULE)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@FULL_SIZE
@pytest.mark.parametrize("weight_dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("tokens", [1, 8, 32, 100, 512, 1000])
def test_full_size(triton_form: Any, tokens: int, weight_dtype: torch.dtype) -> None:
    given = inputs(tokens, 2688, 128, (torch.bfloat16, weight_dtype))
    compare(triton_form, given, {**RULE, "top_k": 6})
    first, second = triton_form.route(*given, **RULE), triton_form.route(*given, **RULE)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_ids_come_best_first_and_ties_by_number(triton_form: Any) -> None:
    x_TD, weight_ED, _ = inputs(9)
    bias_E = torch.zeros(16, device=DEVICE)
    weights_Tk, ids_Tk = triton_form.route(x_TD, weight_ED, bias_E, **{**RULE, "top_k": 16})
    assert (weights_Tk.diff(dim=1) <= 0).all()
    assert torch.equal(ids_Tk.sort(dim=1)[0], torch.arange(16, device=DEVICE).expand(9, 16))
    equal = torch.zeros_like(weight_ED)
    _, ids_Tk = triton_form.route(x_TD, equal, bias_E, **RULE)
    assert torch.equal(ids_Tk, torch.arange(3, device=DEVICE).expand(9, 3))


def test_rows_of_no_numbers_choose_different_experts_and_spoil_no_others(triton_form: Any) -> None:
    x_TD, weight_ED, bias_E = inputs(5)
    alone = triton_form.route(x_TD, weight_ED, bias_E, **RULE)
    x_TD = x_TD.clone()
    x_TD[2] = NAN
    weights_Tk, ids_Tk = triton_form.route(x_TD, weight_ED, bias_E, **RULE)
    assert torch.equal(ids_Tk[2], torch.arange(3, device=DEVICE))
    others = [0, 1, 3, 4]
    assert torch.equal(ids_Tk[others], alone[1][others]) and torch.equal(weights_Tk[others], alone[0][others])


def test_batch_is_alone(triton_form: Any) -> None:
    given = inputs(20)
    whole = triton_form.route(*given, **RULE)
    for t in (0, 7, 19):
        alone = triton_form.route(given[0][t : t + 1], *given[1:], **RULE)
        assert torch.equal(whole[1][t : t + 1], alone[1])
        assert_near(whole[0][t : t + 1], alone[0], 1e-6)


def test_vanishing_scores_do_not_divide_by_zero(triton_form: Any) -> None:
    x_TD = torch.ones(2, 16, device=DEVICE)
    weights_Tk, _ = triton_form.route(x_TD, -100.0 * torch.ones(8, 16, device=DEVICE), 0.0 * x_TD[0, :8], **RULE)
    assert torch.equal(weights_Tk, torch.zeros(2, 3, device=DEVICE))


def test_no_tokens_and_refusals(triton_form: Any) -> None:
    weights_Tk, ids_Tk = triton_form.route(*inputs(0), **RULE)
    assert weights_Tk.shape == ids_Tk.shape == (0, 3)
    with pytest.raises(ValueError, match="num_groups=2"):
        triton_form.route(*inputs(2), **RULE, num_groups=2)


def faulty(change: str, triton_form: Any) -> Any:
    def route(x, weight, bias, **rule):  # type: ignore[no-untyped-def]
        if change == "bias ignored":
            bias = torch.zeros_like(bias)
        if change == "bias in weights":
            weights, ids = triton_form.route(x, weight, bias, **{**rule, "renormalize": False, "scale": 1.0})
            weights = weights + bias[ids]
            return weights / weights.sum(1, keepdim=True) * rule["scale"], ids
        if change == "scale forgotten":
            rule["scale"] = 1.0
        if change == "end of D left out":
            x = x.clone()
            x[:, -1] = 0.0
        return triton_form.route(x, weight, bias, **rule)

    return SimpleNamespace(route=route)


@pytest.mark.parametrize("change", ["bias ignored", "bias in weights", "scale forgotten", "end of D left out"])
def test_the_comparison_sees_a_fault(change: str, triton_form: Any) -> None:
    with pytest.raises(AssertionError):
        compare(faulty(change, triton_form), inputs(5), RULE)
