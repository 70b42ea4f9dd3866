"""One step's indices, made once per forward and handed to every layer: which rows prefill, which decode, on what slots.

Comes in: the host's per-step metadata (duck-typed) and the batch. Goes out: a frozen StepPlan. Never touches a state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sglang_nemotron.ops import GridSnapshots, KernelGrid, RaggedBatch, Snapshots


@dataclass(frozen=True)
class DecodeTrack:
    """Rows whose state is copied aside after this step: `mask_B` (bool) says which, `dst_B` (int64) where to."""

    mask_B: torch.Tensor
    dst_B: torch.Tensor


@dataclass(frozen=True)
class StepPlan:
    """Prefill rows come first in the flattened batch, decode rows (one token each) after them, padding last."""

    num_prefill_tokens: int
    num_decodes: int
    prefill: RaggedBatch | None
    snapshots: Snapshots | None
    decode_slots_B: torch.Tensor | None
    decode_track: DecodeTrack | None

    @property
    def num_tokens(self) -> int:
        return self.num_prefill_tokens + self.num_decodes


def make_plan(metadata: Any, batch: Any) -> StepPlan:
    """The plan of one forward from SGLang's Mamba2Metadata and ForwardBatch.

    Inside a captured CUDA graph the tensors are the graph's static buffers, so nothing here may copy or sync there;
    decode steps only slice.
    """
    if metadata.is_target_verify:
        raise NotImplementedError("speculative verification is refused at start-up; it must not reach the model")
    R, B = metadata.num_prefills, metadata.num_decodes
    slots = metadata.mamba_cache_indices
    prefill = snapshots = None
    if R > 0:
        prefill = _prefill(metadata, batch, slots[:R])
        snapshots = _snapshots(metadata, batch, prefill)
    return StepPlan(
        num_prefill_tokens=metadata.num_prefill_tokens,
        num_decodes=B,
        prefill=prefill,
        snapshots=snapshots,
        decode_slots_B=slots[R : R + B] if B > 0 else None,
        decode_track=_decode_track(metadata, batch, B) if B > 0 else None,
    )


def _prefill(metadata: Any, batch: Any, slots_R: torch.Tensor) -> RaggedBatch:
    mixed = metadata.mixed_metadata
    R = metadata.num_prefills
    seq_lens = mixed.extend_seq_lens_cpu
    if seq_lens is None:
        seq_lens = metadata.query_start_loc.diff().tolist()
    prefix_lens = batch.extend_prefix_lens_cpu
    if prefix_lens is None:
        prefix_lens = batch.extend_prefix_lens.tolist()
    return RaggedBatch(
        cu_seqlens=metadata.query_start_loc[: R + 1],
        seq_lens=list(seq_lens[:R]),
        slots_R=slots_R,
        has_initial_R=mixed.has_initial_states[:R],
        has_initial=[n > 0 for n in prefix_lens[:R]],
        chunk_size=mixed.chunk_size,
        grid=KernelGrid(mixed.seq_idx, mixed.chunk_indices, mixed.chunk_offsets),
    )


def _snapshots(metadata: Any, batch: Any, prefill: RaggedBatch) -> Snapshots | None:
    if not metadata.has_mamba_track_mask:
        return None
    tracked, track_lens, prefix_lens = _track_lists(batch)
    rows = [r for r, wanted in enumerate(tracked) if wanted]
    chunk = prefill.chunk_size
    # only whole chunks counted from the prefix are kept: what SGLang keys the saved state by
    ends = [(track_lens[r] - prefix_lens[r]) // chunk * chunk for r in rows]
    grid = None
    if prefill.cu_seqlens.is_cuda:
        grid = GridSnapshots(
            conv_positions_nW=metadata.track_conv_indices,
            final_src=metadata.track_ssm_final_src,
            final_dst=metadata.track_ssm_final_dst,
            grid_src=metadata.track_ssm_h_src,
            grid_dst=metadata.track_ssm_h_dst,
            recompute_rows=metadata.track_ssm_seq_idx,
            recompute_ends=metadata.track_ssm_end_locs,
            recompute_dst=metadata.track_ssm_recompute_dst,
        )
    return Snapshots(rows=rows, ends=ends, slots_n=metadata.conv_states_mask_indices.long(), grid=grid)


def _track_lists(batch: Any) -> tuple[list[bool], list[int], list[int]]:
    """(tracked?, length to track, prefix length) of every row, from the host's copies where it kept them."""
    mask = batch.mamba_prefill_track_mask_cpu
    lens = batch.mamba_track_seqlens_cpu
    prefix = batch.extend_prefix_lens_cpu
    if mask is None or len(mask) != batch.batch_size:
        mask = batch.mamba_track_mask.tolist()
    if lens is None or len(lens) != batch.batch_size:
        lens = batch.mamba_track_seqlens.tolist()
    if prefix is None:
        prefix = batch.extend_prefix_lens.tolist()
    return list(mask), list(lens), list(prefix)


def _decode_track(metadata: Any, batch: Any, num_decodes: int) -> DecodeTrack | None:
    if batch.mamba_track_mask is None:
        return None
    return DecodeTrack(
        mask_B=batch.mamba_track_mask[-num_decodes:],
        dst_B=metadata.mamba_track_indices[-num_decodes:],
    )
