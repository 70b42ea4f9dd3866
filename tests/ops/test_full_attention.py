"""Attention without a mask: every form against the reference, sequences kept apart, and a planted fault."""

from __future__ import annotations

import pytest
import torch
from ops_cases import NAN, assert_near, error, fast, form, ours, serving

REFERENCE, TORCH = form("full_attention", "reference"), form("full_attention", "torch")
FORMS, FAST = ours("full_attention"), fast("full_attention")
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-7}
# torch's kernels on a GPU add up in another order
TOLERANCE_CUDA = {torch.float32: 4e-6, torch.bfloat16: 2**-7}
LENGTHS = [[5], [1], [7, 7, 7], [3, 9, 9, 1, 3], [2, 2, 64, 2]]


def inputs(lengths: list[int], dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    # views of one projection, as in the tower
    return torch.randn(sum(lengths), 3, 4, 20).mul(2).to(dtype).unbind(1)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_equals_reference(name: str, lengths: list[int], dtype: torch.dtype) -> None:
    given = inputs(lengths, dtype)
    tolerance = (TOLERANCE_CUDA if "@cuda" in name else TOLERANCE)[dtype]
    expected = REFERENCE.full_attention(*given, lengths=lengths)
    assert_near(form("full_attention", name).full_attention(*given, lengths=lengths), expected, tolerance)


@pytest.mark.parametrize("name", FORMS)
def test_sequences_do_not_see_each_other(name: str) -> None:
    q, k, v = inputs([4, 6, 6])
    alone = form("full_attention", name).full_attention(q[4:10], k[4:10], v[4:10], lengths=[6])
    k[:4], v[:4], k[10:], v[10:] = NAN, NAN, NAN, NAN
    together = form("full_attention", name).full_attention(q, k, v, lengths=[4, 6, 6])
    assert_near(together[4:10], alone, 1e-6)


def test_comparison_sees_a_wrong_scale() -> None:
    q, k, v = inputs([9])
    expected = REFERENCE.full_attention(q, k, v, lengths=[9])
    assert error(TORCH.full_attention(q * 1.01, k, v, lengths=[9]), expected) > TOLERANCE[torch.float32]


@pytest.mark.parametrize("name", serving("full_attention"))
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("head_dim", [16, 64, 80])
def test_forms_that_serve_equal_the_reference(name: str, lengths: list[int], head_dim: int) -> None:
    q, k, v = torch.randn(sum(lengths), 3, 4, head_dim, dtype=torch.bfloat16).unbind(1)
    expected = REFERENCE.full_attention(q, k, v, lengths=lengths)
    assert_near(form("full_attention", name).full_attention(q, k, v, lengths=lengths), expected, 2**-6)
