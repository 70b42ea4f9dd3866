"""Causal convolution on CUDA through SGLang's Triton routines; the same functions as conv1d_torch."""

from __future__ import annotations

import torch

from sglang_nemotron.ops.batch import RaggedBatch, Snapshots
from sglang_nemotron.sglang_api.kernels import causal_conv1d_fn, causal_conv1d_update


def conv1d_prefill(
    x_TC: torch.Tensor,
    weight_CK: torch.Tensor,
    bias_C: torch.Tensor | None,
    state_SCW: torch.Tensor,
    *,
    batch: RaggedBatch,
    snapshots: Snapshots | None,
) -> torch.Tensor:
    """See `ops.conv1d_prefill`."""
    x_CT = x_TC.transpose(0, 1)
    if snapshots is not None:
        assert snapshots.grid is not None
        windows_nCW = x_CT[:, snapshots.grid.conv_positions_nW].transpose(0, 1)
        state_SCW[snapshots.slots_n] = windows_nCW.to(state_SCW.dtype)
    y_CT = causal_conv1d_fn(
        x_CT,
        weight_CK,
        bias_C,
        activation="silu",
        conv_states=state_SCW,
        has_initial_state=batch.has_initial_R,
        cache_indices=batch.slots_R,
        query_start_loc=batch.cu_seqlens,
        seq_lens_cpu=batch.seq_lens,
    )
    return y_CT.transpose(0, 1)


def conv1d_step(
    x_BC: torch.Tensor,
    weight_CK: torch.Tensor,
    bias_C: torch.Tensor | None,
    state_SCW: torch.Tensor,
    *,
    slots_B: torch.Tensor,
) -> torch.Tensor:
    """See `ops.conv1d_step`."""
    return causal_conv1d_update(x_BC, state_SCW, weight_CK, bias_C, "silu", conv_state_indices=slots_B)
