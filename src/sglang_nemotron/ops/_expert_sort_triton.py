"""Which (token, expert) pairs each expert gets: one launch, two for a prefill, without a look from the host.

In: the router's ids; out: the order and the blocks that a grouped product walks. Knows no weights.

Shapes: T tokens, k experts per token, n = T * k pairs, E experts, b blocks, D hidden.
"""

# what a kernel says is Triton's language, not Python's
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglang_nemotron.ops._launch_triton import device_wait, float8_values, launch_options

__all__ = ["sort_pairs", "sort_pairs_quantising"]

# ids that a program looks at together, and numbers that it quantises
_CHUNK, _QUANTISED = 4096, 4096
# chunks whose counts are added up together
_ROWS = tl.constexpr(16)


@triton.jit
def _quantise(x_ptr, scale_ptr, quantised_ptr, num_values, part, QUANTISED: tl.constexpr):
    at = part.to(tl.int64) * QUANTISED + tl.arange(0, QUANTISED)
    x = float8_values(tl.load(x_ptr + at, mask=at < num_values, other=0.0), tl.load(scale_ptr))
    tl.store(quantised_ptr + at, x.to(quantised_ptr.dtype.element_ty), mask=at < num_values)


@triton.jit
def _chunk_counts(ids_ptr, chunk, num_pairs, NUM_EXPERTS: tl.constexpr, BINS: tl.constexpr, CHUNK: tl.constexpr):
    """(ids of a chunk, how often each expert is among them); what lies outside is -1 and counted nowhere."""
    pairs = chunk * CHUNK + tl.arange(0, CHUNK)
    ids = tl.load(ids_ptr + pairs, mask=pairs < num_pairs, other=-1).to(tl.int32)
    return ids, tl.histogram(ids, BINS, mask=(ids >= 0) & (ids < NUM_EXPERTS))


@triton.jit
def _count_kernel(
    ids_ptr,
    counts_ptr,
    x_ptr,
    scale_ptr,
    quantised_ptr,
    num_pairs,
    num_values,
    num_chunks,
    NUM_EXPERTS: tl.constexpr,
    BINS: tl.constexpr,
    CHUNK: tl.constexpr,
    QUANTISED: tl.constexpr,
    PDL: tl.constexpr,
):
    """A program per chunk: how often each expert is in it. Further programs quantise x."""
    device_wait(PDL)
    chunk = tl.program_id(0)
    if QUANTISED > 0:  # noqa: SIM102
        # known when the kernel is compiled, unlike what follows
        if chunk >= num_chunks:
            _quantise(x_ptr, scale_ptr, quantised_ptr, num_values, chunk - num_chunks, QUANTISED)
            return
    _, counts = _chunk_counts(ids_ptr, chunk, num_pairs, NUM_EXPERTS, BINS, CHUNK)
    tl.store(counts_ptr + chunk * BINS + tl.arange(0, BINS), counts)


@triton.jit
def _sort_kernel(
    ids_ptr,
    pairs_ptr,
    blocks_ptr,
    counts_ptr,
    x_ptr,
    scale_ptr,
    quantised_ptr,
    num_pairs,
    max_blocks,
    num_values,
    num_chunks,
    NUM_EXPERTS: tl.constexpr,
    BINS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    ONE_CHUNK: tl.constexpr,
    QUANTISED: tl.constexpr,
    PDL: tl.constexpr,
):
    """A program per expert and chunk writes that expert's pairs, the first also its blocks. Further ones quantise x."""
    device_wait(PDL)
    expert = tl.program_id(0) // num_chunks
    chunk = tl.program_id(0) % num_chunks
    if QUANTISED > 0:  # noqa: SIM102
        if expert >= NUM_EXPERTS:
            _quantise(x_ptr, scale_ptr, quantised_ptr, num_values, tl.program_id(0) - NUM_EXPERTS, QUANTISED)
            return
    bins = tl.arange(0, BINS)
    ids, counts = _chunk_counts(ids_ptr, chunk, num_pairs, NUM_EXPERTS, BINS, CHUNK)
    earlier = 0
    if not ONE_CHUNK:
        counts = tl.zeros([BINS], tl.int32)
        for begin in range(0, num_chunks, _ROWS):
            rows = begin + tl.arange(0, _ROWS)
            at = counts_ptr + rows[:, None] * BINS + bins[None, :]
            part = tl.load(at, mask=(rows < num_chunks)[:, None], other=0)
            counts += tl.sum(part, 0)
            earlier += tl.sum(tl.where((rows < chunk)[:, None] & (bins == expert)[None, :], part, 0))
    num_blocks = (counts + BLOCK_ROWS - 1) // BLOCK_ROWS
    first = tl.sum(tl.where(bins < expert, counts, 0))
    if chunk == 0:
        block = tl.sum(tl.where(bins < expert, num_blocks, 0))
        end = first + tl.sum(tl.where(bins == expert, counts, 0))
        _write_blocks(blocks_ptr, expert, block, first, end, BLOCK_ROWS)
        if expert == 0:
            # the tail of the table is for nobody
            for row in range(tl.sum(num_blocks), max_blocks, BINS):
                tl.store(blocks_ptr + (row + bins) * 3, -1, mask=row + bins < max_blocks)
                tl.store(blocks_ptr + (row + bins) * 3 + 1, 0, mask=row + bins < max_blocks)
                tl.store(blocks_ptr + (row + bins) * 3 + 2, 0, mask=row + bins < max_blocks)
    own = (ids == expert).to(tl.int32)
    place = first + earlier + tl.cumsum(own, 0) - 1
    tl.store(pairs_ptr + place, chunk * CHUNK + tl.arange(0, CHUNK), mask=own != 0)


@triton.jit
def _write_blocks(blocks_ptr, expert, block, first, end, BLOCK_ROWS: tl.constexpr):
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
    chunk = min(_CHUNK, max(128, triton.next_power_of_2(num_pairs)))
    num_chunks, parts = triton.cdiv(num_pairs, chunk), triton.cdiv(num_values, _QUANTISED)
    shared = {
        "NUM_EXPERTS": num_experts,
        "BINS": max(32, triton.next_power_of_2(num_experts)),
        "CHUNK": chunk,
        "num_warps": 8 if chunk > 1024 or num_values else 4,
        **launch_options(device, ids_Tk.shape[0]),
    }
    values = (x_TD, scale, quantised_TD)
    counts = None
    if num_chunks > 1:
        # many ids are counted first, and x is quantised beside that
        counts = torch.empty((num_chunks, shared["BINS"]), dtype=torch.int32, device=device)
        quantised = _QUANTISED if num_values else 0
        sizes = (num_pairs, num_values, num_chunks)
        _count_kernel[(num_chunks + parts,)](ids_Tk, counts, *values, *sizes, QUANTISED=quantised, **shared)
        parts = 0
    _sort_kernel[(num_experts * num_chunks + parts,)](
        *(ids_Tk, pairs_n, blocks_b3, counts),
        *values,
        *(num_pairs, max_blocks, num_values, num_chunks),
        BLOCK_ROWS=block_rows,
        ONE_CHUNK=num_chunks == 1,
        QUANTISED=_QUANTISED if parts else 0,
        **shared,
    )
    return pairs_n, blocks_b3, quantised_TD


def sort_pairs(ids_Tk: torch.Tensor, *, num_experts: int, block_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Same contract as `_expert_sort_reference.sort_pairs`; ids outside [0, num_experts) are skipped alike."""
    pairs_n, blocks_b3, _ = _sort(ids_Tk, None, None, num_experts, block_rows)
    return pairs_n, blocks_b3


def sort_pairs_quantising(
    ids_Tk: torch.Tensor, x_TD: torch.Tensor, scale: torch.Tensor, *, num_experts: int, block_rows: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Same contract as `_expert_sort_reference.sort_pairs_quantising`, in the same launches."""
    if not x_TD.is_contiguous():
        raise ValueError(f"hidden states are contiguous, not of strides {x_TD.stride()}")
    pairs_n, blocks_b3, quantised_TD = _sort(ids_Tk, x_TD, scale, num_experts, block_rows)
    assert quantised_TD is not None
    return pairs_n, blocks_b3, quantised_TD
