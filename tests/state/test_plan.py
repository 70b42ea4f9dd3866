"""The step's plan from the host's metadata: rows, slots, snapshots; what a mixed or padded batch must keep apart."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from sglang_nemotron.state.plan import make_plan

CHUNK = 8


def prefill_metadata(seq_lens: list[int], prefix_lens: list[int], decodes: int = 0, **options) -> SimpleNamespace:
    starts = [0]
    for length in seq_lens:
        starts.append(starts[-1] + length)
    mixed = SimpleNamespace(
        has_initial_states=torch.tensor([n > 0 for n in prefix_lens]),
        chunk_size=CHUNK,
        seq_idx=torch.zeros(1, starts[-1], dtype=torch.int32),
        chunk_indices=None,
        chunk_offsets=None,
        extend_seq_lens_cpu=seq_lens,
    )
    fields = {
        "num_prefills": len(seq_lens),
        "num_prefill_tokens": starts[-1],
        "num_decodes": decodes,
        "is_target_verify": False,
        "query_start_loc": torch.tensor(starts, dtype=torch.int32),
        "mamba_cache_indices": torch.arange(10, 10 + len(seq_lens) + decodes, dtype=torch.int32),
        "mamba_track_indices": None,
        "mixed_metadata": mixed,
        "has_mamba_track_mask": False,
    }
    return SimpleNamespace(**(fields | options))


def batch(seq_lens: list[int], prefix_lens: list[int], **options) -> SimpleNamespace:
    fields = {
        "batch_size": len(seq_lens),
        "extend_prefix_lens_cpu": prefix_lens,
        "extend_prefix_lens": torch.tensor(prefix_lens),
        "mamba_track_mask": None,
        "mamba_prefill_track_mask_cpu": None,
        "mamba_track_seqlens_cpu": None,
        "mamba_track_seqlens": None,
    }
    return SimpleNamespace(**(fields | options))


def test_prefill_rows_slots_and_initial_states():
    plan = make_plan(prefill_metadata([5, 3], [0, 16]), batch([5, 3], [0, 16]))
    assert plan.prefill is not None and plan.num_tokens == plan.num_prefill_tokens == 8
    assert plan.prefill.seq_lens == [5, 3] and plan.prefill.has_initial == [False, True]
    assert plan.prefill.slots_R.tolist() == [10, 11] and plan.prefill.cu_seqlens.tolist() == [0, 5, 8]
    assert plan.decode_slots_B is None and plan.snapshots is None and plan.decode_track is None


def test_a_mixed_batch_keeps_prefill_first():
    metadata = prefill_metadata([5], [0], decodes=2, mamba_track_indices=torch.tensor([7, 8, 9]))
    plan = make_plan(metadata, batch([5], [0], mamba_track_mask=torch.tensor([True, False, True])))
    assert plan.prefill is not None and plan.prefill.slots_R.tolist() == [10]
    assert plan.decode_slots_B is not None and plan.decode_slots_B.tolist() == [11, 12]
    assert plan.num_tokens == 7
    # the last rows are the decodes: their masks and destinations, not the prefill row's
    assert plan.decode_track is not None
    assert plan.decode_track.mask_B.tolist() == [False, True] and plan.decode_track.dst_B.tolist() == [8, 9]


def test_decode_only():
    metadata = prefill_metadata([], [], decodes=3, mixed_metadata=None)
    plan = make_plan(metadata, batch([], []))
    assert plan.prefill is None and plan.num_prefill_tokens == 0 and plan.num_decodes == 3
    assert plan.decode_slots_B is not None and plan.decode_slots_B.tolist() == [10, 11, 12]


@pytest.mark.parametrize("on_host", [True, False])
def test_snapshots_end_at_whole_chunks_after_the_prefix(on_host):
    # row 0 is not tracked; row 1: 21 new tokens after 16, tracked up to 16 + 17 -> 2 chunks; row 2: exactly one chunk
    seq_lens, prefix_lens = [4, 21, 8], [0, 16, 8]
    mask, lens = [False, True, True], [0, 33, 16]
    options = {"mamba_track_mask": torch.tensor(mask), "mamba_track_seqlens": torch.tensor(lens)}
    if on_host:
        options |= {"mamba_prefill_track_mask_cpu": mask, "mamba_track_seqlens_cpu": lens}
    metadata = prefill_metadata(
        seq_lens, prefix_lens, has_mamba_track_mask=True, conv_states_mask_indices=torch.tensor([40, 41])
    )
    plan = make_plan(metadata, batch(seq_lens, prefix_lens, **options))
    assert plan.snapshots is not None
    assert plan.snapshots.rows == [1, 2] and plan.snapshots.ends == [16, 8]
    assert plan.snapshots.slots_n.tolist() == [40, 41] and plan.snapshots.grid is None


def test_speculative_verification_never_gets_here():
    with pytest.raises(NotImplementedError, match="refused at start-up"):
        make_plan(prefill_metadata([1], [0], is_target_verify=True), batch([1], [0]))
