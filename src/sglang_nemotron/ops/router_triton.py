"""Sigmoid top-k routing of the MoE layers on CUDA in one or two launches: logits, scores, choice, weights.

In: hidden states and the router's weight and selection bias; out: weights and ids of the chosen experts.

Shapes: T tokens, D hidden, E experts, k experts per token.
"""

# Few tokens are too little work for one program a token: `splits` programs each multiply a slice of D, and whichever
# ends last adds the slices up, in their order, and chooses. With many tokens that program would be alone with its work
# for longer than a second launch takes, which then chooses. Sums are taken in one order, whoever ends last: results
# repeat bit by bit.

# what a kernel says is Triton's language, not Python's
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

__all__ = ["route"]


class _Schedule(NamedTuple):
    """`block_t` tokens a program, `splits` programs for them, `block_d` numbers of D at once, in `warps` warps.

    `choose_t`: tokens a program of the second launch, none for a single launch. `pdl`: programmatic dependent launch,
    so that weights are on their way while the launch before still ends.
    """

    block_t: int
    splits: int
    block_d: int
    warps: int
    choose_t: int = 0
    pdl: bool = True


# (tokens up to, schedule), the first that holds; from benchmarks/state_gpu.py --tune on an H200
_SCHEDULES: tuple[tuple[int, _Schedule], ...] = (
    (4, _Schedule(16, 42, 64, 4)),
    (16, _Schedule(16, 21, 128, 8)),
    (256, _Schedule(16, 7, 128, 8, choose_t=4)),
    (1 << 30, _Schedule(64, 7, 128, 8, choose_t=4)),
)
_NUM_COUNTERS = 1 << 12
# products of two such numbers are exact in fp32; Triton's interpreter multiplies the bits of bf16 as if it were whole
# numbers
_EXACT_16 = (torch.float16,) if triton.knobs.runtime.interpret else (torch.float16, torch.bfloat16)


@functools.cache
def _counters(device: torch.device) -> torch.Tensor:
    """Zeroes that each launch leaves as it found them; launches on one device must follow each other."""
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("route must run once before a graph is captured: its counters would live in the graph")
    return torch.zeros(_NUM_COUNTERS, dtype=torch.int32, device=device)


@functools.cache
def _launches_dependents(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def route(
    x_TD: torch.Tensor,
    weight_ED: torch.Tensor,
    bias_E: torch.Tensor,
    *,
    top_k: int,
    scale: float,
    renormalize: bool,
    num_groups: int = 1,
    top_groups: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Same contract as `router_reference.route`: (weights [T, k] fp32, ids [T, k] int64).

    Operands of one 16-bit dtype are multiplied on the matrix units, exactly, and added in fp32; others in fp32
    throughout. The k ids of a token come best first, equal ones by number; a score that is no number comes last.
    Raises ValueError for groups of experts, which it was not built for.
    """
    if num_groups > 1:
        raise ValueError(f"num_groups={num_groups}: this form chooses among all experts; use router_torch")
    if x_TD.stride(1) != 1 or weight_ED.stride(1) != 1 or bias_E.stride(0) != 1:
        raise ValueError("rows of x and of the weight, and the bias, must be contiguous")
    T, D = x_TD.shape
    E = weight_ED.shape[0]
    assert top_k <= E and weight_ED.shape[1] == D and bias_E.shape == (E,)
    weights_Tk = torch.empty(T, top_k, dtype=torch.float32, device=x_TD.device)
    ids_Tk = torch.empty(T, top_k, dtype=torch.int64, device=x_TD.device)
    if T == 0:
        return weights_Tk, ids_Tk
    schedule = next(schedule for limit, schedule in _SCHEDULES if limit >= T)
    num_blocks, splits, apart = _cut(schedule, T, D)
    BLOCK_E = max(triton.next_power_of_2(E), 16)
    partial_STE = torch.empty(splits if splits > 1 or apart else 0, T, BLOCK_E, dtype=torch.float32, device=x_TD.device)
    exact_16 = x_TD.dtype == weight_ED.dtype and x_TD.dtype in _EXACT_16
    pdl = schedule.pdl and _launches_dependents(x_TD.device)
    launch = {"launch_pdl": True} if pdl else {}
    sizes = {"E": E, "TOP_K": top_k, "RENORMALIZE": renormalize, "SPLITS": splits, "PDL": pdl}
    blocks = {"BLOCK_E": BLOCK_E, "BLOCK_K": triton.next_power_of_2(top_k)}
    _route_kernel[(splits, num_blocks)](
        *(x_TD, weight_ED, bias_E, partial_STE, weights_Tk, ids_Tk),
        _counters(x_TD.device) if splits > 1 and not apart else None,
        *(T, x_TD.stride(0), weight_ED.stride(0)),
        scale,
        **sizes,
        **blocks,
        D=D,
        EXACT_16=exact_16,
        APART=apart,
        BLOCK_T=schedule.block_t,
        BLOCK_C=min(triton.next_power_of_2(T), schedule.block_t) if splits > 1 else schedule.block_t,
        BLOCK_D=schedule.block_d if exact_16 else min(schedule.block_d, 32),
        num_warps=schedule.warps,
        **launch,
    )
    if apart:
        _choose_kernel[(triton.cdiv(T, schedule.choose_t),)](
            *(bias_E, partial_STE, weights_Tk, ids_Tk, T, scale),
            **sizes,
            **blocks,
            BLOCK_C=schedule.choose_t,
            num_warps=4,
            **launch,
        )
    return weights_Tk, ids_Tk


def _cut(schedule: _Schedule, num_tokens: int, hidden: int) -> tuple[int, int, bool]:
    """Blocks of tokens, programs that share one, and whether a second launch chooses."""
    num_blocks = triton.cdiv(num_tokens, schedule.block_t)
    splits = min(schedule.splits, triton.cdiv(hidden, schedule.block_d))
    apart = schedule.choose_t > 0
    if not apart and num_blocks > _NUM_COUNTERS:
        splits = 1
    return num_blocks, splits, apart


@triton.jit
def _logits(
    x, weight, t, e, d_from, d_to, T, stride_x, stride_w,
    E: tl.constexpr, EXACT_16: tl.constexpr, BLOCK_D: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    keep_t, keep_e = (t < T)[:, None], (e < E)[None, :]
    total_TE = tl.zeros([t.shape[0], e.shape[0]], tl.float32)
    d = tl.arange(0, BLOCK_D)
    # the weight is on its way before the launch that makes x has ended
    place_w = weight + e[None, :] * stride_w + d_from + d[:, None]
    w_DE = tl.load(place_w, mask=keep_e & (d_from + d < d_to)[:, None], other=0.0)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    for start in range(d_from, d_to, BLOCK_D):
        keep = keep_t & (start + d < d_to)[None, :]
        x_TD = tl.load(x + t[:, None] * stride_x + start + d[None, :], mask=keep, other=0.0)
        now_DE = w_DE
        place_w += BLOCK_D
        w_DE = tl.load(place_w, mask=keep_e & (start + BLOCK_D + d < d_to)[:, None], other=0.0)
        if EXACT_16:
            total_TE = tl.dot(x_TD, now_DE, total_TE)
        else:
            total_TE = tl.dot(x_TD.to(tl.float32), now_DE.to(tl.float32), total_TE, input_precision="ieee")
    return total_TE


@triton.jit
def _choose(
    logits_TE, bias, weights_Tk, ids_Tk, t, e, T, scale,
    E: tl.constexpr, TOP_K: tl.constexpr, BLOCK_K: tl.constexpr, RENORMALIZE: tl.constexpr,
):  # fmt: skip
    score_TE = 1.0 / (1.0 + tl.exp(-logits_TE))
    choice_TE = score_TE + tl.load(bias + e, mask=e < E, other=0.0).to(tl.float32)[None, :]
    # below every number, above what is taken or is no expert
    choice_TE = tl.where(choice_TE == choice_TE, choice_TE, -3.0e38)
    choice_TE = tl.where((e < E)[None, :], choice_TE, float("-inf"))
    k = tl.arange(0, BLOCK_K)
    chosen_Tk = tl.zeros([t.shape[0], BLOCK_K], tl.int32)
    weight_Tk = tl.zeros([t.shape[0], BLOCK_K], tl.float32)
    for i in tl.static_range(TOP_K):
        best_T = tl.argmax(choice_TE, axis=1, tie_break_left=True)
        is_best_TE = e[None, :] == best_T[:, None]
        weight_T = tl.sum(tl.where(is_best_TE, score_TE, 0.0), axis=1)
        choice_TE = tl.where(is_best_TE, float("-inf"), choice_TE)
        chosen_Tk = tl.where((k == i)[None, :], best_T[:, None], chosen_Tk)
        weight_Tk = tl.where((k == i)[None, :], weight_T[:, None], weight_Tk)
    if RENORMALIZE:
        weight_Tk = weight_Tk / (tl.sum(weight_Tk, axis=1) + 1e-20)[:, None]
    place = t[:, None] * TOP_K + k[None, :]
    keep = (t < T)[:, None] & (k < TOP_K)[None, :]
    tl.store(weights_Tk + place, weight_Tk * scale, mask=keep)
    tl.store(ids_Tk + place, chosen_Tk.to(tl.int64), mask=keep)


@triton.jit
def _added_up(
    partial_STE, place, keep, T, SPLITS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_E: tl.constexpr
):  # fmt: skip
    total_TE = tl.zeros([BLOCK_C, BLOCK_E], tl.float32)
    for s in tl.static_range(SPLITS):
        # past the first-level cache, which knows nothing of other programs' stores
        here = partial_STE + s * T.to(tl.int64) * BLOCK_E + place
        total_TE += tl.load(here, mask=keep, other=0.0, cache_modifier=".cg")
    return total_TE


@triton.jit(do_not_specialize=["T"])
def _choose_kernel(
    bias, partial_STE, weights_Tk, ids_Tk, T, scale,
    E: tl.constexpr, TOP_K: tl.constexpr, RENORMALIZE: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    t = (tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)).to(tl.int64)
    e = tl.arange(0, BLOCK_E)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    keep = (t < T)[:, None] & (e >= 0)[None, :]
    logits_TE = _added_up(partial_STE, t[:, None] * BLOCK_E + e[None, :], keep, T, SPLITS, BLOCK_C, BLOCK_E)
    _choose(logits_TE, bias, weights_Tk, ids_Tk, t, e, T, scale, E, TOP_K, BLOCK_K, RENORMALIZE)


# one token is a number like others
@triton.jit(do_not_specialize=["T"])
def _route_kernel(
    x,
    weight,
    bias,
    partial_STE,
    weights_Tk,
    ids_Tk,
    counters,
    T,
    stride_x,
    stride_w,
    scale,
    D: tl.constexpr,
    E: tl.constexpr,
    TOP_K: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    EXACT_16: tl.constexpr,
    APART: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PDL: tl.constexpr,
):
    split, block = tl.program_id(0), tl.program_id(1)
    t = (block * BLOCK_T + tl.arange(0, BLOCK_T)).to(tl.int64)
    e = tl.arange(0, BLOCK_E)
    # whole blocks of D, as evenly as they go
    blocks: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    d_from = blocks * split // SPLITS * BLOCK_D
    d_to = tl.minimum(blocks * (split + 1) // SPLITS * BLOCK_D, D)
    logits_TE = _logits(x, weight, t, e, d_from, d_to, T, stride_x, stride_w, E, EXACT_16, BLOCK_D, PDL)
    if SPLITS > 1 or APART:
        place = t[:, None] * BLOCK_E + e[None, :]
        keep = (t < T)[:, None] & (e >= 0)[None, :]
        tl.store(partial_STE + split * T.to(tl.int64) * BLOCK_E + place, logits_TE, mask=keep)
    if SPLITS > 1 and not APART:
        # the stores of the program's other threads come before its count
        tl.debug_barrier()
        if tl.atomic_add(counters + block, 1, sem="acq_rel") < SPLITS - 1:
            return
        tl.store(counters + block, 0)
        # the block may have room for more tokens than there are
        t = (block * BLOCK_T + tl.arange(0, BLOCK_C)).to(tl.int64)
        place = t[:, None] * BLOCK_E + e[None, :]
        keep = (t < T)[:, None] & (e >= 0)[None, :]
        logits_TE = _added_up(partial_STE, place, keep, T, SPLITS, BLOCK_C, BLOCK_E)
    if not APART:
        _choose(logits_TE, bias, weights_Tk, ids_Tk, t, e, T, scale, E, TOP_K, BLOCK_K, RENORMALIZE)
