"""One decode token of the Mamba-2 recurrence for each row, written as the definition.

In: convolved x, B, C, raw dt and the states kept in slots; out: y and the states moved on by one token.

Shapes: B decode rows, H heads, P head dim, G groups, N state size, S state slots.
"""

from __future__ import annotations

import torch

__all__ = ["ssm_step"]


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
    """h = exp(dt A) h + dt x B^T and y = h C + D x in slot `slots_B[b]`; dt = softplus(raw + bias) within `dt_limit`.

    Arithmetic is fp32, y [B, H, P] has x's dtype and is taken before the state is rounded to its own dtype. A row
    whose slot is negative is padding: its result is zero and nothing is written for it. Several rows may name slot 0
    (the padding slot); what it then holds is unspecified. Source: Mamba-2 (arXiv 2405.21060) equation 2.
    """
    heads_per_group = x_BHP.shape[1] // B_BGN.shape[1]
    y_BHP = torch.zeros(x_BHP.shape, dtype=x_BHP.dtype, device=x_BHP.device)
    for b, slot in enumerate(slots_B.tolist()):
        if slot < 0:
            continue
        dt_H = torch.nn.functional.softplus(dt_BH[b].float() + dt_bias_H.float()).clamp(*dt_limit)
        x_HP = x_BHP[b].float()
        B_HN = B_BGN[b].float().repeat_interleave(heads_per_group, dim=0)
        C_HN = C_BGN[b].float().repeat_interleave(heads_per_group, dim=0)
        decay_H = torch.exp(dt_H * A_H.float())
        update_HPN = (dt_H[:, None] * x_HP)[:, :, None] * B_HN[:, None, :]
        state_HPN = decay_H[:, None, None] * state_SHPN[slot].float() + update_HPN
        y_BHP[b] = ((state_HPN * C_HN[:, None, :]).sum(-1) + D_H.float()[:, None] * x_HP).to(x_BHP.dtype)
        state_SHPN[slot] = state_HPN.to(state_SHPN.dtype)
    return y_BHP
