"""The gated norm: both forms against each other, transformers 5.19, and a group split over ranks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ops_cases import assert_near, fast, form, ours, serving
from transformers.models.zamba2.modeling_zamba2 import Zamba2RMSNormGated

REFERENCE, TORCH = form("gated_norm", "reference"), form("gated_norm", "torch")
FORMS, FAST = ours("gated_norm"), fast("gated_norm")

# 16 bit: the value is rounded twice, before and after the weight
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def inputs(dtype: torch.dtype = torch.float32, tokens: int = 9, width: int = 64) -> tuple[torch.Tensor, ...]:
    # the gate is a view of the projection, as in the model
    projected = torch.randn(tokens, 2 * width + 6, dtype=dtype)
    x_TI = torch.randn(tokens, width, dtype=dtype) * 3
    return x_TI, projected[:, 5 : 5 + width], torch.rand(width).add(0.5).to(dtype)


def compare(module: Any, given: tuple[torch.Tensor, ...], num_groups: int) -> None:
    expected = REFERENCE.gated_norm(*given, num_groups=num_groups, eps=1e-5)
    assert not expected.isnan().any()
    found = module.gated_norm(*given, num_groups=num_groups, eps=1e-5)
    assert_near(found, expected, TOLERANCE[expected.dtype])


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_groups", [1, 2, 8])
@pytest.mark.parametrize("tokens", [0, 1, 9])
def test_equals_reference(name: str, dtype: torch.dtype, num_groups: int, tokens: int) -> None:
    compare(form("gated_norm", name), inputs(dtype, tokens), num_groups)


@pytest.mark.parametrize("name", serving("gated_norm"))
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("num_groups", [1, 2, 8])
@pytest.mark.parametrize("tokens", [1, 70])
def test_forms_that_serve_equal_the_reference(name: str, dtype: torch.dtype, num_groups: int, tokens: int) -> None:
    compare(form("gated_norm", name), inputs(dtype, tokens, 512), num_groups)


@pytest.mark.parametrize("name", FORMS)
def test_fp32_weights_keep_the_dtype_of_x(name: str) -> None:
    x_TI, gate_TI, weight_I = inputs(torch.bfloat16)
    y = form("gated_norm", name).gated_norm(x_TI, gate_TI, weight_I.float(), num_groups=2, eps=1e-5)
    assert y.dtype == torch.bfloat16


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("num_groups", [1, 2, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_transformers(name: str, num_groups: int, dtype: torch.dtype) -> None:
    x_TI, gate_TI, weight_I = inputs(dtype, tokens=200)
    norm = Zamba2RMSNormGated(64, 64 // num_groups, eps=1e-5).to(dtype)
    norm.weight.data = weight_I
    expected = norm(x_TI, gate_TI).detach()
    found = form("gated_norm", name).gated_norm(x_TI, gate_TI, weight_I, num_groups=num_groups, eps=1e-5)
    if dtype == torch.float32:
        assert_near(found, expected, 1e-6)
    else:
        # the same rounding points: only sums that fall on a tie differ
        assert (found != expected).float().mean().item() <= 1e-3


@pytest.mark.parametrize("name", FORMS)
def test_inputs_stay_as_they_are(name: str) -> None:
    given = inputs()
    kept = [tensor.clone() for tensor in given]
    form("gated_norm", name).gated_norm(*given, num_groups=2, eps=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(given, kept, strict=True))


@pytest.mark.parametrize("name", FORMS)
def test_two_ranks_are_one(name: str) -> None:
    """One group over two ranks: each holds half of the channels and adds the other's sum of squares."""
    module = form("gated_norm", name)
    given = inputs()
    whole = module.gated_norm(*given, num_groups=1, eps=1e-5)
    halves = [[tensor[..., part] for tensor in given] for part in (slice(0, 32), slice(32, 64))]
    sums: list[torch.Tensor] = []

    def collect(sum_TQ: torch.Tensor) -> torch.Tensor:
        sums.append(sum_TQ.clone())
        return sum_TQ

    for half in halves:
        module.gated_norm(*half, num_groups=1, eps=1e-5, reduce_sum=collect, group_size=64)
    assert [tuple(one.shape) for one in sums] == [(9, 1), (9, 1)]
    total = sums[0] + sums[1]
    parts = [
        module.gated_norm(*half, num_groups=1, eps=1e-5, reduce_sum=lambda _: total, group_size=64) for half in halves
    ]
    assert_near(torch.cat(parts, dim=1), whole, 1e-6)
    # without the other rank's squares it is not the same
    alone = module.gated_norm(*halves[0], num_groups=1, eps=1e-5, group_size=64)
    assert (alone - whole[:, :32]).abs().max() > 0.1


def fault_groups_ignored(x, gate, weight, *, num_groups, eps):  # type: ignore[no-untyped-def]
    return TORCH.gated_norm(x, gate, weight, num_groups=1, eps=eps)


def fault_gate_after_norm(x, gate, weight, *, num_groups, eps):  # type: ignore[no-untyped-def]
    normed = TORCH.gated_norm(x, torch.full_like(gate, 20.0), weight, num_groups=num_groups, eps=eps)
    return normed * torch.nn.functional.silu(gate)


def fault_no_weight(x, gate, weight, *, num_groups, eps):  # type: ignore[no-untyped-def]
    return TORCH.gated_norm(x, gate, torch.ones_like(weight), num_groups=num_groups, eps=eps)


def fault_eps_outside_the_root(x, gate, weight, *, num_groups, eps):  # type: ignore[no-untyped-def]
    return TORCH.gated_norm(x, gate, weight, num_groups=num_groups, eps=eps * eps)


FAULTS = [fault_groups_ignored, fault_gate_after_norm, fault_no_weight, fault_eps_outside_the_root]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_comparison_sees_a_fault(fault: Any) -> None:
    x_TI, gate_TI, weight_I = inputs()
    with pytest.raises(AssertionError):
        compare(SimpleNamespace(gated_norm=fault), (x_TI * 0.05, gate_TI, weight_I), 2)
