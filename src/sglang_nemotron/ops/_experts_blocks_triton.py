"""Routed experts over pairs sorted by expert: two grouped products and the sum over a token's experts.

In: checked tensors and a schedule; out: the weighted sum. For 16 tokens and more; each expert's weights are read once
per block of rows. Knows no device table.

Shapes: T tokens, D hidden, I expert width, E experts held here, k experts per token, n = T * k pairs, b blocks.
"""

# what a kernel says is Triton's language, not Python's
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from sglang_nemotron.ops import _expert_sort_triton
from sglang_nemotron.ops._launch_triton import device_wait, float8_values, launch_options, relu2_values
from sglang_nemotron.ops.batch import Float8Scales
from sglang_nemotron.ops.schedules import ExpertSchedule, Tile

__all__ = ["experts_in_blocks"]


@triton.jit
def _grouped_kernel(
    x_ptr,
    w_ptr,
    out_ptr,
    pairs_ptr,
    blocks_ptr,
    x_scale_ptr,
    w_scale_ptr,
    out_scale_ptr,
    x_stride,
    K: tl.constexpr,
    N: tl.constexpr,
    TOP_K: tl.constexpr,
    UP: tl.constexpr,
    SWAP: tl.constexpr,
    TMA: tl.constexpr,
    FLOAT8: tl.constexpr,
    PROMOTE: tl.constexpr,
    ROUNDED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    HALVES: tl.constexpr,
    PDL: tl.constexpr,
):
    """One block of rows times `BLOCK_N` rows of its expert's weights [N, K].

    Up: gathers rows of x by pair, stores relu2 in sorted order. Down: reads sorted rows, stores them by pair.
    """
    device_wait(PDL)
    tiles_n: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    block = tl.program_id(0) // tiles_n
    begin_n = (tl.program_id(0) % tiles_n) * BLOCK_N
    expert = tl.load(blocks_ptr + block * 3)
    if expert < 0:
        return
    first = tl.load(blocks_ptr + block * 3 + 1)
    end = tl.load(blocks_ptr + block * 3 + 2)
    scale = 1.0
    out_scale = 1.0
    if FLOAT8:
        scale = tl.load(x_scale_ptr).to(tl.float32) * tl.load(w_scale_ptr + expert).to(tl.float32)
        if UP:
            out_scale = tl.load(out_scale_ptr)
    if HALVES:  # noqa: SIM102
        # the last block of an expert is half empty half the time, and a prefill waits for the matrix units
        if end - first <= BLOCK_M // 2:
            _tile(
                x_ptr,
                w_ptr,
                out_ptr,
                pairs_ptr,
                x_stride,
                expert,
                begin_n,
                first,
                end,
                scale,
                out_scale,
                K,
                N,
                TOP_K,
                UP,
                SWAP,
                TMA,
                FLOAT8,
                PROMOTE,
                ROUNDED,
                BLOCK_M // 2,
                BLOCK_N,
                BLOCK_K,
            )
            return
    _tile(
        x_ptr,
        w_ptr,
        out_ptr,
        pairs_ptr,
        x_stride,
        expert,
        begin_n,
        first,
        end,
        scale,
        out_scale,
        K,
        N,
        TOP_K,
        UP,
        SWAP,
        TMA,
        FLOAT8,
        PROMOTE,
        ROUNDED,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
    )


@triton.jit
def _tile(
    x_ptr,
    w_ptr,
    out_ptr,
    pairs_ptr,
    x_stride,
    expert,
    begin_n,
    first,
    end,
    scale,
    out_scale,
    K: tl.constexpr,
    N: tl.constexpr,
    TOP_K: tl.constexpr,
    UP: tl.constexpr,
    SWAP: tl.constexpr,
    TMA: tl.constexpr,
    FLOAT8: tl.constexpr,
    PROMOTE: tl.constexpr,
    ROUNDED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Rows first to end - 1 times weights begin_n to begin_n + BLOCK_N - 1 of an expert, stored."""
    rows = first + tl.arange(0, BLOCK_M)
    valid = rows < end
    pairs = tl.load(pairs_ptr + rows, mask=valid, other=0)
    source = pairs // TOP_K if UP else rows
    ks = tl.arange(0, BLOCK_K)
    ns = begin_n + tl.arange(0, BLOCK_N)
    x_at = x_ptr + source.to(tl.int64)[:, None] * x_stride + ks[None, :]
    if not TMA:
        w_at = w_ptr + expert.to(tl.int64) * (N * K) + ns[:, None] * K + ks[None, :]
    acc = tl.zeros([BLOCK_N, BLOCK_M] if SWAP else [BLOCK_M, BLOCK_N], tl.float32)
    for k in tl.range(0, K, BLOCK_K):
        if K % BLOCK_K == 0:
            x = tl.load(x_at + k, mask=valid[:, None], other=0.0)
        else:
            x = tl.load(x_at + k, mask=valid[:, None] & (ks < K - k)[None, :], other=0.0)
        if TMA:
            w = tl.reshape(w_ptr.load([expert, begin_n, k]), [BLOCK_N, BLOCK_K])
        elif N % BLOCK_N == 0 and K % BLOCK_K == 0:
            w = tl.load(w_at + k)
        else:
            w = tl.load(w_at + k, mask=(ns < N)[:, None] & (ks < K - k)[None, :], other=0.0)
        acc = _multiply(x, w, acc, SWAP, PROMOTE)
    if SWAP:
        acc = tl.trans(acc)
    # rounded where the reference rounds: after each product, and after the square
    out = (acc * scale).to(ROUNDED) if FLOAT8 else acc.to(ROUNDED)
    if UP:
        out = relu2_values(out.to(tl.float32)).to(ROUNDED)
        if FLOAT8:
            out = float8_values(out, out_scale).to(out_ptr.dtype.element_ty)
        target = rows
    else:
        target = pairs
    out_at = out_ptr + target.to(tl.int64)[:, None] * N + ns[None, :]
    tl.store(out_at, out, mask=valid[:, None] & (ns < N)[None, :])


@triton.jit
def _multiply(x, w, acc, SWAP: tl.constexpr, PROMOTE: tl.constexpr):
    """acc + x w^T, or its transpose. Hopper adds FP8 products in some 14 bits unless told when to go over to fp32."""
    often: tl.constexpr = min(PROMOTE, x.shape[1]) if PROMOTE > 0 else None
    if SWAP:
        acc = tl.dot(w, tl.trans(x), acc, max_num_imprecise_acc=often)
    else:
        acc = tl.dot(x, tl.trans(w), acc, max_num_imprecise_acc=often)
    return acc


@triton.jit
def _sum_kernel(
    parts_ptr,
    weights_ptr,
    ids_ptr,
    y_ptr,
    D: tl.constexpr,
    NUM_EXPERTS: tl.constexpr,
    TOP_K: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """y[t] = sum over j in order of weights[t, j] * parts[t, j]; skipped pairs have no part and are not read."""
    device_wait(PDL)
    token = tl.program_id(0).to(tl.int64)
    ds = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros([BLOCK], tl.float32)
    for j in tl.static_range(TOP_K):
        pair = token * TOP_K + j
        expert = tl.load(ids_ptr + pair)
        held = (expert >= 0) & (expert < NUM_EXPERTS)
        weight = tl.load(weights_ptr + pair, mask=held, other=0.0).to(tl.float32)
        part = tl.load(parts_ptr + pair * D + ds, mask=held & (ds < D), other=0.0)
        acc += weight * part.to(tl.float32)
    tl.store(y_ptr + token * D + ds, acc.to(y_ptr.dtype.element_ty), mask=ds < D)


def experts_in_blocks(
    x_TD: torch.Tensor,
    up_EID: torch.Tensor,
    down_EDI: torch.Tensor,
    weights_Tk: torch.Tensor,
    ids_Tk: torch.Tensor,
    scales: Float8Scales | None,
    schedule: ExpertSchedule,
) -> torch.Tensor:
    """[T, D] in x's dtype: sort, up with relu2, down, sum; four launches, none of which waits for the host."""
    num_tokens, hidden = x_TD.shape
    num_experts, width, _ = up_EID.shape
    top_k, device = ids_Tk.shape[1], x_TD.device
    rows_TD = x_TD
    if scales is None:
        pairs_n, blocks_b3 = _expert_sort_triton.sort_pairs(ids_Tk, num_experts=num_experts, block_rows=schedule.rows)
    else:
        pairs_n, blocks_b3, rows_TD = _expert_sort_triton.sort_pairs_quantising(
            ids_Tk, x_TD, scales.x, num_experts=num_experts, block_rows=schedule.rows
        )
    num_pairs = pairs_n.shape[0]
    hidden_nI = torch.empty((num_pairs, width), dtype=up_EID.dtype, device=device)
    parts_nD = torch.empty((num_pairs, hidden), dtype=x_TD.dtype, device=device)
    shared = {"pairs": pairs_n, "blocks": blocks_b3, "top_k": top_k, "rounded": x_TD.dtype, "schedule": schedule}
    in_scales, out_scales = (None, None, None), (None, None, None)
    if scales is not None:
        in_scales = (scales.x, scales.up_E, scales.hidden)
        out_scales = (scales.hidden, scales.down_E, None)
    _product(rows_TD, up_EID, hidden_nI, in_scales, tile=schedule.up, up=True, **shared)
    _product(hidden_nI, down_EDI, parts_nD, out_scales, tile=schedule.down, up=False, **shared)
    y_TD = torch.empty((num_tokens, hidden), dtype=x_TD.dtype, device=device)
    block = 512
    _sum_kernel[(num_tokens, triton.cdiv(hidden, block))](
        parts_nD,
        weights_Tk,
        ids_Tk,
        y_TD,
        D=hidden,
        NUM_EXPERTS=num_experts,
        TOP_K=top_k,
        BLOCK=block,
        num_warps=2,
        **launch_options(device, num_tokens),
    )
    return y_TD


def _product(
    x: torch.Tensor,
    w_ENK: torch.Tensor,
    out_nN: torch.Tensor,
    scales: tuple[torch.Tensor | None, ...],
    *,
    pairs: torch.Tensor,
    blocks: torch.Tensor,
    top_k: int,
    rounded: torch.dtype,
    schedule: ExpertSchedule,
    tile: Tile,
    up: bool,
) -> None:
    _, n, k = w_ENK.shape
    # the copy engine wants rows that begin at multiples of 16 bytes
    tma = schedule.tma and k * w_ENK.element_size() % 16 == 0 and w_ENK.data_ptr() % 16 == 0
    weights: Any = TensorDescriptor.from_tensor(w_ENK, [1, tile.out, tile.inner]) if tma else w_ENK
    _grouped_kernel[(blocks.shape[0] * triton.cdiv(n, tile.out),)](
        x,
        weights,
        out_nN,
        pairs,
        blocks,
        *scales,
        x.stride(0),
        K=k,
        N=n,
        TOP_K=top_k,
        UP=up,
        SWAP=schedule.swap,
        TMA=tma,
        FLOAT8=scales[0] is not None,
        PROMOTE=schedule.promote if scales[0] is not None else 0,
        ROUNDED=tl.bfloat16 if rounded == torch.bfloat16 else tl.float16,
        BLOCK_M=schedule.rows,
        BLOCK_N=tile.out,
        BLOCK_K=tile.inner,
        HALVES=schedule.rows >= 128 and not schedule.swap,
        num_warps=tile.warps,
        num_stages=tile.stages,
        **launch_options(x.device, pairs.shape[0] // top_k),
    )
