"""The router: both forms against each other, transformers 5.19, and what the selection bias may not touch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.models.nemotron_h.configuration_nemotron_h import NemotronHConfig
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHTopkRouter

from support.ops_cases import assert_near, fast, form, ours

REFERENCE, TORCH = form("router", "reference"), form("router", "torch")
# the Triton form knows no groups of experts and has a file of its own
FORMS, FAST = ([row for row in rows if "triton" not in str(row)] for rows in (ours("router"), fast("router")))

# (experts, chosen, groups, groups kept)
RULES = [(8, 3, 1, 1), (8, 3, 4, 2), (16, 6, 2, 1), (128, 6, 1, 1), (32, 1, 8, 3)]


def inputs(num_experts: int, tokens: int = 40, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    # a bias as large as the scores moves many choices
    return (
        torch.randn(tokens, 24, dtype=dtype),
        torch.randn(num_experts, 24, dtype=dtype) * 0.3,
        torch.rand(num_experts),
    )


def rule_of(top_k: int, groups: int, kept: int, scale: float = 2.5, renormalize: bool = True) -> dict[str, Any]:
    return {
        "top_k": top_k,
        "scale": scale,
        "renormalize": renormalize,
        "num_groups": groups,
        "top_groups": kept,
    }


def by_expert(weights_Tk: torch.Tensor, ids_Tk: torch.Tensor, num_experts: int) -> torch.Tensor:
    """Weights in a row of all experts, zero where not chosen: the order of the k does not matter."""
    assert weights_Tk.dtype == torch.float32 and ids_Tk.dtype == torch.int64
    return torch.zeros(len(ids_Tk), num_experts).scatter_(1, ids_Tk, weights_Tk)


def compare(module: Any, given: tuple[torch.Tensor, ...], rule: dict[str, Any]) -> None:
    num_experts = given[1].shape[0]
    expected = by_expert(*REFERENCE.route(*given, **rule), num_experts)
    assert ((expected > 0).sum(1) == rule["top_k"]).all()
    assert_near(by_expert(*module.route(*given, **rule), num_experts), expected, 1e-6)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_equals_reference(name: str, rule: tuple[int, ...], renormalize: bool, dtype: torch.dtype) -> None:
    num_experts, *rest = rule
    compare(form("router", name), inputs(num_experts, dtype=dtype), rule_of(*rest, renormalize=renormalize))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("name", FORMS)
def test_equals_transformers(name: str, rule: tuple[int, ...], renormalize: bool) -> None:
    num_experts, top_k, groups, kept = rule
    config = NemotronHConfig(
        hidden_size=24,
        n_routed_experts=num_experts,
        num_experts_per_tok=top_k,
        n_group=groups,
        topk_group=kept,
        norm_topk_prob=renormalize,
        routed_scaling_factor=2.5,
    )
    router = NemotronHTopkRouter(config)
    x_TD, weight_ED, bias_E = inputs(num_experts)
    router.weight.data, router.e_score_correction_bias.data = weight_ED, bias_E
    _, weights_Tk, ids_Tk = router(x_TD)
    found = form("router", name).route(x_TD, weight_ED, bias_E, **rule_of(top_k, groups, kept, 2.5, renormalize))
    assert_near(by_expert(*found, num_experts), by_expert(weights_Tk.detach(), ids_Tk, num_experts), 1e-6)


@pytest.mark.parametrize("name", FORMS)
def test_a_uniform_bias_changes_nothing(name: str) -> None:
    x_TD, weight_ED, _ = inputs(8)
    module, rule = form("router", name), rule_of(3, 1, 1)
    without = module.route(x_TD, weight_ED, torch.zeros(8), **rule)
    shifted = module.route(x_TD, weight_ED, torch.full((8,), 0.5), **rule)
    assert_near(by_expert(*shifted, 8), by_expert(*without, 8), 0.0)


@pytest.mark.parametrize("name", FORMS)
def test_vanishing_scores_do_not_divide_by_zero(name: str) -> None:
    x_TD, weight_ED = torch.ones(2, 4), torch.full((8, 4), -100.0)
    weights_Tk, _ = form("router", name).route(x_TD, weight_ED, torch.zeros(8), **rule_of(3, 1, 1))
    assert torch.equal(weights_Tk, torch.zeros(2, 3))


@pytest.mark.parametrize("name", FORMS)
def test_inputs_stay_as_they_are_and_batch_is_alone(name: str) -> None:
    given = inputs(16)
    kept = [tensor.clone() for tensor in given]
    module, rule = form("router", name), rule_of(6, 2, 1)
    whole = by_expert(*module.route(*given, **rule), 16)
    assert all(torch.equal(a, b) for a, b in zip(given, kept, strict=True))
    for t in range(len(whole)):
        alone = by_expert(*module.route(given[0][t : t + 1], *given[1:], **rule), 16)
        assert_near(whole[t : t + 1], alone, 1e-6)


@pytest.mark.parametrize("name", FORMS)
def test_no_tokens(name: str) -> None:
    weights_Tk, ids_Tk = form("router", name).route(*inputs(8, tokens=0), **rule_of(3, 4, 2))
    assert weights_Tk.shape == ids_Tk.shape == (0, 3)


def fault_bias_in_weights(x, weight, bias, *, scale, **rule):  # type: ignore[no-untyped-def]
    weights, ids = TORCH.route(x, weight, bias, scale=1.0, **{**rule, "renormalize": False})
    weights = weights + bias[ids]
    return weights / weights.sum(1, keepdim=True) * scale, ids


def fault_bias_ignored(x, weight, bias, **rule):  # type: ignore[no-untyped-def]
    return TORCH.route(x, weight, torch.zeros_like(bias), **rule)


def fault_scale_forgotten(x, weight, bias, **rule):  # type: ignore[no-untyped-def]
    return TORCH.route(x, weight, bias, **{**rule, "scale": 1.0})


def fault_not_renormalized(x, weight, bias, **rule):  # type: ignore[no-untyped-def]
    return TORCH.route(x, weight, bias, **{**rule, "renormalize": False})


def fault_groups_ignored(x, weight, bias, **rule):  # type: ignore[no-untyped-def]
    return TORCH.route(x, weight, bias, **{**rule, "num_groups": 1, "top_groups": 1})


FAULTS = [
    fault_bias_in_weights,
    fault_bias_ignored,
    fault_scale_forgotten,
    fault_not_renormalized,
    fault_groups_ignored,
]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_comparison_sees_a_fault(fault: Any) -> None:
    with pytest.raises(AssertionError):
        compare(SimpleNamespace(route=fault), inputs(8), rule_of(3, 4, 2))
