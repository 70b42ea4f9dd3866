"""The routed experts: both forms against each other, transformers 5.19, and experts of other ranks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.models.nemotron_h.configuration_nemotron_h import NemotronHConfig
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHExperts

from support.ops_cases import NAN, assert_near, fast, form

REFERENCE, TORCH = form("experts", "reference"), form("experts", "torch")
# our kernels take no float32 and have tests of their own: test_experts_triton.py
FAST = [name for name in fast("experts") if "triton" not in str(name)]
FORMS = ["reference", *FAST]

# 16 bit: a hidden value on a rounding tie may fall to either side and is then carried through the second product
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def inputs(
    tokens: int,
    num_experts: int = 8,
    top_k: int = 3,
    hidden: int = 24,
    width: int = 20,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, ...]:
    return (
        torch.randn(tokens, hidden, dtype=dtype),
        torch.randn(num_experts, width, hidden, dtype=dtype) * 0.3,
        torch.randn(num_experts, hidden, width, dtype=dtype) * 0.3,
        torch.rand(tokens, top_k) * 2,
        torch.stack([torch.randperm(num_experts)[:top_k] for _ in range(tokens)])
        if tokens
        else torch.zeros(0, top_k).long(),
    )


def skip_some(given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """A third of the pairs belong to another rank; their weights are NaN, so that a product would show."""
    weights_Tk, ids_Tk = given[3].clone(), given[4].clone()
    away = torch.rand(ids_Tk.shape) < 0.33
    away[0] = True
    weights_Tk[away], ids_Tk[away] = NAN, -1
    return *given[:3], weights_Tk, ids_Tk


def compare(module: Any, given: tuple[torch.Tensor, ...]) -> None:
    expected = REFERENCE.experts(*given)
    assert not expected.isnan().any()
    assert_near(module.experts(*given), expected, TOLERANCE[expected.dtype])


@pytest.fixture(params=["gathered", "sorted"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Forces each way through the torch form, whatever the rule would choose."""
    monkeypatch.setattr(TORCH, "_GATHER_NUMBERS", 1 << 40 if request.param == "gathered" else -1)
    return request.param


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [1, 2, 8, 50])
@pytest.mark.parametrize("skipping", [False, True])
def test_equals_reference(name: str, path: str, dtype: torch.dtype, tokens: int, skipping: bool) -> None:
    given = inputs(tokens, dtype=dtype)
    compare(form("experts", name), skip_some(given) if skipping else given)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize(("num_experts", "top_k"), [(1, 1), (4, 4), (128, 6)])
def test_equals_reference_for_other_counts(name: str, path: str, num_experts: int, top_k: int) -> None:
    compare(form("experts", name), inputs(30, num_experts, top_k))


@pytest.mark.parametrize(("tokens", "way"), [(1, "_gathered"), (2000, "_sorted")])
def test_the_rule_takes_both_ways(monkeypatch: pytest.MonkeyPatch, tokens: int, way: str) -> None:
    # 3 pairs of 480 numbers are gathered, 6,000 of them are sorted
    other = "_sorted" if way == "_gathered" else "_gathered"
    monkeypatch.delattr(TORCH, other)
    compare(TORCH, inputs(tokens))
    monkeypatch.delattr(TORCH, way)
    with pytest.raises(NameError, match=way):
        compare(TORCH, inputs(tokens))


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_transformers(path: str, name: str, dtype: torch.dtype) -> None:
    config = NemotronHConfig(hidden_size=24, n_routed_experts=8, moe_intermediate_size=20, num_experts_per_tok=3)
    config._experts_implementation = "eager"
    layer = NemotronHExperts(config).to(dtype)
    x_TD, up_EID, down_EDI, weights_Tk, ids_Tk = inputs(100, dtype=dtype)
    layer.up_proj.data, layer.down_proj.data = up_EID, down_EDI
    expected = layer(x_TD, ids_Tk, weights_Tk).detach()
    found = form("experts", name).experts(x_TD, up_EID, down_EDI, weights_Tk, ids_Tk)
    assert_near(found, expected, TOLERANCE[dtype])
    if dtype == torch.bfloat16:
        # the same rounding points: only sums that fall on a tie differ
        assert (found != expected).float().mean().item() <= 1e-2


@pytest.mark.parametrize("name", FORMS)
def test_relu2(name: str) -> None:
    x = torch.tensor([-2.0, -0.0, 0.5, 3.0])
    assert torch.equal(form("experts", name).relu2(x), torch.tensor([0.0, 0.0, 0.25, 9.0]))
    assert torch.equal(x, torch.tensor([-2.0, -0.0, 0.5, 3.0]))


@pytest.mark.parametrize("name", FORMS)
def test_two_ranks_are_one(path: str, name: str) -> None:
    module = form("experts", name)
    x_TD, up_EID, down_EDI, weights_Tk, ids_Tk = inputs(30)
    whole = module.experts(x_TD, up_EID, down_EDI, weights_Tk, ids_Tk)
    low = module.experts(x_TD, up_EID[:4], down_EDI[:4], weights_Tk, torch.where(ids_Tk < 4, ids_Tk, -1))
    high = module.experts(x_TD, up_EID[4:], down_EDI[4:], weights_Tk, torch.where(ids_Tk >= 4, ids_Tk - 4, -1))
    assert_near(low + high, whole, 1e-6)


@pytest.mark.parametrize("name", FORMS)
def test_batch_is_alone_and_experts_can_be_permuted(path: str, name: str) -> None:
    module = form("experts", name)
    x_TD, up_EID, down_EDI, weights_Tk, ids_Tk = given = skip_some(inputs(30))
    kept = [tensor.clone() for tensor in given]
    whole = module.experts(*given)
    for t in range(30):
        rows = slice(t, t + 1)
        assert_near(module.experts(x_TD[rows], up_EID, down_EDI, weights_Tk[rows], ids_Tk[rows]), whole[rows], 1e-6)
    assert torch.equal(whole[0], torch.zeros(24))
    order = torch.randperm(8)
    moved_ids = torch.where(ids_Tk < 0, ids_Tk, order.argsort()[ids_Tk])
    assert_near(module.experts(x_TD, up_EID[order], down_EDI[order], weights_Tk, moved_ids), whole, 1e-6)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(given, kept, strict=True))


@pytest.mark.parametrize("name", FORMS)
def test_no_tokens(path: str, name: str) -> None:
    assert form("experts", name).experts(*inputs(0)).shape == (0, 24)


def fault_weights_unscaled(x, up, down, weights, ids):  # type: ignore[no-untyped-def]
    return TORCH.experts(x, up, down, torch.ones_like(weights), ids)


def fault_first_choice_only(x, up, down, weights, ids):  # type: ignore[no-untyped-def]
    return TORCH.experts(x, up, down, weights[:, :1], ids[:, :1])


def fault_skipped_are_expert_zero(x, up, down, weights, ids):  # type: ignore[no-untyped-def]
    return TORCH.experts(x, up, down, weights.nan_to_num(1.0), ids.clamp(min=0))


def fault_relu_not_squared(x, up, down, weights, ids):  # type: ignore[no-untyped-def]
    y = torch.zeros(x.shape)
    for t in range(len(x)):
        for j, e in enumerate(ids[t].tolist()):
            if e >= 0:
                y[t] += weights[t, j] * (down[e] @ torch.relu(up[e] @ x[t]))
    return y


FAULTS = [fault_weights_unscaled, fault_first_choice_only, fault_skipped_are_expert_zero, fault_relu_not_squared]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_comparison_sees_a_fault(fault: Any) -> None:
    with pytest.raises(AssertionError):
        compare(SimpleNamespace(experts=fault), skip_some(inputs(20)))
