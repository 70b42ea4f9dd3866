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
from sglang_nemotron.ops.mamba_step_triton import _convolved, _dt_and_decay, _shift

__all__ = ["mamba_in_kernel"]


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
            window_ptr = windows + slot * stride_window_s
            result = _convolved(
                out, window_ptr, conv_w, conv_b, c, c < C,
                stride_window_c, stride_window_w, stride_tap_c, stride_tap_k, K, HAS_BIAS,
            )  # fmt: skip
            _shift(out, window_ptr, c, c < C, stride_window_c, stride_window_w, K)
            tl.store(mixed + t * C + c, result.to(mixed.dtype.element_ty), mask=c < C)
        else:
            head = ns - INNER - C
            keep = head < H
            dt, decay = _dt_and_decay(out, dt_bias_H, A_H, head, keep, dt_min, dt_max)
            tl.store(steps_BH2 + (t * H + head) * 2, dt, mask=keep)
            tl.store(steps_BH2 + (t * H + head) * 2 + 1, decay, mask=keep)
