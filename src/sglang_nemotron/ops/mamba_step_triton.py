"""One decode token of a Mamba-2 mixer between its projections on CUDA: one launch that streams each state once.

In: the projected row and the states kept in slots; out: what the output projection reads. Knows neither SGLang nor the
model: shapes, strides and a small table of schedules choose how the work is cut.

Shapes: B decode rows, C conv channels, K taps, W = K - 1, H heads, P head dim, I = H P inner channels, G groups,
N state size, S state slots, g = I / G channels of a group.
"""

# A program owns some channels of one row's group and walks over their states, [block_p, N] at a time. It convolves its
# own channels and, again in each program of the group, the group's B and C. Whichever program of the group ends last
# does what needs the whole group: it shifts the conv windows, which until then all of them read, and normalises.
# With one program per group nobody counts. Sums are taken in one order, whoever ends last: results repeat bit by bit.

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sglang_nemotron.ops.cargo import StepWeights, StochasticRounding

__all__ = ["mamba_step"]

# of Philox; see mamba_step_reference
_ROUNDS = 7


class _Schedule(NamedTuple):
    """`splits` programs share a row's group; each holds `block_p` rows of states at once, in `warps` warps.

    `pdl`: programmatic dependent launch, so that states are on their way while the launch before still ends.
    """

    splits: int
    block_p: int
    warps: int
    pdl: bool = False


# (state bytes per number, rounded at random) -> (rows up to, schedule), the first that holds; written from
# benchmarks/state_gpu.py --tune, taken on an H200
_SCHEDULES: dict[tuple[int, bool], tuple[tuple[int, _Schedule], ...]] = {
    (4, False): ((4, _Schedule(16, 16, 4)), (1 << 30, _Schedule(8, 32, 4))),
    (2, False): ((4, _Schedule(16, 16, 4)), (1 << 30, _Schedule(8, 32, 4))),
    (2, True): ((4, _Schedule(16, 16, 4)), (1 << 30, _Schedule(8, 32, 4))),
}
# programs are counted per (row, group); larger batches have programs enough without splitting
_NUM_COUNTERS = 1 << 15


@functools.cache
def _counters(device: torch.device) -> torch.Tensor:
    """Zeroes that each launch leaves as it found them; launches on one device must follow each other."""
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("mamba_step must run once before a graph is captured: its counters would live in the graph")
    return torch.zeros(_NUM_COUNTERS, dtype=torch.int32, device=device)


def mamba_step(
    conv_in_BC: torch.Tensor,
    gate_BI: torch.Tensor,
    dt_BH: torch.Tensor,
    conv_SCW: torch.Tensor,
    ssm_SHPN: torch.Tensor,
    weights: StepWeights,
    *,
    slots_B: torch.Tensor,
    eps: float,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    rounding: StochasticRounding | None = None,
) -> torch.Tensor:
    """Same contract as `mamba_step_reference.mamba_step`; slots may lie apart, but each is contiguous inside.

    Raises ValueError for layouts and dtypes that it was not built for.
    """
    _check(conv_in_BC, gate_BI, dt_BH, ssm_SHPN, weights, slots_B, rounding)
    B, C = conv_in_BC.shape
    _, H, P, N = ssm_SHPN.shape
    G = (C - H * P) // (2 * N)
    y_BI = torch.empty(B, H * P, dtype=conv_in_BC.dtype, device=conv_in_BC.device)
    if B == 0:
        return y_BI
    schedule = _fit(_schedule(B, ssm_SHPN.element_size(), rounding is not None), B, G, H * P // G, P)
    normed = weights.norm_I is not None
    # gated values wait here for the norm of their group, and until then the convolved ones in the result
    gated_BI = torch.empty(B, H * P, dtype=torch.float32, device=conv_in_BC.device) if normed else y_BI
    mixed_BI = y_BI if normed else torch.empty_like(y_BI)
    _mamba_step_kernel[(schedule.splits, G, B)](
        conv_in_BC,
        gate_BI,
        dt_BH,
        conv_SCW,
        ssm_SHPN,
        weights.conv_CK,
        weights.conv_bias_C,
        weights.A_H,
        weights.D_H,
        weights.dt_bias_H,
        weights.norm_I,
        slots_B,
        rounding.seed_1 if rounding is not None else None,
        rounding.stream if rounding is not None else 0,
        mixed_BI,
        gated_BI,
        y_BI,
        _counters(conv_in_BC.device) if schedule.splits > 1 else None,
        *(conv_in_BC.stride(0), gate_BI.stride(0), dt_BH.stride(0)),
        *conv_SCW.stride(),
        ssm_SHPN.stride(0),
        *weights.conv_CK.stride(),
        eps,
        *dt_limit,
        H=H,
        P=P,
        N=N,
        G=G,
        K=weights.conv_CK.shape[1],
        SPLITS=schedule.splits,
        BLOCK_P=schedule.block_p,
        BLOCK_R=triton.next_power_of_2(H * P // G // schedule.splits),
        BLOCK_N=max(triton.next_power_of_2(N), 8),
        BLOCK_G=triton.next_power_of_2(H * P // G),
        HAS_BIAS=weights.conv_bias_C is not None,
        NORM=normed,
        STOCHASTIC=rounding is not None,
        ROUNDS=_ROUNDS,
        PDL=schedule.pdl,
        num_warps=schedule.warps,
        **({"launch_pdl": True} if schedule.pdl else {}),
    )
    return y_BI


def _check(
    conv_in_BC: torch.Tensor,
    gate_BI: torch.Tensor,
    dt_BH: torch.Tensor,
    ssm_SHPN: torch.Tensor,
    weights: StepWeights,
    slots_B: torch.Tensor,
    rounding: StochasticRounding | None,
) -> None:
    B, (_, H, P, N) = conv_in_BC.shape[0], ssm_SHPN.shape
    groups = conv_in_BC.shape[1] - H * P
    assert groups > 0 and groups % (2 * N) == 0 and H % (groups // (2 * N)) == 0, (conv_in_BC.shape, ssm_SHPN.shape)
    assert gate_BI.shape == (B, H * P) and dt_BH.shape == (B, H) and slots_B.shape == (B,)
    if rounding is not None and ssm_SHPN.dtype != torch.float16:
        raise ValueError(f"states of {ssm_SHPN.dtype} are not rounded at random; only torch.float16 is")
    if ssm_SHPN.stride()[1:] != (P * N, N, 1):
        raise ValueError(f"a slot's states must be contiguous; their strides are {ssm_SHPN.stride()}")
    vectors = (weights.conv_bias_C, weights.A_H, weights.D_H, weights.dt_bias_H, weights.norm_I, slots_B)
    if any(vector is not None and vector.stride(0) != 1 for vector in vectors) or any(
        matrix.stride(1) != 1 for matrix in (conv_in_BC, gate_BI, dt_BH)
    ):
        raise ValueError("rows of activations, vectors of weights and slots must be contiguous")
    if any(vector.dtype != torch.float32 for vector in (weights.A_H, weights.D_H, weights.dt_bias_H)):
        raise ValueError("A, D and the bias of dt must be float32")


def _schedule(num_rows: int, state_bytes: int, stochastic: bool) -> _Schedule:
    return next(schedule for limit, schedule in _SCHEDULES[state_bytes, stochastic] if num_rows <= limit)


def _fit(wanted: _Schedule, num_rows: int, num_groups: int, group_size: int, head_dim: int) -> _Schedule:
    """The schedule for these shapes: a block lies inside a head, and programs share a group evenly."""
    block_p = min(wanted.block_p, head_dim & -head_dim)
    splits = wanted.splits if num_rows * num_groups <= _NUM_COUNTERS else 1
    while (group_size // block_p) % splits:
        splits //= 2
    return wanted._replace(splits=splits, block_p=block_p)


@triton.jit
def _softplus(x):
    # log(1 + e) as 2 atanh(e / (2 + e)): a logarithm of a number near 1 has lost the digits that make a small dt
    e = tl.exp(-tl.abs(x))
    s = e / (2.0 + e)
    q = s * s
    series = 1.0 / 15.0 + q * (1.0 / 17.0)
    series = 1.0 / 13.0 + q * series
    series = 1.0 / 11.0 + q * series
    series = 1.0 / 9.0 + q * series
    series = 1.0 / 7.0 + q * series
    series = 1.0 / 5.0 + q * series
    series = 1.0 / 3.0 + q * series
    return tl.maximum(x, 0.0) + 2.0 * s * (1.0 + q * series)


@triton.jit
def _silu(x):
    return x / (1.0 + tl.exp(-x))


@triton.jit
def _convolved(
    row_ptr, window_ptr, conv_w, conv_b, channel, keep, sc, sw, swc, swk, K: tl.constexpr, HAS_BIAS: tl.constexpr
):
    # the row's activated conv outputs for these channels, rounded as the convolution's own result is
    x = tl.load(row_ptr + channel, mask=keep, other=0.0)
    total = x.to(tl.float32) * tl.load(conv_w + channel * swc + (K - 1) * swk, mask=keep, other=0.0).to(tl.float32)
    for k in tl.static_range(K - 1):
        old = tl.load(window_ptr + channel * sc + k * sw, mask=keep, other=0.0).to(tl.float32)
        total += old * tl.load(conv_w + channel * swc + k * swk, mask=keep, other=0.0).to(tl.float32)
    if HAS_BIAS:
        total += tl.load(conv_b + channel, mask=keep, other=0.0).to(tl.float32)
    return _silu(total).to(x.dtype).to(tl.float32)


@triton.jit
def _shift(row_ptr, window_ptr, channel, keep, sc, sw, K: tl.constexpr):
    # moves the windows on by the row's inputs; two at a time would read what the other wrote
    newest = tl.load(row_ptr + channel, mask=keep, other=0.0)
    for k in tl.static_range(K - 2):
        value = tl.load(window_ptr + channel * sc + (k + 1) * sw, mask=keep)
        tl.debug_barrier()
        tl.store(window_ptr + channel * sc + k * sw, value, mask=keep)
    tl.debug_barrier()
    if K > 1:
        tl.store(window_ptr + channel * sc + (K - 2) * sw, newest.to(window_ptr.dtype.element_ty), mask=keep)


@triton.jit
def _random_13(seed, slot, stream, first_row, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, ROUNDS: tl.constexpr):
    # [BLOCK_P, BLOCK_N] words of 13 random bits: one Philox call serves eight neighbours
    row = first_row + tl.arange(0, BLOCK_P)
    count = row[:, None] * (BLOCK_N // 8) + tl.arange(0, BLOCK_N // 8)[None, :]
    zero = count * 0
    w0, w1, w2, w3 = tl.philox(seed, count, zero + slot.to(tl.int32), zero + stream, zero, ROUNDS)
    even = tl.join(tl.join(w0 & 0x1FFF, w0 >> 19), tl.join(w1 & 0x1FFF, w1 >> 19))
    odd = tl.join(tl.join(w2 & 0x1FFF, w2 >> 19), tl.join(w3 & 0x1FFF, w3 >> 19))
    return tl.reshape(tl.join(even, odd), [BLOCK_P, BLOCK_N])


@triton.jit
def _rounded_at_random(value, random):
    # under 2^-14 fp16 has the spacing of the binade above it: there the value is moved into that binade and back
    sign = value.to(tl.uint32, bitcast=True) & 0x80000000
    offset = tl.where(tl.abs(value) < 6.103515625e-05, sign | 0x38800000, 0).to(tl.float32, bitcast=True)
    bits = (value + offset).to(tl.uint32, bitcast=True) + random
    return ((bits & 0xFFFFE000).to(tl.float32, bitcast=True) - offset).to(tl.float16)


# rows of decode may start anywhere in a batch's slots
@triton.jit(do_not_specialize=["stream"], do_not_specialize_on_alignment=["slots_B"])
def _mamba_step_kernel(
    conv_in,
    gate,
    dt_raw,
    windows,
    states,
    conv_w,
    conv_b,
    A_H,
    D_H,
    dt_bias_H,
    norm_w,
    slots_B,
    seed_1,
    stream,
    mixed,
    gated,
    y,
    counters,
    stride_conv_b,
    stride_gate_b,
    stride_dt_b,
    stride_window_s,
    stride_window_c,
    stride_window_w,
    stride_state_s,
    stride_tap_c,
    stride_tap_k,
    eps,
    dt_min,
    dt_max,
    H: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    G: tl.constexpr,
    K: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_G: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    NORM: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    ROUNDS: tl.constexpr,
    PDL: tl.constexpr,
):
    split, group, b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    g: tl.constexpr = H * P // G
    rows: tl.constexpr = g // SPLITS
    first = group * g + split * rows
    slot = tl.load(slots_B + b).to(tl.int64)
    if slot < 0:
        if PDL:
            # a launch that ends without waiting would let the next one run ahead of the one before
            gdc_wait()
        # nobody counts in a row of padding
        for tile in range(rows // BLOCK_P):
            c = first + tile * BLOCK_P + tl.arange(0, BLOCK_P)
            tl.store(y + b * (H * P) + c, tl.zeros([BLOCK_P], y.dtype.element_ty))
        return
    n = tl.arange(0, BLOCK_N)
    keep_n = n < N
    # states are on their way before anything else is read, each block while the one before is worked on
    place = states + slot * stride_state_s + (first + tl.arange(0, BLOCK_P))[:, None] * N + n[None, :]
    ahead_PN = tl.load(place, mask=keep_n[None, :], other=0.0)
    if PDL:
        # before the wait one may read what was written two launches ago: no launch of a step writes states of another's
        gdc_wait()
        gdc_launch_dependents()
    row_ptr = conv_in + b * stride_conv_b
    window_ptr = windows + slot * stride_window_s
    taps = (stride_window_c, stride_window_w, stride_tap_c, stride_tap_k)
    B_channel = H * P + group * N + n
    B_N = _convolved(row_ptr, window_ptr, conv_w, conv_b, B_channel, keep_n, *taps, K=K, HAS_BIAS=HAS_BIAS)
    C_N = _convolved(row_ptr, window_ptr, conv_w, conv_b, B_channel + G * N, keep_n, *taps, K=K, HAS_BIAS=HAS_BIAS)
    # each thread convolves some of the channels; all threads of a channel's state read the outcome
    r = tl.arange(0, BLOCK_R)
    x_R = _convolved(row_ptr, window_ptr, conv_w, conv_b, first + r, r < rows, *taps, K=K, HAS_BIAS=HAS_BIAS)
    tl.store(mixed + b * (H * P) + first + r, x_R.to(mixed.dtype.element_ty), mask=r < rows)
    tl.debug_barrier()
    for tile in range(rows // BLOCK_P):
        c0 = first + tile * BLOCK_P
        c = c0 + tl.arange(0, BLOCK_P)
        h_PN = ahead_PN.to(tl.float32)
        if rows > BLOCK_P:
            more = keep_n[None, :] & (tile + 1 < rows // BLOCK_P)
            ahead_PN = tl.load(place + BLOCK_P * N, mask=more, other=0.0)
        x_P = tl.load(mixed + b * (H * P) + c).to(tl.float32)
        head = c0 // P
        dt = _softplus(tl.load(dt_raw + b * stride_dt_b + head).to(tl.float32) + tl.load(dt_bias_H + head))
        dt = tl.minimum(tl.maximum(dt, dt_min), dt_max)
        h_PN = h_PN * tl.exp(dt * tl.load(A_H + head)) + (dt * x_P)[:, None] * B_N[None, :]
        y_P = (tl.sum(h_PN * C_N[None, :], axis=1) + tl.load(D_H + head) * x_P).to(y.dtype.element_ty)
        if STOCHASTIC:
            random = _random_13(tl.load(seed_1), slot, stream, c0, BLOCK_P, BLOCK_N, ROUNDS)
            tl.store(place, _rounded_at_random(h_PN, random), mask=keep_n[None, :])
        else:
            tl.store(place, h_PN.to(states.dtype.element_ty), mask=keep_n[None, :])
        place += BLOCK_P * N
        if NORM:
            z_P = tl.load(gate + b * stride_gate_b + c).to(tl.float32)
            tl.store(gated + b * (H * P) + c, y_P.to(tl.float32) * _silu(z_P))
        else:
            tl.store(y + b * (H * P) + c, y_P)
    # what the program's other threads stored and read comes before what follows
    tl.debug_barrier()
    if SPLITS > 1:
        counter = counters + b * G + group
        if tl.atomic_add(counter, 1, sem="acq_rel") < SPLITS - 1:
            return
        # its own launch is the only one that counts here; the next finds zero
        tl.store(counter, 0)
    i = tl.arange(0, BLOCK_G)
    keep_i = i < g
    _shift(row_ptr, window_ptr, group * g + i, keep_i, stride_window_c, stride_window_w, K=K)
    _shift(row_ptr, window_ptr, B_channel, keep_n, stride_window_c, stride_window_w, K=K)
    _shift(row_ptr, window_ptr, B_channel + G * N, keep_n, stride_window_c, stride_window_w, K=K)
    if NORM:
        # past the first-level cache, which knows nothing of other programs' stores
        value = tl.load(gated + b * (H * P) + group * g + i, mask=keep_i, other=0.0, cache_modifier=".cg")
        normed = value * tl.rsqrt(tl.sum(value * value, axis=0) / g + eps)
        weight = tl.load(norm_w + group * g + i, mask=keep_i, other=0.0).to(tl.float32)
        result = normed.to(y.dtype.element_ty).to(tl.float32) * weight
        tl.store(y + b * (H * P) + group * g + i, result.to(y.dtype.element_ty), mask=keep_i)
