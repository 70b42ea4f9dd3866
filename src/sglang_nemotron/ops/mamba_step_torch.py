"""One decode token of a whole Mamba-2 mixer between its projections: the quick CPU forms of its three parts in a row.

Shapes: B decode rows, C conv channels, H heads, P head dim, I = H P inner channels, G groups, N state size, S slots.
"""

from __future__ import annotations

import torch

from sglang_nemotron.ops.conv1d_torch import conv1d_step
from sglang_nemotron.ops.gated_norm_torch import gated_norm
from sglang_nemotron.ops.ssm_step_torch import ssm_step
from sglang_nemotron.ops.step import StepWeights, StochasticRounding

__all__ = ["mamba_step"]


def mamba_step(
    conv_in_BC: torch.Tensor,
    gate_BI: torch.Tensor,
    dt_BH: torch.Tensor,
    conv_SCW: torch.Tensor,
    ssm_SHPN: torch.Tensor,
    weights: StepWeights,
    *,
    slots_B: torch.Tensor,
    eps: float,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    rounding: StochasticRounding | None = None,
) -> torch.Tensor:
    """Same contract as `mamba_step_reference.mamba_step`, without random rounding: ValueError."""
    if rounding is not None:
        raise ValueError("states are rounded at random on CUDA, not on a CPU; keep them in float32 here")
    num_rows = conv_in_BC.shape[0]
    _, H, P, N = ssm_SHPN.shape
    G = (conv_in_BC.shape[1] - H * P) // (2 * N)
    mixed_BC = conv1d_step(conv_in_BC, weights.conv_CK, weights.conv_bias_C, conv_SCW, slots_B=slots_B)
    x_BI, B_BGN, C_BGN = mixed_BC.split([H * P, G * N, G * N], dim=1)
    y_BHP = ssm_step(
        x_BI.view(num_rows, H, P),
        dt_BH,
        weights.A_H,
        B_BGN.view(num_rows, G, N),
        C_BGN.view(num_rows, G, N),
        weights.D_H,
        weights.dt_bias_H,
        ssm_SHPN,
        slots_B=slots_B,
        dt_limit=dt_limit,
    )
    y_BI = y_BHP.reshape(num_rows, H * P)
    if weights.norm_I is None:
        return y_BI
    normed_BI = gated_norm(y_BI, gate_BI, weights.norm_I, num_groups=G, eps=eps)
    return normed_BI.masked_fill((slots_B < 0)[:, None], 0.0)
