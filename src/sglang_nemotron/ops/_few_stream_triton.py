"""How a kernel for one token streams rows of a weight: the first tiles before it waits, the norm on the way.

Device functions alone; `few_rows_triton.py` and the kernels beside it call them. Knows no layer.

Shapes: N rows of the weight, K numbers of each.
"""

# what a kernel says is Triton's language, not Python's
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sglang_nemotron.ops._launch_triton import float8_operand

__all__ = ["accumulated", "next_in_then_wait", "normed_row", "row_scale", "scaled", "streamed", "weight_tile"]


@triton.jit
def next_in_then_wait(PDL: tl.constexpr):
    """Let the next kernel's programs in, then wait for the kernels before this one.

    What the next kernel touches before its own wait must be older than both: weights, and states of earlier steps.
    """
    if PDL:
        gdc_launch_dependents()
        gdc_wait()


@triton.jit
def weight_tile(w_ptr, ns, ks, N: tl.constexpr, K: tl.constexpr):
    """Rows ns and columns ks of a weight [N, K], zeros outside; read once, so first to leave the cache."""
    at = w_ptr + ns.to(tl.int64)[:, None] * K + ks[None, :]
    return tl.load(at, mask=(ns < N)[:, None] & (ks < K)[None, :], other=0.0, eviction_policy="evict_first")


@triton.jit
def accumulated(acc, w, x, VECTOR: tl.constexpr):
    """acc + w x, each thread adding up what it loaded at once: `VECTOR` neighbours become one number."""
    products = w.to(tl.float32) * x[None, :]
    return acc + tl.sum(tl.reshape(products, [acc.shape[0], acc.shape[1], VECTOR]), 2)


@triton.jit
def row_scale(x_at, eps, K: tl.constexpr, ROW: tl.constexpr):
    """1 / sqrt(mean square + eps) of the K numbers from x_at on; `ROW` is the power of two from K up."""
    ks = tl.arange(0, ROW)
    x = tl.load(x_at + ks, mask=ks < K, other=0.0).to(tl.float32)
    return tl.rsqrt(tl.sum(x * x, 0) / K + eps)


@triton.jit
def normed_row(x_at, norm_ptr, scale, ks, K: tl.constexpr):
    """Numbers ks of a row, times its `row_scale` and the norm's weight, rounded to the row's type."""
    x = tl.load(x_at + ks, mask=ks < K, other=0.0)
    weight = tl.load(norm_ptr + ks, mask=ks < K, other=0.0).to(tl.float32)
    return (x.to(tl.float32) * scale * weight).to(x.dtype)


@triton.jit
def _operand(
    x_at, norm_ptr, x_scale_ptr, scale, ks, float8, K: tl.constexpr, NORM: tl.constexpr, FLOAT8: tl.constexpr
):  # fmt: skip
    x = normed_row(x_at, norm_ptr, scale, ks, K) if NORM else tl.load(x_at + ks, mask=ks < K, other=0.0)
    if FLOAT8:
        x = float8_operand(x, tl.load(x_scale_ptr), float8, ks < K)
    return x.to(tl.float32)


@triton.jit
def streamed(
    w_ptr, x_at, norm_ptr, x_scale_ptr, ns, eps,
    N: tl.constexpr, K: tl.constexpr, ROW: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, VECTOR: tl.constexpr,
    NORM: tl.constexpr, FLOAT8: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Rows ns of the weight times one row x, or its norm; fp32 [BLOCK_N], FP8 scales not yet in. Waits once."""
    steps: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    ks = tl.arange(0, BLOCK_K)
    # four tiles are on their way while one is multiplied; unrolled, the names cost nothing
    w0 = weight_tile(w_ptr, ns, ks, N, K)
    w1 = weight_tile(w_ptr, ns, BLOCK_K + ks, N, K)
    w2 = weight_tile(w_ptr, ns, 2 * BLOCK_K + ks, N, K)
    w3 = weight_tile(w_ptr, ns, 3 * BLOCK_K + ks, N, K)
    next_in_then_wait(PDL)
    scale = 1.0
    if NORM:
        scale = row_scale(x_at, eps, K, ROW)
    acc = tl.zeros([BLOCK_N, BLOCK_K // VECTOR], tl.float32)
    for step in tl.static_range(steps):
        w = w0
        w0 = w1
        w1 = w2
        w2 = w3
        if step + 4 < steps:
            w3 = weight_tile(w_ptr, ns, (step + 4) * BLOCK_K + ks, N, K)
        x = _operand(x_at, norm_ptr, x_scale_ptr, scale, step * BLOCK_K + ks, w_ptr.dtype.element_ty, K, NORM, FLOAT8)
        acc = accumulated(acc, w, x, VECTOR)
    return tl.sum(acc, 1)


@triton.jit
def scaled(out, x_scale_ptr, w_scale_ptr, ns, N: tl.constexpr, PER_ROW: tl.constexpr):
    """A product of FP8 numbers times the scales of both sides; the weight's is one number, or one a row."""
    if PER_ROW:
        w_scale = tl.load(w_scale_ptr + ns, mask=ns < N, other=0.0).to(tl.float32)
    else:
        w_scale = tl.load(w_scale_ptr).to(tl.float32)
    return out * (tl.load(x_scale_ptr).to(tl.float32) * w_scale)
