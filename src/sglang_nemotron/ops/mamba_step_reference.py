"""One decode token of a whole Mamba-2 mixer between its two projections: the references of its three parts in a row.

In: the projected row (conv inputs, gate, raw dt) and the states kept in slots; out: what the output projection reads.

Shapes: B decode rows, C conv channels, K taps, W = K - 1, H heads, P head dim, I = H P inner channels, G groups,
N state size, S state slots.
"""

from __future__ import annotations

import torch

from sglang_nemotron.ops.conv1d_reference import conv1d_step
from sglang_nemotron.ops.gated_norm_reference import gated_norm
from sglang_nemotron.ops.ssm_step_reference import ssm_step
from sglang_nemotron.ops.step import StepWeights, StochasticRounding

__all__ = ["mamba_step"]

# Philox-4x32 (Salmon et al., SC 2011, table 2 and section 4): multipliers and the steps of the two key words
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
# the fewest rounds that pass BigCrush in that paper
_ROUNDS = 7
_WORD = 0xFFFFFFFF


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
    """Convolution, recurrence, skip and gated group norm of one token a row; [B, I] in the dtype of `conv_in_BC`.

    The parts and where they round are those of `conv1d_step`, `ssm_step` and `gated_norm`; the groups of the norm are
    the G groups of B and C, counted from the shapes. Without `weights.norm_I` the result is y itself, neither gated nor
    normalised. With `rounding` the state must be fp16: each element goes to one of its two neighbours, to the upper
    with the probability of its distance from the lower, so that the expectation is the fp32 value. A row whose slot is
    negative is padding: its result is zero and nothing is written for it. No two rows name one slot, except slot 0,
    the padding slot: what it holds then is unspecified, and so are its rows.
    """
    num_rows = conv_in_BC.shape[0]
    _, H, P, N = ssm_SHPN.shape
    G = (conv_in_BC.shape[1] - H * P) // (2 * N)
    mixed_BC = conv1d_step(conv_in_BC, weights.conv_CK, weights.conv_bias_C, conv_SCW, slots_B=slots_B)
    x_BI, B_BGN, C_BGN = mixed_BC.split([H * P, G * N, G * N], dim=1)
    # a state of random rounding is moved on in fp32 and rounded here
    state_SHPN = ssm_SHPN if rounding is None else ssm_SHPN.float()
    y_BHP = ssm_step(
        x_BI.reshape(num_rows, H, P),
        dt_BH,
        weights.A_H,
        B_BGN.reshape(num_rows, G, N),
        C_BGN.reshape(num_rows, G, N),
        weights.D_H,
        weights.dt_bias_H,
        state_SHPN,
        slots_B=slots_B,
        dt_limit=dt_limit,
    )
    if rounding is not None:
        for slot in slots_B.tolist():
            if slot >= 0:
                bits_HPN = _bits(rounding, slot, H * P, N, ssm_SHPN.device).view(H, P, N)
                ssm_SHPN[slot] = _round(state_SHPN[slot], bits_HPN)
    y_BI = y_BHP.reshape(num_rows, H * P)
    if weights.norm_I is None:
        return y_BI
    normed_BI = gated_norm(y_BI, gate_BI, weights.norm_I, num_groups=G, eps=eps)
    # the gate of a row of padding may be anything, NaN included
    return normed_BI.masked_fill((slots_B < 0)[:, None], 0.0)


def _bits(rounding: StochasticRounding, slot: int, num_rows: int, N: int, device: torch.device) -> torch.Tensor:
    """13 random bits per element of one slot, int64 [num_rows, N]: Philox with a counter of eight elements each.

    The counter is (row * n / 8 + column / 8, slot, stream, 0), n the power of two from N up; the key is the seed. Each
    of the four words serves two elements: its lowest 13 bits the one at bit 2 = 0 of the column, its highest the other;
    bits 1 and 0 of the column, the lower first, choose the word.
    """
    width = max(1 << (N - 1).bit_length(), 8) // 8
    seed = int(rounding.seed_1.item()) & 0xFFFFFFFFFFFFFFFF
    first = torch.arange(num_rows * width, dtype=torch.int64, device=device)
    words = [first, torch.full_like(first, slot), torch.full_like(first, rounding.stream), torch.zeros_like(first)]
    keys = [seed & _WORD, seed >> 32]
    for _ in range(_ROUNDS):
        high_0, low_0 = _multiply(words[0], _MULTIPLIERS[0])
        high_1, low_1 = _multiply(words[2], _MULTIPLIERS[1])
        words = [high_1 ^ words[1] ^ keys[0], low_1, high_0 ^ words[3] ^ keys[1], low_0]
        keys = [(key + step) & _WORD for key, step in zip(keys, _KEY_STEPS, strict=True)]
    eighths = [words[(column & 1) * 2 + (column >> 1 & 1)] >> (19 if column & 4 else 0) for column in range(8)]
    return (torch.stack(eighths, dim=1) & 0x1FFF).view(num_rows, width * 8)[:, :N]


def _multiply(word: torch.Tensor, factor: int) -> tuple[torch.Tensor, torch.Tensor]:
    # upper and lower 32 bits of a product of two 32-bit words, in int64 without overflow
    low = (word & 0xFFFF) * factor
    high = (word >> 16) * factor + (low >> 16)
    return (high >> 16) & _WORD, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def _round(value: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """fp32 to fp16 by 13 random bits, in exact arithmetic: floor(|value| / spacing + bits / 2^13) * spacing."""
    magnitude = value.double().abs()
    # an fp16 number has 11 bits from its leading one on, and none below 2^-24
    exponent = torch.frexp(magnitude)[1].clamp(min=-13)
    spacing = torch.ldexp(torch.ones_like(magnitude), exponent - 11)
    rounded = torch.floor(magnitude / spacing + bits / 8192) * spacing
    return torch.copysign(rounded, value.double()).to(torch.float16)
