"""One decode token of a Mamba-2 mixer between its projections on CUDA: two launches that stream each state once.

In: the projected row and the states kept in slots; out: what the output projection reads. Knows neither SGLang nor the
model: shapes, strides and a small table of schedules choose how the work is cut.

Shapes: B decode rows, C conv channels, K taps, W = K - 1, H heads, P head dim, I = H P inner channels, G groups,
N state size, S state slots, g = I / G channels of a group.
"""

# One launch convolves, channel by channel, and turns dt into a step and a decay; one moves the states on. There a
# program owns some channels of one row's group and walks over their states, [block_p, N] at a time; whichever program
# of the group ends last normalises it. With one program per group nobody counts. Sums are taken in one order, whoever
# ends last: results repeat bit by bit. What was tried instead, one launch for all too, is in docs/notes-state.md.

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

from sglang_nemotron.ops._scalar_triton import random_13, rounded_at_random, silu, softplus
from sglang_nemotron.ops.step import StepWeights, StochasticRounding

__all__ = ["mamba_step"]

# of Philox; see mamba_step_reference
_ROUNDS = 7


class _Schedule(NamedTuple):
    """`splits` programs share a row's group; each holds `block_p` rows of states at once, in `warps` warps.

    `stages`: how many blocks a program has under way. `pdl`: programmatic dependent launch where the device has it, so
    that weights and states are on their way while the launch before still ends.
    """

    splits: int
    block_p: int
    warps: int
    stages: int = 1
    pdl: bool = True


_Table = dict[tuple[int, bool], tuple[tuple[int, _Schedule], ...]]
_SIXTEEN_BITS = (
    (4, _Schedule(32, 16, 4)),
    (16, _Schedule(16, 16, 1)),
    (64, _Schedule(4, 16, 4)),
    (1 << 30, _Schedule(4, 8, 1, 4)),
)
# device -> (state bytes per number, rounded at random) -> (rows up to, schedule), the first that holds. From
# benchmarks/state_gpu.py --tune; states of 16 bits without random rounding run as those with it. A device without a
# table of its own runs the H200's
_SCHEDULES: dict[str, _Table] = {
    "NVIDIA H200": {
        (4, False): ((4, _Schedule(64, 8, 1)), (16, _Schedule(16, 16, 1)), (1 << 30, _Schedule(4, 32, 4))),
        (2, False): _SIXTEEN_BITS,
        (2, True): _SIXTEEN_BITS,
    },
}
# channels of one program of the convolution
_BLOCK_C = 256
# programs are counted per (row, group); larger batches have programs enough without splitting
_NUM_COUNTERS = 1 << 15


@functools.cache
def _counters(device: torch.device) -> torch.Tensor:
    """Zeroes that each launch leaves as it found them; launches on one device must follow each other."""
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("mamba_step must run once before a graph is captured: its counters would live in the graph")
    return torch.zeros(_NUM_COUNTERS, dtype=torch.int32, device=device)


@functools.cache
def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""


@functools.cache
def _launches_dependents(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


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
    (B, C), H = conv_in_BC.shape, ssm_SHPN.shape[1]
    mixed_BC = torch.empty(B, C, dtype=conv_in_BC.dtype, device=conv_in_BC.device)
    # dt and exp(dt A) of each head
    steps_BH2 = torch.empty(B, H, 2, dtype=torch.float32, device=conv_in_BC.device)
    if B > 0:
        pdl = _step_schedule(mixed_BC, ssm_SHPN, rounding).pdl and _launches_dependents(mixed_BC.device)
        _conv_kernel[(triton.cdiv(C, _BLOCK_C), B)](
            *(conv_in_BC, dt_BH, conv_SCW, weights.conv_CK, weights.conv_bias_C, weights.A_H, weights.dt_bias_H),
            *(slots_B, mixed_BC, steps_BH2, conv_in_BC.stride(0), dt_BH.stride(0)),
            *(*conv_SCW.stride(), *weights.conv_CK.stride(), *dt_limit),
            H=H,
            K=weights.conv_CK.shape[1],
            C=C,
            HAS_BIAS=weights.conv_bias_C is not None,
            BLOCK_C=_BLOCK_C,
            BLOCK_H=triton.next_power_of_2(H),
            PDL=pdl,
            num_warps=4,
            **({"launch_pdl": True} if pdl else {}),
        )
    return _move_states_on(mixed_BC, steps_BH2, gate_BI, ssm_SHPN, weights, slots_B=slots_B, eps=eps, rounding=rounding)


def _move_states_on(
    mixed_BC: torch.Tensor,
    steps_BH2: torch.Tensor,
    gate_BI: torch.Tensor,
    ssm_SHPN: torch.Tensor,
    weights: StepWeights,
    *,
    slots_B: torch.Tensor,
    eps: float,
    rounding: StochasticRounding | None,
) -> torch.Tensor:
    """The second launch alone: from convolved channels, steps and decays (fp32 [B, H, 2]) to [B, I].

    Rows of padding may hold anything in `mixed_BC` and `steps_BH2`.
    """
    (B, C), (_, H, P, N) = mixed_BC.shape, ssm_SHPN.shape
    G = (C - H * P) // (2 * N)
    y_BI = torch.empty(B, H * P, dtype=mixed_BC.dtype, device=mixed_BC.device)
    if B == 0:
        return y_BI
    schedule = _step_schedule(mixed_BC, ssm_SHPN, rounding)
    pdl = schedule.pdl and _launches_dependents(y_BI.device)
    _step_kernel[(schedule.splits, G, B)](
        *(mixed_BC, steps_BH2, gate_BI, ssm_SHPN, weights.D_H, weights.norm_I, slots_B),
        rounding.seed_1 if rounding is not None else None,
        rounding.stream if rounding is not None else 0,
        y_BI,
        _counters(y_BI.device) if schedule.splits > 1 else None,
        *(gate_BI.stride(0), ssm_SHPN.stride(0), eps),
        H=H,
        P=P,
        N=N,
        G=G,
        SPLITS=schedule.splits,
        STAGES=schedule.stages,
        BLOCK_P=schedule.block_p,
        BLOCK_N=max(triton.next_power_of_2(N), 8),
        BLOCK_G=triton.next_power_of_2(H * P // G),
        NORM=weights.norm_I is not None,
        STOCHASTIC=rounding is not None,
        ROUNDS=_ROUNDS,
        PDL=pdl,
        num_warps=schedule.warps,
        **({"launch_pdl": True} if pdl else {}),
    )
    return y_BI


def _step_schedule(mixed_BC: torch.Tensor, ssm_SHPN: torch.Tensor, rounding: StochasticRounding | None) -> _Schedule:
    (B, C), (_, H, P, N) = mixed_BC.shape, ssm_SHPN.shape
    G = (C - H * P) // (2 * N)
    wanted = _schedule(_device_name(mixed_BC.device), B, ssm_SHPN.element_size(), rounding is not None)
    return _fit(wanted, B, G, H * P // G, P)


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


def _schedule(device_name: str, num_rows: int, state_bytes: int, stochastic: bool) -> _Schedule:
    table = _SCHEDULES.get(device_name, _SCHEDULES["NVIDIA H200"])
    return next(schedule for limit, schedule in table[state_bytes, stochastic] if num_rows <= limit)


def _fit(wanted: _Schedule, num_rows: int, num_groups: int, group_size: int, head_dim: int) -> _Schedule:
    """The schedule for these shapes: a block lies inside a head, and programs share a group evenly."""
    block_p = min(wanted.block_p, head_dim & -head_dim)
    splits = wanted.splits if num_rows * num_groups <= _NUM_COUNTERS else 1
    while (group_size // block_p) % splits:
        splits //= 2
    return wanted._replace(splits=splits, block_p=block_p)


@triton.jit
def _convolved(
    x, window_ptr, conv_w, conv_b, channel, keep, sc, sw, swc, swk, K: tl.constexpr, HAS_BIAS: tl.constexpr
):  # fmt: skip
    # the activated conv outputs of a row's inputs x, fp32, rounded as the convolution's own result is
    total = x.to(tl.float32) * tl.load(conv_w + channel * swc + (K - 1) * swk, mask=keep, other=0.0).to(tl.float32)
    for k in tl.static_range(K - 1):
        old = tl.load(window_ptr + channel * sc + k * sw, mask=keep, other=0.0).to(tl.float32)
        total += old * tl.load(conv_w + channel * swc + k * swk, mask=keep, other=0.0).to(tl.float32)
    if HAS_BIAS:
        total += tl.load(conv_b + channel, mask=keep, other=0.0).to(tl.float32)
    return silu(total).to(x.dtype).to(tl.float32)


@triton.jit
def _shift(x, window_ptr, channel, keep, sc, sw, K: tl.constexpr):
    # moves the windows on by a row's inputs x; whichever thread stores a number, all have read it
    for k in tl.static_range(K - 2):
        value = tl.load(window_ptr + channel * sc + (k + 1) * sw, mask=keep)
        tl.debug_barrier()
        tl.store(window_ptr + channel * sc + k * sw, value, mask=keep)
    tl.debug_barrier()
    if K > 1:
        tl.store(window_ptr + channel * sc + (K - 2) * sw, x.to(window_ptr.dtype.element_ty), mask=keep)


@triton.jit
def _dt_and_decay(dt_raw, dt_bias_H, A_H, h, keep, dt_min, dt_max):
    # of raw time steps that are at hand
    raw = dt_raw.to(tl.float32) + tl.load(dt_bias_H + h, mask=keep, other=0.0)
    dt = tl.minimum(tl.maximum(softplus(raw), dt_min), dt_max)
    return dt, tl.exp(dt * tl.load(A_H + h, mask=keep, other=0.0))


# rows of decode may start anywhere in a batch's slots
@triton.jit(do_not_specialize_on_alignment=["slots_B"])
def _conv_kernel(
    conv_in, dt_raw, windows, conv_w, conv_b, A_H, dt_bias_H, slots_B, mixed, steps_BH2,
    stride_conv_b, stride_dt_b, stride_window_s, stride_window_c, stride_window_w, stride_tap_c, stride_tap_k,
    dt_min, dt_max,
    H: tl.constexpr, K: tl.constexpr, C: tl.constexpr, HAS_BIAS: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_H: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    block, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    slot = tl.load(slots_B + b).to(tl.int64)
    if PDL:
        # all programs wait, those of padding too: a launch that ends early would let the next one run ahead of the one
        # before. All let the next one in only then: what it reads before its own wait was written two launches ago
        gdc_wait()
        gdc_launch_dependents()
    if slot < 0:
        return
    c = block * BLOCK_C + tl.arange(0, BLOCK_C)
    keep = c < C
    x, window_ptr = tl.load(conv_in + b * stride_conv_b + c, mask=keep, other=0.0), windows + slot * stride_window_s
    result = _convolved(
        x, window_ptr, conv_w, conv_b, c, keep,
        stride_window_c, stride_window_w, stride_tap_c, stride_tap_k, K, HAS_BIAS,
    )  # fmt: skip
    tl.store(mixed + b * C + c, result.to(mixed.dtype.element_ty), mask=keep)
    _shift(x, window_ptr, c, keep, stride_window_c, stride_window_w, K)
    if block == 0:
        h = tl.arange(0, BLOCK_H)
        raw = tl.load(dt_raw + b * stride_dt_b + h, mask=h < H, other=0.0)
        dt, decay = _dt_and_decay(raw, dt_bias_H, A_H, h, h < H, dt_min, dt_max)
        tl.store(steps_BH2 + (b * H + h) * 2, dt, mask=h < H)
        tl.store(steps_BH2 + (b * H + h) * 2 + 1, decay, mask=h < H)


@triton.jit
def _move_on(
    raw_PN, place, keep_n, x_ptr, y_ptr, dt, decay, skip, B_N, C_N, seed_1, slot, stream, c0,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, STOCHASTIC: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    # one block of states: read out, stored; x and y are those of its channels
    p = tl.arange(0, BLOCK_P)
    x_P = tl.load(x_ptr + p).to(tl.float32)
    if STOCHASTIC:
        # see rounded_at_random; C makes up for it in y
        dt *= 1.925929944387236e-34
        decay *= 1.925929944387236e-34
    h_PN = raw_PN.to(tl.float32) * decay + (dt * x_P)[:, None] * B_N[None, :]
    y_P = tl.sum(h_PN * C_N[None, :], axis=1) + skip * x_P
    tl.store(y_ptr + p, y_P.to(y_ptr.dtype.element_ty))
    if STOCHASTIC:
        random = random_13(tl.load(seed_1), slot, stream, c0, BLOCK_P, BLOCK_N, ROUNDS)
        tl.store(place, rounded_at_random(h_PN, random), mask=keep_n[None, :])
    else:
        tl.store(place, h_PN.to(place.dtype.element_ty), mask=keep_n[None, :])


@triton.jit(do_not_specialize=["stream"], do_not_specialize_on_alignment=["slots_B"])
def _step_kernel(
    mixed, steps_BH2, gate, states, D_H, norm_w, slots_B, seed_1, stream, y, counters,
    stride_gate_b, stride_state_s, eps,
    H: tl.constexpr, P: tl.constexpr, N: tl.constexpr, G: tl.constexpr,
    SPLITS: tl.constexpr, STAGES: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_G: tl.constexpr,
    NORM: tl.constexpr, STOCHASTIC: tl.constexpr, ROUNDS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    split, group, b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    g: tl.constexpr = H * P // G
    rows: tl.constexpr = g // SPLITS
    tiles: tl.constexpr = rows // BLOCK_P
    first = group * g + split * rows
    slot = tl.load(slots_B + b).to(tl.int64)
    y_row = y + b * (H * P)
    if slot < 0:
        if PDL:
            gdc_wait()
        # nobody counts in a row of padding
        for tile in range(tiles):
            tl.store(y_row + first + tile * BLOCK_P + tl.arange(0, BLOCK_P), tl.zeros([BLOCK_P], y.dtype.element_ty))
        return
    n = tl.arange(0, BLOCK_N)
    keep_n = n < N
    place = states + slot * stride_state_s + (first + tl.arange(0, BLOCK_P))[:, None] * N + n[None, :]
    if tiles == 1:
        # the launch before writes no states
        raw_PN = tl.load(place, mask=keep_n[None, :], other=0.0)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    x_row = mixed + b * (H * P + 2 * G * N)
    B_N = tl.load(x_row + H * P + group * N + n, mask=keep_n, other=0.0).to(tl.float32)
    C_N = tl.load(x_row + H * P + (G + group) * N + n, mask=keep_n, other=0.0).to(tl.float32)
    if STOCHASTIC:
        # see _move_on
        C_N *= 5192296858534827628530496329220096.0
    for tile in tl.range(0, tiles, num_stages=STAGES):
        c0 = first + tile * BLOCK_P
        if tiles > 1:
            raw_PN = tl.load(place + tile * (BLOCK_P * N), mask=keep_n[None, :], other=0.0)
        head = c0 // P
        dt = tl.load(steps_BH2 + (b * H + head) * 2)
        decay = tl.load(steps_BH2 + (b * H + head) * 2 + 1)
        _move_on(
            raw_PN, place + tile * (BLOCK_P * N), keep_n, x_row + c0, y_row + c0, dt, decay, tl.load(D_H + head),
            B_N, C_N, seed_1, slot, stream, c0, BLOCK_P, BLOCK_N, STOCHASTIC, ROUNDS,
        )  # fmt: skip
    if NORM:
        # what the program's other threads stored comes before its count
        tl.debug_barrier()
        if SPLITS > 1:
            counter = counters + b * G + group
            if tl.atomic_add(counter, 1, sem="acq_rel") < SPLITS - 1:
                return
            # its own launch is the only one that counts here; the next finds zero
            tl.store(counter, 0)
        i = tl.arange(0, BLOCK_G)
        c, keep = group * g + i, i < g
        # past the first-level cache, which knows nothing of other programs' stores
        value = tl.load(y_row + c, mask=keep, other=0.0, cache_modifier=".cg").to(tl.float32)
        value *= silu(tl.load(gate + b * stride_gate_b + c, mask=keep, other=0.0).to(tl.float32))
        normed = value * tl.rsqrt(tl.sum(value * value, axis=0) / g + eps)
        weight = tl.load(norm_w + c, mask=keep, other=0.0).to(tl.float32)
        result = normed.to(y.dtype.element_ty).to(tl.float32) * weight
        tl.debug_barrier()
        tl.store(y_row + c, result.to(y.dtype.element_ty), mask=keep)
