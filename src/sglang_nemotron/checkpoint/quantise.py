"""Number formats of ModelOpt's quantised checkpoints: a weight matrix comes in, packed codes and their scales go out.

Formulas only (stated on each function, with their inverses); which layers are quantised is `quant_layout`'s business.

Shape suffixes: O output features, I input features, G = I / 16 groups, P = I / 2 packed bytes.
"""

from __future__ import annotations

import torch

from sglang_nemotron.checkpoint.spec import NVFP4_GROUP

# largest magnitudes of float8_e4m3fn and of e2m1 (4 bits: sign, two of exponent, one of mantissa)
E4M3_MAX = 448.0
E2M1_MAX = 6.0
# rows coded at a time: about what a core's cache holds, twice as quick as the whole matrix at once
_ROWS = 32
# the smallest positive float8_e4m3fn
_E4M3_TINY = 2.0**-9

# rounding to {0, .5, 1, 1.5, 2, 3, 4, 6}: the midpoints that belong to the lower code, then those that belong to the
# upper one (ties go to the code with an even mantissa)
_TIES_DOWN = (0.25, 1.25, 2.5, 5.0)
_TIES_UP = (0.75, 1.75, 3.5)


def quantise_fp8(weight_OI: torch.Tensor, input_amax: float) -> dict[str, torch.Tensor]:
    """Per-tensor FP8. Inverse: `weight.float() * weight_scale`.

    `weight_scale = max|w| / 448`, `weight = e4m3(w / weight_scale)`, `input_scale = input_amax / 448`.

    Args:
        weight_OI: any float dtype.
        input_amax: the largest activation magnitude that calibration saw.

    Returns:
        weight [O, I] float8_e4m3fn; weight_scale, input_scale: float32 scalars.
    """
    weight_OI = weight_OI.float()
    scale = _positive(weight_OI.abs().amax()) / E4M3_MAX
    codes_OI = (weight_OI / scale).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
    return {"weight": codes_OI, "weight_scale": scale, "input_scale": torch.tensor(input_amax / E4M3_MAX)}


def quantise_nvfp4(weight_OI: torch.Tensor, input_amax: float) -> dict[str, torch.Tensor]:
    """NVFP4, groups of 16 along the input. Inverse: `e2m1(code) * weight_scale[o, i // 16].float() * weight_scale_2`.

    `weight_scale_2 = max|w| / (6 x 448)`, `weight_scale = e4m3(max|group| / 6 / weight_scale_2)`,
    `code = e2m1(w / (weight_scale x weight_scale_2))`, `input_scale = input_amax / (6 x 448)`. Two codes share a byte:
    the even input in the low four bits, the odd one in the high four. A code is sign << 3 | index into
    {0, .5, 1, 1.5, 2, 3, 4, 6}.

    Args:
        weight_OI: any float dtype; I must be a multiple of 16.
        input_amax: the largest activation magnitude that calibration saw.

    Returns:
        weight [O, P] uint8; weight_scale [O, G] float8_e4m3fn; weight_scale_2, input_scale: float32 scalars.
    """
    num_out, num_in = weight_OI.shape
    assert num_in % NVFP4_GROUP == 0, f"input dimension {num_in} is no multiple of {NVFP4_GROUP}"
    weight_OI = weight_OI.float()
    scale_2 = _positive(weight_OI.abs().amax()) / (E2M1_MAX * E4M3_MAX)
    packed_OP = torch.empty(num_out, num_in // 2, dtype=torch.uint8)
    scale_OG = torch.empty(num_out, num_in // NVFP4_GROUP, dtype=torch.float8_e4m3fn)
    for start in range(0, num_out, _ROWS):
        rows = slice(start, start + _ROWS)
        packed_OP[rows], scale_OG[rows] = _nvfp4_rows(weight_OI[rows], scale_2)
    return {
        "weight": packed_OP,
        "weight_scale": scale_OG,
        "weight_scale_2": scale_2,
        "input_scale": torch.tensor(input_amax / (E2M1_MAX * E4M3_MAX)),
    }


def _nvfp4_rows(weight_OI: torch.Tensor, scale_2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed codes [O, P] and group scales [O, G] of some rows, given the scale of the whole matrix."""
    groups_OGi = weight_OI.unflatten(1, (-1, NVFP4_GROUP))
    # a group of zeros still needs a scale to divide by
    scale_OG = (groups_OGi.abs().amax(-1) / E2M1_MAX / scale_2).clamp(_E4M3_TINY, E4M3_MAX).to(torch.float8_e4m3fn)
    codes_OI = e2m1_codes((groups_OGi / (scale_OG.float() * scale_2)[..., None]).flatten(1))
    return codes_OI[:, 0::2] | (codes_OI[:, 1::2] << 4), scale_OG


def e2m1_codes(x: torch.Tensor) -> torch.Tensor:
    """The 4-bit code (uint8, 0 to 15) nearest to each value; values beyond 6 in magnitude saturate, ties go to even."""
    magnitude = x.abs()
    index = torch.zeros(x.shape, dtype=torch.uint8)
    for bound in _TIES_DOWN:
        index += magnitude > bound
    for bound in _TIES_UP:
        index += magnitude >= bound
    # no negative zero
    return index | (((x < 0) & (index > 0)).to(torch.uint8) << 3)


def _positive(amax: torch.Tensor) -> torch.Tensor:
    return torch.where(amax > 0, amax, torch.ones_like(amax))
