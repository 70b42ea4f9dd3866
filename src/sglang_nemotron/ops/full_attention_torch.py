"""Attention inside sequences without a mask, sequences of equal length as one batch of torch's own routine.

Shapes: T tokens of all sequences back to back, H heads, D head dim, B sequences of equal length L.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F

__all__ = ["full_attention"]


def full_attention(
    q_THD: torch.Tensor, k_THD: torch.Tensor, v_THD: torch.Tensor, *, lengths: Sequence[int]
) -> torch.Tensor:
    """Same contract as `full_attention_reference.full_attention`; no mask is ever made."""
    out_THD = torch.empty_like(q_THD)
    for start, end, length in _equal_runs(lengths):
        q_BHLD, k_BHLD, v_BHLD = (
            x[start:end].unflatten(0, (-1, length)).transpose(1, 2) for x in (q_THD, k_THD, v_THD)
        )
        out_BHLD = F.scaled_dot_product_attention(q_BHLD, k_BHLD, v_BHLD)
        out_THD[start:end] = out_BHLD.transpose(1, 2).flatten(0, 1)
    return out_THD


def _equal_runs(lengths: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(first token, end token, length) of each run of sequences of equal length, back to back."""
    start = end = 0
    for i, length in enumerate(lengths):
        end += length
        if i + 1 == len(lengths) or lengths[i + 1] != length:
            yield start, end, length
            start = end
