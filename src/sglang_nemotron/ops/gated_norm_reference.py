"""Grouped RMS norm of a gated signal, the last step of a Mamba-2 mixer before its output projection.

In: scan output, gate and weight; out: the normalised product. Knows of other ranks only as `reduce_sum`.

Shapes: T tokens, I inner width (of this rank), Q groups (of this rank).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["gated_norm"]


def gated_norm(
    x_TI: torch.Tensor,
    gate_TI: torch.Tensor,
    weight_I: torch.Tensor,
    *,
    num_groups: int,
    eps: float,
    reduce_sum: Callable[[torch.Tensor], torch.Tensor] | None = None,
    group_size: int | None = None,
) -> torch.Tensor:
    """RMSNorm, group by group, of x * silu(gate), times weight; [T, I] in x's dtype.

    Everything up to the normalised value is fp32; that value is rounded to x's dtype before the weight multiplies it,
    which is where transformers 5.19 rounds. When a group spans ranks, `reduce_sum` adds the [T, num_groups] sums of
    squares of all ranks and `group_size` is the size of the whole group (default: I / num_groups).
    """
    num_tokens, width = x_TI.shape
    size = width // num_groups if group_size is None else group_size
    gate = gate_TI.float()
    gated_TI = x_TI.float() * (gate * torch.sigmoid(gate))
    gated_TQi = gated_TI.reshape(num_tokens, num_groups, width // num_groups)
    squares_TQ = (gated_TQi * gated_TQi).sum(-1)
    if reduce_sum is not None:
        squares_TQ = reduce_sum(squares_TQ)
    normed_TQi = gated_TQi * torch.rsqrt(squares_TQ / size + eps)[:, :, None]
    return (weight_I * normed_TQi.reshape(num_tokens, width).to(x_TI.dtype)).to(x_TI.dtype)
