"""An MoE layer for one token, around its experts' up projection: router beside shared up, then all of down at once.

In: the residual stream and weights; out: the choice, normed hidden states and the shared expert's hidden ones; then the
stream with everything added. Routed up projections run between the two, as `_experts_pairs_triton.py` has them.

Shapes: T tokens, D hidden, E experts, k experts per token, WIDTH of an expert, S width of the shared expert.
"""

# The router's product is 1 % of a layer's bytes and all latency: the shared expert's first weights stream meanwhile.
# Which program of a token ends last chooses its experts; sums are taken in one order, so results repeat bit by bit.

# what a kernel says is Triton's language, not Python's
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from sglang_nemotron.ops._few_stream_triton import (
    accumulated,
    next_in_then_wait,
    normed_row,
    row_scale,
    scaled,
    streamed,
    weight_tile,
)
from sglang_nemotron.ops._launch_triton import float8_values, relu2_values
from sglang_nemotron.ops.router_triton import _choose

__all__ = ["down_and_add_kernel", "route_and_shared_up_kernel"]


@triton.jit
def _keep_normed(h_at, norm_D, x_at, eps, D: tl.constexpr, ROW: tl.constexpr):
    ks = tl.arange(0, ROW)
    tl.store(x_at + ks, normed_row(h_at, norm_D, row_scale(h_at, eps, D, ROW), ks, D), mask=ks < D)


@triton.jit
def _choose_when_last(
    logits_TE, bias, weights_Tk, ids_Tk, counters, t, T, scale, TILES: tl.constexpr,
    E: tl.constexpr, TOP_K: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr, RENORMALIZE: tl.constexpr,
):  # fmt: skip
    # the stores of the program's other threads come before its count
    tl.debug_barrier()
    if tl.atomic_add(counters + t, 1, sem="acq_rel") == TILES - 1:
        # its own launch is the only one that counts here; the next finds zero
        tl.store(counters + t, 0)
        e = tl.arange(0, BLOCK_E)
        # past the first-level cache, which knows nothing of other programs' stores
        logits_E = tl.load(logits_TE + t * E + e, mask=e < E, other=0.0, cache_modifier=".cg")
        rows = t + tl.arange(0, 1)
        _choose(logits_E[None, :], bias, weights_Tk, ids_Tk, rows, e, T, scale, E, TOP_K, BLOCK_K, RENORMALIZE)


@triton.jit
def route_and_shared_up_kernel(
    h, norm_D, w_ED, bias_E, up_SD, x_scale, w_scale, hidden_scale, counters,
    x_TD, logits_TE, weights_Tk, ids_Tk, hidden_TS, eps, scale, stride_h,
    T: tl.constexpr, D: tl.constexpr, ROW: tl.constexpr, E: tl.constexpr, S: tl.constexpr, TOP_K: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    FLOAT8: tl.constexpr, PER_ROW: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_TOP: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, VECTOR: tl.constexpr, ROUTER_VECTOR: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """The first programs of a token take `BLOCK_N` experts' logits each, the others as many shared hidden channels."""
    tiles: tl.constexpr = (E + BLOCK_N - 1) // BLOCK_N
    t, tile = (tl.program_id(0) % T).to(tl.int64), tl.program_id(0) // T
    h_at = h + t * stride_h
    if tile < tiles:
        es = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        logits = streamed(
            w_ED, h_at, norm_D, None, es, eps, E, D, ROW, BLOCK_N, BLOCK_K, ROUTER_VECTOR, True, False, PDL
        )
        tl.store(logits_TE + t * E + es, logits, mask=es < E)
        if tile == 0:
            _keep_normed(h_at, norm_D, x_TD + t * D, eps, D, ROW)
        _choose_when_last(
            logits_TE, bias_E, weights_Tk, ids_Tk, counters, t, T, scale, tiles,
            E, TOP_K, BLOCK_E, BLOCK_TOP, RENORMALIZE,
        )  # fmt: skip
    else:
        ns = (tile - tiles) * BLOCK_N + tl.arange(0, BLOCK_N)
        out = streamed(up_SD, h_at, norm_D, x_scale, ns, eps, S, D, ROW, BLOCK_N, BLOCK_K, VECTOR, True, FLOAT8, PDL)
        if FLOAT8:
            out = scaled(out, x_scale, w_scale, ns, S, PER_ROW)
        rounded: tl.constexpr = h.dtype.element_ty
        out = relu2_values(out.to(rounded).to(tl.float32)).to(rounded)
        if FLOAT8:
            out = float8_values(out, tl.load(hidden_scale)).to(hidden_TS.dtype.element_ty)
        tl.store(hidden_TS + t * S + ns, out, mask=ns < S)


@triton.jit
def _down_tile(
    shared_w, w, ids_at, step: tl.constexpr, ns, ks,
    D: tl.constexpr, S: tl.constexpr, WIDTH: tl.constexpr, E: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Tile number `step` of a program: the shared expert's first, then those of a token's experts in their order."""
    shared_steps: tl.constexpr = (S + BLOCK_K - 1) // BLOCK_K
    chunks: tl.constexpr = (WIDTH + BLOCK_K - 1) // BLOCK_K
    if step < shared_steps:
        tile = weight_tile(shared_w, ns, step * BLOCK_K + ks, D, S)
    else:
        expert = tl.load(ids_at + (step - shared_steps) // chunks)
        held = (expert >= 0) & (expert < E)
        at = (step - shared_steps) % chunks * BLOCK_K + ks
        tile = weight_tile(w + tl.where(held, expert, 0).to(tl.int64) * (D * WIDTH), ns, at, D, WIDTH)
    return tile


@triton.jit
def down_and_add_kernel(
    hidden_TS, shared_w, shared_x_scale, shared_w_scale, hidden_nI, w_EDI, hidden_scale, w_scale_E,
    weights_Tk, ids_Tk, h, stride_h,
    T: tl.constexpr, D: tl.constexpr, S: tl.constexpr, WIDTH: tl.constexpr, E: tl.constexpr, TOP_K: tl.constexpr,
    FLOAT8: tl.constexpr, SHARED_FLOAT8: tl.constexpr, PER_ROW: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, VECTOR: tl.constexpr, SHARED_VECTOR: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """`BLOCK_N` channels of the stream: plus the shared expert's, plus the weighted sum of a token's experts'."""
    t, first = (tl.program_id(0) % T).to(tl.int64), tl.program_id(0) // T * BLOCK_N
    ns, ks = first + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    ids_at = ids_Tk + t * TOP_K
    shared_steps: tl.constexpr = (S + BLOCK_K - 1) // BLOCK_K
    chunks: tl.constexpr = (WIDTH + BLOCK_K - 1) // BLOCK_K
    steps: tl.constexpr = shared_steps + TOP_K * chunks
    ahead: tl.constexpr = 4 if shared_steps >= 4 else shared_steps
    # the shared expert's tiles need no choice, so the first of them are on their way before it is known
    w0 = _down_tile(shared_w, w_EDI, ids_at, 0, ns, ks, D, S, WIDTH, E, BLOCK_K)
    w1 = w0
    w2 = w0
    w3 = w0
    if ahead > 1:
        w1 = _down_tile(shared_w, w_EDI, ids_at, 1, ns, ks, D, S, WIDTH, E, BLOCK_K)
    if ahead > 2:
        w2 = _down_tile(shared_w, w_EDI, ids_at, 2, ns, ks, D, S, WIDTH, E, BLOCK_K)
    if ahead > 3:
        w3 = _down_tile(shared_w, w_EDI, ids_at, 3, ns, ks, D, S, WIDTH, E, BLOCK_K)
    next_in_then_wait(PDL)
    shared = tl.zeros([BLOCK_N, BLOCK_K // SHARED_VECTOR], tl.float32)
    routed = tl.zeros([BLOCK_N, BLOCK_K // VECTOR], tl.float32)
    for step in tl.static_range(steps):
        w = w0
        w0 = w1
        w1 = w2
        w2 = w3
        if step < shared_steps:
            at = step * BLOCK_K + ks
            x = tl.load(hidden_TS + t * S + at, mask=at < S, other=0.0).to(tl.float32)
            shared = accumulated(shared, w, x, SHARED_VECTOR)
        else:
            j = (step - shared_steps) // chunks
            at = (step - shared_steps) % chunks * BLOCK_K + ks
            expert = tl.load(ids_at + j)
            held = (expert >= 0) & (expert < E)
            weight = tl.load(weights_Tk + t * TOP_K + j, mask=held, other=0.0).to(tl.float32)
            if FLOAT8:
                weight *= tl.load(w_scale_E + expert, mask=held, other=0.0).to(tl.float32)
            x = tl.load(hidden_nI + (t * TOP_K + j) * WIDTH + at, mask=held & (at < WIDTH), other=0.0).to(tl.float32)
            routed = accumulated(routed, w, x * weight, VECTOR)
        if step + ahead < steps:
            following = _down_tile(shared_w, w_EDI, ids_at, step + ahead, ns, ks, D, S, WIDTH, E, BLOCK_K)
            if ahead == 4:
                w3 = following
            elif ahead == 3:
                w2 = following
            elif ahead == 2:
                w1 = following
            else:
                w0 = following
    out = tl.sum(routed, 1)
    if FLOAT8:
        out *= tl.load(hidden_scale).to(tl.float32)
    beside = tl.sum(shared, 1)
    if SHARED_FLOAT8:
        beside = scaled(beside, shared_x_scale, shared_w_scale, ns, D, PER_ROW)
    place = h + t * stride_h + ns
    out += beside + tl.load(place, mask=ns < D, other=0.0).to(tl.float32)
    tl.store(place, out.to(h.dtype.element_ty), mask=ns < D)
