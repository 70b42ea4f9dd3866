"""The chunked Mamba-2 scan on CUDA through SGLang's Triton routine; the same function as ssd_torch."""

from __future__ import annotations

from typing import Any

import torch

from sglang_nemotron.ops.batch import RaggedBatch, Snapshots
from sglang_nemotron.sglang_api.kernels import mamba_chunk_scan_combined


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
    """See `ops.ssd_prefill`."""
    assert batch.grid is not None
    initial_RHPN = None
    if any(batch.has_initial):
        initial_RHPN = torch.where(batch.has_initial_R[:, None, None, None], state_SHPN[batch.slots_R], 0)
    y_THP = torch.empty_like(x_THP, memory_format=torch.contiguous_format)
    recompute = snapshots.grid if snapshots is not None else None
    # a triple, because track states are asked for
    states: Any = mamba_chunk_scan_combined(
        x_THP.unsqueeze(0),
        dt_TH.unsqueeze(0),
        A_H,
        B_TGN.unsqueeze(0),
        C_TGN.unsqueeze(0),
        chunk_size=batch.chunk_size,
        D=D_H,
        z=None,
        dt_bias=dt_bias_H,
        seq_idx=batch.grid.seq_idx_1T,
        chunk_indices=batch.grid.chunk_indices,
        chunk_offsets=batch.grid.chunk_offsets,
        cu_seqlens=batch.cu_seqlens,
        initial_states=initial_RHPN,
        return_varlen_states=True,
        return_final_states=False,
        return_track_states=True,
        track_seq_idx=recompute.recompute_rows if recompute is not None else None,
        track_end_locs=recompute.recompute_ends if recompute is not None else None,
        dt_softplus=True,
        dt_limit=dt_limit,
        out=y_THP.unsqueeze(0),
        state_dtype=state_SHPN.dtype,
    )
    grid_states, final_RHPN, recomputed = states
    state_SHPN[batch.slots_R] = final_RHPN
    if snapshots is not None:
        _keep(state_SHPN, grid_states, recomputed, snapshots)
    return y_THP


def _keep(
    state_SHPN: torch.Tensor, grid_states: torch.Tensor, recomputed: torch.Tensor | None, snapshots: Snapshots
) -> None:
    # three sources, as GridSnapshots says; the final ones are read back after the batch's own slots were written
    grid = snapshots.grid
    assert grid is not None
    if grid.grid_src.numel() > 0:
        state_SHPN[grid.grid_dst] = grid_states.squeeze(0)[grid.grid_src].to(state_SHPN.dtype)
    if grid.recompute_dst.numel() > 0:
        assert recomputed is not None
        state_SHPN[grid.recompute_dst] = recomputed.squeeze(0).to(state_SHPN.dtype)
    if grid.final_src.numel() > 0:
        state_SHPN[grid.final_dst] = state_SHPN[grid.final_src]
