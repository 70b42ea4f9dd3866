"""Grouped RMS norm of a gated signal in a handful of torch calls, for serving on a CPU.

In: scan output, gate and weight; out: the normalised product. Knows of other ranks only as `reduce_sum`.

Shapes: T tokens, I inner width (of this rank), Q groups (of this rank), i = I / Q.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

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
    """Same contract as `gated_norm_reference.gated_norm`: [T, I] in x's dtype, rounded before the weight multiplies."""
    num_tokens, width = x_TI.shape
    size = width // num_groups if group_size is None else group_size
    gated_TQi = F.silu(gate_TI.float()).mul_(x_TI).reshape(num_tokens, num_groups, width // num_groups)
    squares_TQ = torch.linalg.vecdot(gated_TQi, gated_TQi)
    if reduce_sum is not None:
        squares_TQ = reduce_sum(squares_TQ)
    gated_TQi.mul_(torch.rsqrt(squares_TQ / size + eps).unsqueeze(2))
    return (gated_TQi.view(num_tokens, width).to(x_TI.dtype) * weight_I).to(x_TI.dtype)
