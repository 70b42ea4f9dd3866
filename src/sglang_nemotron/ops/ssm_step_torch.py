"""One decode token of the Mamba-2 recurrence for each row in a handful of torch calls, for serving on a CPU.

In: convolved x, B, C, raw dt and the states kept in slots; out: y and the states moved on by one token.

Shapes: B decode rows, H heads, P head dim, G groups, N state size, S state slots, J = H / G * P rows that share one
group's B and C.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["ssm_step"]

# from this many numbers per state on, a gather and a scatter cost more than a loop over the rows' own slots
_IN_PLACE_FROM = 32768
# below this many numbers elementwise calls stay on one thread, while a batched product wakes all of them, whatever its
# size, and waits for them: milliseconds when the other cores are busy
_MATMUL_FROM = 32768


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
    """Same contract as `ssm_step_reference.ssm_step`: [B, H, P] in x's dtype, states moved on, padding skipped."""
    slots = slots_B.tolist()
    if not slots:
        return x_BHP.new_zeros(x_BHP.shape)
    if min(slots) < 0:
        real_b = torch.tensor([b for b, slot in enumerate(slots) if slot >= 0], device=x_BHP.device)
        y_BHP = x_BHP.new_zeros(x_BHP.shape)
        if len(real_b):
            rows = (x_BHP[real_b], dt_BH[real_b], A_H, B_BGN[real_b], C_BGN[real_b], D_H, dt_bias_H, state_SHPN)
            y_BHP.index_copy_(0, real_b, ssm_step(*rows, slots_B=slots_B[real_b], dt_limit=dt_limit))
        return y_BHP
    num_rows, num_heads, P = x_BHP.shape
    dt_BH = F.softplus(dt_BH.float() + dt_bias_H)
    if dt_limit != (0.0, float("inf")):
        dt_BH = dt_BH.clamp(*dt_limit)
    decay_BH = torch.exp(dt_BH * A_H)
    x32_BHP = x_BHP.float()
    input_BHP = x32_BHP * dt_BH.unsqueeze(2)
    B_BGN, C_BGN = B_BGN.float(), C_BGN.float()
    own = state_SHPN[slots[0]]
    in_place = num_rows == 1 or own.numel() >= _IN_PLACE_FROM
    if in_place and own.dtype == torch.float32 and own.is_contiguous():
        y_BHP = torch.empty_like(x32_BHP, memory_format=torch.contiguous_format)
        for b, slot in enumerate(slots):
            one = slice(b, b + 1)
            y_BHP[one] = _advance(state_SHPN[slot : slot + 1], decay_BH[one], input_BHP[one], B_BGN[one], C_BGN[one])
    else:
        slots_B = slots_B.long()
        state_BHPN = state_SHPN.index_select(0, slots_B).float()
        y_BHP = _advance(state_BHPN, decay_BH, input_BHP, B_BGN, C_BGN)
        state_SHPN.index_copy_(0, slots_B, state_BHPN.to(state_SHPN.dtype))
    return y_BHP.addcmul_(x32_BHP, D_H.float().unsqueeze(1)).to(x_BHP.dtype)


def _advance(
    state_BHPN: torch.Tensor,
    decay_BH: torch.Tensor,
    input_BHP: torch.Tensor,
    B_BGN: torch.Tensor,
    C_BGN: torch.Tensor,
) -> torch.Tensor:
    # moves the fp32 states on in place and returns state . C, without the skip through D
    num_rows, num_heads, P, N = state_BHPN.shape
    num_groups = B_BGN.shape[1]
    state_BHPN.mul_(decay_BH.view(num_rows, num_heads, 1, 1))
    state_BGJN = state_BHPN.unflatten(1, (num_groups, -1)).flatten(2, 3)
    state_BGJN.addcmul_(input_BHP.reshape(num_rows, num_groups, -1, 1), B_BGN.unsqueeze(2))
    if state_BGJN.numel() < _MATMUL_FROM:
        return (state_BGJN * C_BGN.unsqueeze(2)).sum(3).view(num_rows, num_heads, P)
    return (state_BGJN @ C_BGN.unsqueeze(3)).view(num_rows, num_heads, P)
