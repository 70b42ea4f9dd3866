"""The way into a Mamba-2 mixer for one token: norm, input projection, convolution and time step in one launch.

In: the residual stream, weights and windows; out: gate, convolved channels, steps and decays. The channel whose input
a program projects is the one whose window it moves on, so nothing goes through memory in between.

Shapes: T decode rows, D hidden, INNER inner channels, C conv channels, H heads, K taps.
"""

# what a kernel says is Triton's language, not Python's
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from sglang_nemotron.ops._few_stream_triton import scaled, streamed
from sglang_nemotron.ops._scalar_triton import silu, softplus

__all__ = ["mamba_in_kernel"]


@triton.jit
def _convolve_and_shift(
    newest, window_ptr, conv_w, conv_b, channel, keep, sc, sw, swc, swk, K: tl.constexpr, HAS_BIAS: tl.constexpr
):  # fmt: skip
    total = newest.to(tl.float32) * tl.load(conv_w + channel * swc + (K - 1) * swk, mask=keep, other=0.0).to(tl.float32)
    for k in tl.static_range(K - 1):
        old = tl.load(window_ptr + channel * sc + k * sw, mask=keep, other=0.0).to(tl.float32)
        total += old * tl.load(conv_w + channel * swc + k * swk, mask=keep, other=0.0).to(tl.float32)
    if HAS_BIAS:
        total += tl.load(conv_b + channel, mask=keep, other=0.0).to(tl.float32)
    # a number is held by several threads: whichever stores it, all have read it
    for k in tl.static_range(K - 2):
        value = tl.load(window_ptr + channel * sc + (k + 1) * sw, mask=keep)
        tl.debug_barrier()
        tl.store(window_ptr + channel * sc + k * sw, value, mask=keep)
    tl.debug_barrier()
    tl.store(window_ptr + channel * sc + (K - 2) * sw, newest.to(window_ptr.dtype.element_ty), mask=keep)
    return silu(total)


# rows of decode may start anywhere in a batch's slots
@triton.jit(do_not_specialize_on_alignment=["slots_B"])
def mamba_in_kernel(
    h, norm_D, w_ND, x_scale, w_scale, windows, conv_w, conv_b, A_H, dt_bias_H, slots_B, gate, mixed, steps_BH2,
    eps, stride_h, stride_window_s, stride_window_c, stride_window_w, stride_tap_c, stride_tap_k, dt_min, dt_max,
    T: tl.constexpr, D: tl.constexpr, ROW: tl.constexpr, INNER: tl.constexpr, C: tl.constexpr, H: tl.constexpr,
    K: tl.constexpr,
    HAS_BIAS: tl.constexpr, FLOAT8: tl.constexpr, PER_ROW: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, VECTOR: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """`BLOCK_N` outputs of one row's projection, all of them gate, or conv channels, or heads' time steps."""
    # rows of one tile follow each other, so that the second finds the weights in the cache
    t, first = (tl.program_id(0) % T).to(tl.int64), tl.program_id(0) // T * BLOCK_N
    ns = first + tl.arange(0, BLOCK_N)
    N: tl.constexpr = INNER + C + H
    out = streamed(
        w_ND, h + t * stride_h, norm_D, x_scale, ns, eps, N, D, ROW, BLOCK_N, BLOCK_K, VECTOR, True, FLOAT8, PDL
    )
    if FLOAT8:
        out = scaled(out, x_scale, w_scale, ns, N, PER_ROW)
    out = out.to(h.dtype.element_ty)
    slot = tl.load(slots_B + t).to(tl.int64)
    if first < INNER:
        tl.store(gate + t * INNER + ns, out)
    elif slot >= 0:
        if first < INNER + C:
            c = ns - INNER
            result = _convolve_and_shift(
                out, windows + slot * stride_window_s, conv_w, conv_b, c, c < C,
                stride_window_c, stride_window_w, stride_tap_c, stride_tap_k, K, HAS_BIAS,
            )  # fmt: skip
            tl.store(mixed + t * C + c, result.to(mixed.dtype.element_ty), mask=c < C)
        else:
            head = ns - INNER - C
            keep = head < H
            raw = out.to(tl.float32) + tl.load(dt_bias_H + head, mask=keep, other=0.0)
            dt = tl.minimum(tl.maximum(softplus(raw), dt_min), dt_max)
            tl.store(steps_BH2 + (t * H + head) * 2, dt, mask=keep)
            decay = tl.exp(dt * tl.load(A_H + head, mask=keep, other=0.0))
            tl.store(steps_BH2 + (t * H + head) * 2 + 1, decay, mask=keep)
