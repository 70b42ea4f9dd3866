"""The ragged batch: small frozen records that the functions of this room take besides tensors. No SGLang, no Triton."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class GridSnapshots:
    """The same snapshots as index tensors for chunked device kernels, which keep only some states at hand.

    `conv_positions_nW` (int64): flattened token positions whose raw conv inputs form each window.
    A wanted SSM state is one of: the final state of its sequence (`final_src` -> `final_dst`, slots),
    an entry of the kernel's own chunk grid (`grid_src` -> `grid_dst`), or neither, and then it is computed
    again (`recompute_rows`, `recompute_ends` -> `recompute_dst`; ends are flattened token positions).
    """

    conv_positions_nW: torch.Tensor
    final_src: torch.Tensor
    final_dst: torch.Tensor
    grid_src: torch.Tensor
    grid_dst: torch.Tensor
    recompute_rows: torch.Tensor
    recompute_ends: torch.Tensor
    recompute_dst: torch.Tensor


@dataclass(frozen=True)
class Snapshots:
    """States to copy aside while a prefill runs, for the prefix cache.

    For entry i: the state of sequence `rows[i]` after `ends[i]` of its new tokens goes into slot `slots_n[i]`.
    `rows` and `ends` are host lists, in no order; `slots_n` is an int64 tensor [n]. A snapshot slot is never a
    slot that any sequence of the batch runs on. `grid` is present on devices whose kernels need it.
    """

    rows: list[int]
    ends: list[int]
    slots_n: torch.Tensor
    grid: GridSnapshots | None = None


@dataclass(frozen=True)
class KernelGrid:
    """Index tensors that chunked device kernels want for a ragged batch; built once a step by the host.

    `seq_idx_1T` (int32): row of each token. `chunk_indices`, `chunk_offsets` (int32): physical chunk of each
    logical chunk and where it starts in it; absent when no sequence has an initial state.
    """

    seq_idx_1T: torch.Tensor
    chunk_indices: torch.Tensor | None
    chunk_offsets: torch.Tensor | None


@dataclass(frozen=True)
class RaggedBatch:
    """The sequences of one prefill batch, flattened one behind the other.

    `cu_seqlens` int32 [R+1]; `seq_lens` their lengths on the host; `slots_R` the state slot of each;
    `has_initial_R` (bool) and `has_initial` (the same on the host): whether the slot holds a state to start from.
    """

    cu_seqlens: torch.Tensor
    seq_lens: list[int]
    slots_R: torch.Tensor
    has_initial_R: torch.Tensor
    has_initial: list[bool]
    chunk_size: int
    grid: KernelGrid | None = None


@dataclass(frozen=True)
class Float8Scales:
    """Per-tensor scales of FP8 experts, fp32: a value is its float8_e4m3fn number times the scale.

    `x` and `hidden` (one number each) quantise what goes into the up and the down product; `up_E` and `down_E` belong
    to the weights of each expert. Source: ModelOpt's static FP8, `input_scale` and `weight_scale`.
    """

    x: torch.Tensor
    up_E: torch.Tensor
    hidden: torch.Tensor
    down_E: torch.Tensor
