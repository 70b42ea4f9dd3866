"""One token of the Mamba-2 recurrence on CUDA through SGLang's routine; the same function as ssm_step_torch."""

from __future__ import annotations

import torch

from sglang_nemotron.sglang_api.kernels import selective_state_update


def ssm_step(
    x_BHP: torch.Tensor,
    dt_BH: torch.Tensor,
    A_H: torch.Tensor,
    B_BGN: torch.Tensor,
    C_BGN: torch.Tensor,
    D_H: torch.Tensor,
    dt_bias_H: torch.Tensor,
    state_SHPN: torch.Tensor,
    *,
    slots_B: torch.Tensor,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
) -> torch.Tensor:
    """See `ops.ssm_step`. The routine does not clamp dt: any other limit than (0, inf) is refused."""
    if dt_limit[0] > 0 or dt_limit[1] < 1e9:
        raise ValueError(f"time_step_limit {dt_limit} is not supported on CUDA; only (0, inf) is")
    _, H, P = x_BHP.shape
    N = state_SHPN.shape[-1]
    y_BHP = torch.empty_like(x_BHP, memory_format=torch.contiguous_format)
    # expanded views (stride 0) tell the routine that A, dt, D and the bias are one number per head
    selective_state_update(
        state_SHPN,
        x_BHP,
        dt_BH[:, :, None].expand(-1, H, P),
        A_H[:, None, None].expand(H, P, N),
        B_BGN,
        C_BGN,
        D_H[:, None].expand(H, P),
        z=None,
        dt_bias=dt_bias_H[:, None].expand(H, P),
        dt_softplus=True,
        state_batch_indices=slots_B,
        out=y_BHP,
    )
    return y_BHP
