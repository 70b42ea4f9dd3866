"""Which (token, expert) pairs each expert gets, in one launch without a look from the host.

In: the router's ids; out: the order and the blocks that a grouped product walks. Knows no weights.

Shapes: T tokens, k experts per token, n = T * k pairs, E experts, b blocks, D hidden.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglang_nemotron.ops._launch_triton import device_wait, float8_values, launch_options

__all__ = ["sort_pairs", "sort_pairs_quantising"]

# ids that a program looks at together, of few and of many, and numbers that it quantises
_CHUNK, _LARGE_CHUNK = 4096, 16384
_QUANTISED = 4096


@triton.jit
def _sort_kernel(
    ids_ptr,
    pairs_ptr,
    blocks_ptr,
    x_ptr,
    scale_ptr,
    quantised_ptr,
    num_pairs,
    max_blocks,
    num_values,
    NUM_EXPERTS: tl.constexpr,
    BINS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    QUANTISED: tl.constexpr,
    PDL: tl.constexpr,
):
    """Program e < E: counts everything, then writes the pairs and blocks of expert e. Further programs quantise x."""
    device_wait(PDL)
    expert = tl.program_id(0)
    if QUANTISED > 0:  # noqa: SIM102
        # known when the kernel is compiled, unlike what follows
        if expert >= NUM_EXPERTS:
            at = (expert - NUM_EXPERTS).to(tl.int64) * QUANTISED + tl.arange(0, QUANTISED)
            x = float8_values(tl.load(x_ptr + at, mask=at < num_values, other=0.0), tl.load(scale_ptr))
            tl.store(quantised_ptr + at, x.to(quantised_ptr.dtype.element_ty), mask=at < num_values)
            return
    lane = tl.arange(0, CHUNK)
    bins = tl.arange(0, BINS)
    counts = tl.zeros([BINS], tl.int32)
    for begin in range(0, num_pairs, CHUNK):
        ids = tl.load(ids_ptr + begin + lane, mask=begin + lane < num_pairs, other=-1).to(tl.int32)
        counts += tl.histogram(ids, BINS, mask=(ids >= 0) & (ids < NUM_EXPERTS))
    num_blocks = (counts + BLOCK_ROWS - 1) // BLOCK_ROWS
    before = bins < expert
    first = tl.sum(tl.where(before, counts, 0))
    block = tl.sum(tl.where(before, num_blocks, 0))
    count = tl.sum(tl.where(bins == expert, counts, 0))
    _write_blocks(blocks_ptr, expert, block, first, count, BLOCK_ROWS)
    if expert == 0:
        # the tail of the table is for nobody
        for row in range(tl.sum(num_blocks), max_blocks, BINS):
            tl.store(blocks_ptr + (row + bins) * 3, -1, mask=row + bins < max_blocks)
            tl.store(blocks_ptr + (row + bins) * 3 + 1, 0, mask=row + bins < max_blocks)
            tl.store(blocks_ptr + (row + bins) * 3 + 2, 0, mask=row + bins < max_blocks)
    if count > 0:
        for begin in range(0, num_pairs, CHUNK):
            ids = tl.load(ids_ptr + begin + lane, mask=begin + lane < num_pairs, other=-1).to(tl.int32)
            own = (ids == expert).to(tl.int32)
            place = first + tl.cumsum(own, 0) - 1
            tl.store(pairs_ptr + place, begin + lane, mask=own != 0)
            first += tl.sum(own)


@triton.jit
def _write_blocks(blocks_ptr, expert, block, first, count, BLOCK_ROWS: tl.constexpr):
    end = first + count
    for begin in range(first, end, BLOCK_ROWS):
        tl.store(blocks_ptr + block * 3, expert)
        tl.store(blocks_ptr + block * 3 + 1, begin)
        tl.store(blocks_ptr + block * 3 + 2, tl.minimum(begin + BLOCK_ROWS, end))
        block += 1


def _sort(
    ids_Tk: torch.Tensor, x_TD: torch.Tensor | None, scale: torch.Tensor | None, num_experts: int, block_rows: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    if ids_Tk.dtype not in (torch.int32, torch.int64) or not ids_Tk.is_contiguous():
        raise ValueError(f"ids are contiguous int32 or int64, not {ids_Tk.dtype} with strides {ids_Tk.stride()}")
    num_pairs, device = ids_Tk.numel(), ids_Tk.device
    max_blocks = min(num_pairs, num_experts + num_pairs // block_rows)
    pairs_n = torch.empty(num_pairs, dtype=torch.int32, device=device)
    blocks_b3 = torch.empty((max_blocks, 3), dtype=torch.int32, device=device)
    quantised_TD = None if x_TD is None else torch.empty(x_TD.shape, dtype=torch.float8_e4m3fn, device=device)
    num_values = 0 if x_TD is None else x_TD.numel()
    if num_pairs == 0:
        return pairs_n, blocks_b3, quantised_TD
    # every chunk costs its latency twice; a prefill's ids are many
    most = _CHUNK if num_pairs <= 2 * _CHUNK else _LARGE_CHUNK
    chunk = min(most, max(128, triton.next_power_of_2(num_pairs)))
    _sort_kernel[(num_experts + triton.cdiv(num_values, _QUANTISED),)](
        ids_Tk,
        pairs_n,
        blocks_b3,
        x_TD,
        scale,
        quantised_TD,
        num_pairs,
        max_blocks,
        num_values,
        NUM_EXPERTS=num_experts,
        BINS=max(32, triton.next_power_of_2(num_experts)),
        BLOCK_ROWS=block_rows,
        CHUNK=chunk,
        QUANTISED=_QUANTISED if num_values else 0,
        num_warps=16 if chunk > _CHUNK else 8 if chunk > 1024 or num_values else 4,
        **launch_options(device),
    )
    return pairs_n, blocks_b3, quantised_TD


def sort_pairs(ids_Tk: torch.Tensor, *, num_experts: int, block_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Same contract as `expert_sort_reference.sort_pairs`; ids outside [0, num_experts) are skipped alike."""
    pairs_n, blocks_b3, _ = _sort(ids_Tk, None, None, num_experts, block_rows)
    return pairs_n, blocks_b3


def sort_pairs_quantising(
    ids_Tk: torch.Tensor, x_TD: torch.Tensor, scale: torch.Tensor, *, num_experts: int, block_rows: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Same contract as `expert_sort_reference.sort_pairs_quantising`, still in one launch."""
    if not x_TD.is_contiguous():
        raise ValueError(f"hidden states are contiguous, not of strides {x_TD.stride()}")
    pairs_n, blocks_b3, quantised_TD = _sort(ids_Tk, x_TD, scale, num_experts, block_rows)
    assert quantised_TD is not None
    return pairs_n, blocks_b3, quantised_TD
