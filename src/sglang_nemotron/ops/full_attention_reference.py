"""Attention inside sequences without a mask, one sequence and one head at a time in float32: the definition.

Shapes: T tokens of all sequences back to back, H heads, D head dim, L tokens of one sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["full_attention"]


def full_attention(
    q_THD: torch.Tensor, k_THD: torch.Tensor, v_THD: torch.Tensor, *, lengths: Sequence[int]
) -> torch.Tensor:
    """softmax(q k^T / sqrt(D)) v of each sequence; [T, H, D] in the dtype of q. `lengths` add up to T."""
    out_THD = torch.empty_like(q_THD)
    start = 0
    for length in lengths:
        own = slice(start, start + length)
        for head in range(q_THD.shape[1]):
            q_LD, k_LD, v_LD = (x[own, head].float() for x in (q_THD, k_THD, v_THD))
            weights_LL = torch.softmax(q_LD @ k_LD.T / q_LD.shape[-1] ** 0.5, dim=-1)
            out_THD[own, head] = (weights_LL @ v_LD).to(out_THD.dtype)
        start += length
    return out_THD
