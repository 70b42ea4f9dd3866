"""Causal depthwise convolution + SiLU over a ragged batch, written as the definition: one sequence, one tap at a time.

In: raw conv inputs and the windows kept in the state slots; out: activated inputs and the new windows. Knows no
chunks, no device tricks and no model.

Shapes: T tokens (flattened batch), R sequences, B decode rows, C conv channels, K taps, W = K - 1, S state slots.
"""

from __future__ import annotations

import torch

from sglang_nemotron.ops.batch import RaggedBatch, Snapshots

__all__ = ["conv1d_prefill", "conv1d_step"]


def conv1d_prefill(
    x_TC: torch.Tensor,
    weight_CK: torch.Tensor,
    bias_C: torch.Tensor | None,
    state_SCW: torch.Tensor,
    *,
    batch: RaggedBatch,
    snapshots: Snapshots | None,
) -> torch.Tensor:
    """y[t] = silu(bias + sum_k weight[:, k] * x[t - W + k]) within each sequence; fp32 inside, x's dtype outside.

    Inputs before a sequence's first token come from `state_SCW[batch.slots_R[r]]` if `batch.has_initial[r]`, else
    they are zero.
    Afterwards the slot holds the sequence's last W raw inputs (oldest first, in the state's dtype), reaching back
    into the initial window when the sequence is shorter than W; an empty sequence keeps its window or gets zeros.
    `snapshots` puts the window after `ends[i]` new tokens of sequence `rows[i]` into `slots_n[i]`.
    Rows of x beyond `sum(batch.seq_lens)` are padding: never read, zero in the result [T, C].
    Source: Mamba-2 (arXiv 2405.21060) section 7; `conv_kernel`, `use_conv_bias` of the model config.
    """
    K = weight_CK.shape[1]
    W = K - 1
    weight = weight_CK.float()
    y_TC = torch.zeros(x_TC.shape, dtype=x_TC.dtype, device=x_TC.device)
    slots = batch.slots_R.tolist()
    wanted = (
        [] if snapshots is None else list(zip(snapshots.rows, snapshots.ends, snapshots.slots_n.tolist(), strict=True))
    )
    begin = 0
    for r, length in enumerate(batch.seq_lens):
        # [W + length, C]: the initial window, then this sequence's inputs
        window = state_SCW[slots[r]].float().t() if batch.has_initial[r] else x_TC.new_zeros((W, x_TC.shape[1])).float()
        inputs = torch.cat([window, x_TC[begin : begin + length].float()])
        total = torch.zeros(length, x_TC.shape[1], dtype=torch.float32, device=x_TC.device)
        for k in range(K):
            total = total + weight[:, k] * inputs[k : k + length]
        if bias_C is not None:
            total = total + bias_C.float()
        y_TC[begin : begin + length] = (total * torch.sigmoid(total)).to(x_TC.dtype)
        state_SCW[slots[r]] = inputs[length : length + W].t().to(state_SCW.dtype)
        for row, end, slot in wanted:
            if row == r:
                state_SCW[slot] = inputs[end : end + W].t().to(state_SCW.dtype)
        begin += length
    return y_TC


def conv1d_step(
    x_BC: torch.Tensor,
    weight_CK: torch.Tensor,
    bias_C: torch.Tensor | None,
    state_SCW: torch.Tensor,
    *,
    slots_B: torch.Tensor,
) -> torch.Tensor:
    """One new token for each row b, continuing the window in slot `slots_B[b]`, which is moved on by one input.

    A row whose slot is negative is padding: its result is zero and nothing is written for it. Several rows may name
    slot 0 (the padding slot); what it then holds is unspecified. Returns [B, C] in x's dtype, fp32 inside.
    """
    y_BC = torch.zeros(x_BC.shape, dtype=x_BC.dtype, device=x_BC.device)
    for b, slot in enumerate(slots_B.tolist()):
        if slot < 0:
            continue
        inputs_CK = torch.cat([state_SCW[slot].float(), x_BC[b].float().unsqueeze(1)], dim=1)
        total = (inputs_CK * weight_CK.float()).sum(1)
        if bias_C is not None:
            total = total + bias_C.float()
        y_BC[b] = (total * torch.sigmoid(total)).to(x_BC.dtype)
        state_SCW[slot] = inputs_CK[:, 1:].to(state_SCW.dtype)
    return y_BC
