"""Routed experts for a few tokens: every (token, expert) pair streams its expert's weights, nothing is sorted.

In: checked tensors and a schedule; out: the weighted sum, added up inside the second of two launches. Two tokens that
share an expert read it twice, the second time from the cache. Knows no device table.

Shapes: T tokens, D hidden, I expert width, E experts held here, k experts per token, n = T * k pairs.
"""

# what a kernel says is Triton's language, not Python's
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sglang_nemotron.ops._launch_triton import device_wait, float8_operand, float8_values, launch_options, relu2_values
from sglang_nemotron.ops.batch import Float8Scales
from sglang_nemotron.ops.schedules import ExpertSchedule, Tile

__all__ = ["experts_by_pair", "experts_up_by_pair"]


@triton.jit
def _weights(w_ptr, expert, held, ns, ks, N: tl.constexpr, K: tl.constexpr):
    """Rows ns and columns ks of an expert's [N, K]; zeros outside, and for an expert that is not held here."""
    at = w_ptr + expert.to(tl.int64) * (N * K) + ns[:, None] * K + ks[None, :]
    return tl.load(at, mask=held & (ns < N)[:, None] & (ks < K)[None, :], other=0.0, eviction_policy="evict_first")


@triton.jit
def _accumulate(acc, w, x, VECTOR: tl.constexpr):
    """acc + w x, each thread adding up what it loaded at once: `VECTOR` neighbours become one number."""
    products = w.to(tl.float32) * x[None, :]
    return acc + tl.sum(tl.reshape(products, [acc.shape[0], acc.shape[1], VECTOR]), 2)


@triton.jit
def _choice_weights(w_ptr, ids_at, j, ns, ks, N: tl.constexpr, K: tl.constexpr, E: tl.constexpr, TOP_K: tl.constexpr):
    """`_weights` of the expert that is a token's choice number j; zeros after the last."""
    expert = tl.load(ids_at + j, mask=j < TOP_K, other=-1)
    return _weights(w_ptr, expert, (expert >= 0) & (expert < E), ns, ks, N, K)


@triton.jit
def _up_kernel(
    x_ptr,
    w_ptr,
    ids_ptr,
    hidden_ptr,
    x_scale_ptr,
    w_scale_ptr,
    hidden_scale_ptr,
    x_stride,
    K: tl.constexpr,
    N: tl.constexpr,
    NUM_EXPERTS: tl.constexpr,
    TOP_K: tl.constexpr,
    FLOAT8: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PDL: tl.constexpr,
):
    """`BLOCK_N` channels of relu2(up x) of one pair."""
    device_wait(PDL)
    tiles_n: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    steps: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    pair = tl.program_id(0) // tiles_n
    expert = tl.load(ids_ptr + pair)
    if (expert < 0) | (expert >= NUM_EXPERTS):
        return
    ns = (tl.program_id(0) % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    ks = tl.arange(0, BLOCK_K)
    x_at = x_ptr + (pair // TOP_K).to(tl.int64) * x_stride + ks
    # 16 bytes per load
    vector: tl.constexpr = 16 if FLOAT8 else 8
    acc = tl.zeros([BLOCK_N, BLOCK_K // vector], tl.float32)
    # four tiles are on their way while one is multiplied; unrolled, the names cost nothing
    w0 = _weights(w_ptr, expert, True, ns, ks, N, K)
    w1 = _weights(w_ptr, expert, steps > 1, ns, BLOCK_K + ks, N, K)
    w2 = _weights(w_ptr, expert, steps > 2, ns, 2 * BLOCK_K + ks, N, K)
    w3 = _weights(w_ptr, expert, steps > 3, ns, 3 * BLOCK_K + ks, N, K)
    for step in tl.static_range(steps):
        w = w0
        w0 = w1
        w1 = w2
        w2 = w3
        if step + 4 < steps:
            w3 = _weights(w_ptr, expert, True, ns, (step + 4) * BLOCK_K + ks, N, K)
        inside = step * BLOCK_K + ks < K
        x = tl.load(x_at + step * BLOCK_K, mask=inside, other=0.0)
        if FLOAT8:
            x = float8_operand(x, tl.load(x_scale_ptr), w_ptr.dtype.element_ty, inside)
        acc = _accumulate(acc, w, x.to(tl.float32), vector)
    out = tl.sum(acc, 1)
    if FLOAT8:
        out *= tl.load(x_scale_ptr).to(tl.float32) * tl.load(w_scale_ptr + expert).to(tl.float32)
    rounded: tl.constexpr = x_ptr.dtype.element_ty
    out = relu2_values(out.to(rounded).to(tl.float32)).to(rounded)
    if FLOAT8:
        out = float8_values(out, tl.load(hidden_scale_ptr)).to(hidden_ptr.dtype.element_ty)
    tl.store(hidden_ptr + pair.to(tl.int64) * N + ns, out, mask=ns < N)


@triton.jit
def _down_kernel(
    hidden_ptr,
    w_ptr,
    weights_ptr,
    ids_ptr,
    y_ptr,
    hidden_scale_ptr,
    w_scale_ptr,
    K: tl.constexpr,
    N: tl.constexpr,
    NUM_EXPERTS: tl.constexpr,
    TOP_K: tl.constexpr,
    FLOAT8: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PDL: tl.constexpr,
):
    """`BLOCK_N` channels of one token's sum over its experts, in the order of its ids."""
    tiles_n: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    chunks: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    token = tl.program_id(0) // tiles_n
    ns = (tl.program_id(0) % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    ks = tl.arange(0, BLOCK_K)
    ids_at = ids_ptr + token * TOP_K
    # ids and weights are older than the up kernel, which let this one in: the first tiles need not wait for it
    w0 = _choice_weights(w_ptr, ids_at, 0 // chunks, ns, 0 % chunks * BLOCK_K + ks, N, K, NUM_EXPERTS, TOP_K)
    w1 = _choice_weights(w_ptr, ids_at, 1 // chunks, ns, 1 % chunks * BLOCK_K + ks, N, K, NUM_EXPERTS, TOP_K)
    w2 = _choice_weights(w_ptr, ids_at, 2 // chunks, ns, 2 % chunks * BLOCK_K + ks, N, K, NUM_EXPERTS, TOP_K)
    w3 = _choice_weights(w_ptr, ids_at, 3 // chunks, ns, 3 % chunks * BLOCK_K + ks, N, K, NUM_EXPERTS, TOP_K)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    # 16 bytes per load
    vector: tl.constexpr = 16 if FLOAT8 else 8
    acc = tl.zeros([BLOCK_N, BLOCK_K // vector], tl.float32)
    for step in tl.static_range(TOP_K * chunks):
        w = w0
        w0 = w1
        w1 = w2
        w2 = w3
        if step + 4 < TOP_K * chunks:
            w3 = _choice_weights(
                w_ptr, ids_at, (step + 4) // chunks, ns, (step + 4) % chunks * BLOCK_K + ks, N, K, NUM_EXPERTS, TOP_K
            )
        expert = tl.load(ids_at + step // chunks)
        held = (expert >= 0) & (expert < NUM_EXPERTS)
        pair = token * TOP_K + step // chunks
        weight = tl.load(weights_ptr + pair, mask=held, other=0.0).to(tl.float32)
        if FLOAT8:
            weight *= tl.load(w_scale_ptr + expert, mask=held, other=0.0).to(tl.float32)
        inner = (step % chunks) * BLOCK_K + ks
        h = tl.load(hidden_ptr + pair.to(tl.int64) * K + inner, mask=held & (inner < K), other=0.0)
        acc = _accumulate(acc, w, h.to(tl.float32) * weight, vector)
    out = tl.sum(acc, 1)
    if FLOAT8:
        out *= tl.load(hidden_scale_ptr).to(tl.float32)
    tl.store(y_ptr + token.to(tl.int64) * N + ns, out.to(y_ptr.dtype.element_ty), mask=ns < N)


def experts_up_by_pair(
    x_TD: torch.Tensor, up_EID: torch.Tensor, ids_Tk: torch.Tensor, scales: Float8Scales | None, tile: Tile
) -> torch.Tensor:
    """relu2(up x) of every (token, expert) pair, [T * k, I] in the weights' dtype, in one launch."""
    num_tokens, hidden = x_TD.shape
    num_experts, width, _ = up_EID.shape
    top_k, device = ids_Tk.shape[1], x_TD.device
    hidden_nI = torch.empty((num_tokens * top_k, width), dtype=up_EID.dtype, device=device)
    _up_kernel[(num_tokens * top_k * triton.cdiv(width, tile.out),)](
        x_TD,
        up_EID,
        ids_Tk,
        hidden_nI,
        *((None, None, None) if scales is None else (scales.x, scales.up_E, scales.hidden)),
        x_TD.stride(0),
        K=hidden,
        N=width,
        BLOCK_N=tile.out,
        BLOCK_K=tile.inner,
        num_warps=tile.warps,
        **_shared_options(num_experts, top_k, scales, device, num_tokens),
    )
    return hidden_nI


def experts_by_pair(
    x_TD: torch.Tensor,
    up_EID: torch.Tensor,
    down_EDI: torch.Tensor,
    weights_Tk: torch.Tensor,
    ids_Tk: torch.Tensor,
    scales: Float8Scales | None,
    schedule: ExpertSchedule,
) -> torch.Tensor:
    """[T, D] in x's dtype, in two launches."""
    num_tokens, hidden = x_TD.shape
    num_experts, width, _ = up_EID.shape
    hidden_nI = experts_up_by_pair(x_TD, up_EID, ids_Tk, scales, schedule.up)
    y_TD = torch.empty((num_tokens, hidden), dtype=x_TD.dtype, device=x_TD.device)
    tile = schedule.down
    _down_kernel[(num_tokens * triton.cdiv(hidden, tile.out),)](
        hidden_nI,
        down_EDI,
        weights_Tk,
        ids_Tk,
        y_TD,
        *((None, None) if scales is None else (scales.hidden, scales.down_E)),
        K=width,
        N=hidden,
        BLOCK_N=tile.out,
        BLOCK_K=tile.inner,
        num_warps=tile.warps,
        **_shared_options(num_experts, ids_Tk.shape[1], scales, x_TD.device, num_tokens),
    )
    return y_TD


def _shared_options(
    num_experts: int, top_k: int, scales: Float8Scales | None, device: torch.device, num_tokens: int
) -> dict[str, Any]:
    return {
        "NUM_EXPERTS": num_experts,
        "TOP_K": top_k,
        "FLOAT8": scales is not None,
        **launch_options(device, num_tokens),
    }
