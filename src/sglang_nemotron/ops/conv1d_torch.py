"""Causal depthwise convolution + SiLU over a ragged batch in a handful of torch calls, for serving on a CPU.

In: raw conv inputs and the windows kept in the state slots; out: activated inputs and the new windows.

Shapes: T tokens (flattened batch), R sequences, B decode rows, C conv channels, K taps, W = K - 1, S state slots,
M rows of the working buffer: W rows of initial window before each sequence's tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

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
    """Same contract as `conv1d_reference.conv1d_prefill`: [T, C] in x's dtype, windows in `state_SCW` moved on.

    All sequences share one buffer in which each is preceded by its initial window: every tap is then one shifted
    multiply-add over the whole batch, and every window wanted afterwards is W consecutive rows of the buffer.
    """
    num_channels, W = state_SCW.shape[1:]
    seq_lens = batch.seq_lens
    num_tokens = sum(seq_lens)
    y_TC = x_TC.new_zeros((x_TC.shape[0], num_channels))
    if not seq_lens:
        return y_TC
    slots_R = batch.slots_R.long()
    buffer_MC = _with_windows(
        x_TC[:num_tokens].float(), _initial_windows(state_SCW, slots_R, batch.has_initial), seq_lens
    )
    begins = _begins(seq_lens, W)
    if num_tokens:
        weight_KC = weight_CK.float().t().contiguous()
        num_rows = buffer_MC.shape[0] - W
        total_MC = buffer_MC[:num_rows] * weight_KC[0]
        for k in range(1, W + 1):
            total_MC.addcmul_(buffer_MC[k : k + num_rows], weight_KC[k])
        if bias_C is not None:
            total_MC.add_(bias_C.float())
        F.silu(total_MC, inplace=True)
        # the W rows between two sequences mix both and are dropped here
        row = 0
        for begin, length in zip(begins, seq_lens, strict=True):
            y_TC[row : row + length] = total_MC[begin : begin + length]
            row += length
    _store_windows(
        state_SCW, buffer_MC, slots_R, [begin + length for begin, length in zip(begins, seq_lens, strict=True)]
    )
    if snapshots is not None and snapshots.rows:
        ends = [begins[row] + end for row, end in zip(snapshots.rows, snapshots.ends, strict=True)]
        _store_windows(state_SCW, buffer_MC, snapshots.slots_n.long(), ends)
    return y_TC


def _begins(seq_lens: list[int], W: int) -> list[int]:
    # buffer row at which each sequence's initial window starts
    begins, row = [], 0
    for length in seq_lens:
        begins.append(row)
        row += W + length
    return begins


def _initial_windows(state_SCW: torch.Tensor, slots_R: torch.Tensor, has_initial: list[bool]) -> torch.Tensor:
    # fp32 [R, W, C]; a slot that is not to be read may hold anything, NaN included, so it is replaced, not multiplied
    if not any(has_initial):
        _, num_channels, W = state_SCW.shape
        return torch.zeros((len(has_initial), W, num_channels), dtype=torch.float32, device=state_SCW.device)
    windows_RCW = state_SCW.index_select(0, slots_R).float()
    if not all(has_initial):
        fresh_R = torch.tensor([not initial for initial in has_initial], device=state_SCW.device)
        windows_RCW = windows_RCW.masked_fill(fresh_R[:, None, None], 0.0)
    return windows_RCW.transpose(1, 2)


def _with_windows(x_TC: torch.Tensor, windows_RWC: torch.Tensor, seq_lens: list[int]) -> torch.Tensor:
    pieces = []
    for window_WC, tokens_TC in zip(windows_RWC.unbind(0), x_TC.split(seq_lens), strict=True):
        pieces += [window_WC, tokens_TC]
    return torch.cat(pieces)


def _store_windows(state_SCW: torch.Tensor, buffer_MC: torch.Tensor, slots_n: torch.Tensor, rows: list[int]) -> None:
    W = state_SCW.shape[2]
    windows_nWC = torch.stack([buffer_MC[row : row + W] for row in rows])
    state_SCW.index_copy_(0, slots_n, windows_nWC.transpose(1, 2).to(state_SCW.dtype))


def conv1d_step(
    x_BC: torch.Tensor,
    weight_CK: torch.Tensor,
    bias_C: torch.Tensor | None,
    state_SCW: torch.Tensor,
    *,
    slots_B: torch.Tensor,
) -> torch.Tensor:
    """Same contract as `conv1d_reference.conv1d_step`: [B, C] in x's dtype, windows moved on, padding skipped."""
    slots = slots_B.tolist()
    if min(slots, default=0) < 0:
        real_b = torch.tensor([b for b, slot in enumerate(slots) if slot >= 0], device=x_BC.device)
        y_BC = x_BC.new_zeros(x_BC.shape)
        if len(real_b):
            step_nC = conv1d_step(x_BC[real_b], weight_CK, bias_C, state_SCW, slots_B=slots_B[real_b])
            y_BC.index_copy_(0, real_b, step_nC)
        return y_BC
    if len(slots) == 1:
        # one row is a view of its slot: no gather, no scatter
        kept_BCW = state_SCW[slots[0] : slots[0] + 1]
    else:
        slots_B = slots_B.long()
        kept_BCW = state_SCW.index_select(0, slots_B)
    window_BCK = torch.cat([kept_BCW.float(), x_BC.float().unsqueeze(2)], dim=2)
    if len(slots) == 1:
        kept_BCW.copy_(window_BCK[:, :, 1:])
    else:
        state_SCW.index_copy_(0, slots_B, window_BCK[:, :, 1:].to(state_SCW.dtype))
    total_BC = window_BCK.mul_(weight_CK).sum(2)
    if bias_C is not None:
        total_BC.add_(bias_C)
    return F.silu(total_BC, inplace=True).to(x_BC.dtype)
