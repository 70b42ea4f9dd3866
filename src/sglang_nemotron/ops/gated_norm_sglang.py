"""Gated RMSNorm in groups on CUDA through SGLang's Triton routine; the same function as gated_norm_torch."""

from __future__ import annotations

from collections.abc import Callable

import torch

from sglang_nemotron.sglang_api.kernels import rms_norm_gated


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
    """See `ops.gated_norm`; groups that span ranks are served by the torch form."""
    assert reduce_sum is None
    return rms_norm_gated(
        x=x_TI,
        weight=weight_I,
        bias=None,
        z=gate_TI,
        eps=eps,
        group_size=group_size or x_TI.shape[-1] // num_groups,
        norm_before_gate=False,
        is_rms_norm=True,
    )
