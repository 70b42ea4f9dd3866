"""The Mamba-2 state-space scan over a ragged batch as a token-by-token recurrence, the definition and nothing else.

In: convolved x, B, C, raw dt and the states kept in slots; out: y and the new states. Never the chunk algebra of the
kernels it checks.

Shapes: T tokens (flattened batch), R sequences, H heads, P head dim, G groups (heads h * G // H share B and C),
N state size, S state slots.
"""

from __future__ import annotations

import torch

from sglang_nemotron.ops.batch import RaggedBatch, Snapshots

__all__ = ["ssd_prefill"]


def ssd_prefill(
    x_THP: torch.Tensor,
    dt_TH: torch.Tensor,
    A_H: torch.Tensor,
    B_TGN: torch.Tensor,
    C_TGN: torch.Tensor,
    D_H: torch.Tensor,
    dt_bias_H: torch.Tensor,
    state_SHPN: torch.Tensor,
    *,
    batch: RaggedBatch,
    snapshots: Snapshots | None,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
) -> torch.Tensor:
    """h[t] = exp(dt A) h[t-1] + dt x B^T and y[t] = h[t] C + D x, each sequence from its own state.

    dt is raw: softplus(dt + bias), clamped to `dt_limit`, happens here. `A_H` is negative (-exp(A_log)). All
    arithmetic is fp32; y [T, H, P] has x's dtype. A sequence starts from `state_SHPN[batch.slots_R[r]]` if
    `batch.has_initial[r]`, else from zero, and leaves its final state (in the state's dtype) in the same slot, an empty
    sequence included. `snapshots` puts the state after `ends[i]` new tokens of sequence `rows[i]` into `slots_n[i]`.
    `batch.chunk_size` is not read here. Rows beyond `sum(batch.seq_lens)` are padding: never read, zero in the result.
    Source: Mamba-2 (arXiv 2405.21060) equation 2 with its per-head scalar A.
    """
    num_heads = x_THP.shape[1]
    heads_per_group = num_heads // B_TGN.shape[1]
    y_THP = torch.zeros(x_THP.shape, dtype=x_THP.dtype, device=x_THP.device)
    A, D = A_H.float(), D_H.float()
    slots = batch.slots_R.tolist()
    wanted = (
        [] if snapshots is None else list(zip(snapshots.rows, snapshots.ends, snapshots.slots_n.tolist(), strict=True))
    )
    begin = 0
    for r, length in enumerate(batch.seq_lens):
        state_HPN = state_SHPN[slots[r]].float().clone()
        if not batch.has_initial[r]:
            state_HPN = torch.zeros_like(state_HPN)
        for step in range(length + 1):
            for row, end, slot in wanted:
                if row == r and end == step:
                    state_SHPN[slot] = state_HPN.to(state_SHPN.dtype)
            if step == length:
                break
            t = begin + step
            dt_H = torch.nn.functional.softplus(dt_TH[t].float() + dt_bias_H.float()).clamp(*dt_limit)
            x_HP = x_THP[t].float()
            B_HN = B_TGN[t].float().repeat_interleave(heads_per_group, dim=0)
            C_HN = C_TGN[t].float().repeat_interleave(heads_per_group, dim=0)
            decay_H = torch.exp(dt_H * A)
            update_HPN = (dt_H[:, None] * x_HP)[:, :, None] * B_HN[:, None, :]
            state_HPN = decay_H[:, None, None] * state_HPN + update_HPN
            y_HP = (state_HPN * C_HN[:, None, :]).sum(-1) + D[:, None] * x_HP
            y_THP[t] = y_HP.to(x_THP.dtype)
        state_SHPN[slots[r]] = state_HPN.to(state_SHPN.dtype)
        begin += length
    return y_THP
