"""ModelOpt FP8 and NVFP4 tensors in, fp32 weights out; formulas of the ModelOpt export format.

FP8: w = q * weight_scale (per tensor, or per output row). NVFP4: two e2m1 values a byte along the input dimension,
low nibble first; w = value * weight_scale (float8, one per 16 inputs) * weight_scale_2 (per tensor).
"""

from __future__ import annotations

import torch

# e2m1: sign, two exponent bits, one mantissa bit
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
NVFP4_BLOCK = 16


def dequantise_fp8(weight_OI: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """float8_e4m3fn [O, I] and a scale of one number or one per row -> fp32 [O, I]."""
    scale = scale.float()
    if scale.numel() not in (1, weight_OI.shape[0]):
        raise ValueError(f"weight_scale has shape {tuple(scale.shape)}; expected one number or {weight_OI.shape[0]}")
    return weight_OI.float() * (scale.reshape(()) if scale.numel() == 1 else scale.reshape(-1, 1))


def dequantise_nvfp4(packed_OJ: torch.Tensor, scale_OB: torch.Tensor, scale_2: torch.Tensor) -> torch.Tensor:
    """uint8 [O, I/2], float8 scales [O, I/16] and one fp32 number -> fp32 [O, I]."""
    rows, half = packed_OJ.shape
    if scale_OB.shape != (rows, 2 * half // NVFP4_BLOCK):
        raise ValueError(f"weight_scale has shape {tuple(scale_OB.shape)}; expected {(rows, 2 * half // NVFP4_BLOCK)}")
    table = torch.tensor([*_E2M1, *(-v for v in _E2M1)], device=packed_OJ.device)
    low, high = packed_OJ & 0x0F, packed_OJ >> 4
    values = table[torch.stack((low, high), dim=-1).reshape(rows, 2 * half).int()]
    blocks = values.view(rows, -1, NVFP4_BLOCK) * scale_OB.float().unsqueeze(-1)
    return (blocks * scale_2.float()).reshape(rows, 2 * half)


class Dequantiser:
    """Holds a quantised weight until its scales have come, in any order, then gives the fp32 weight once."""

    def __init__(self) -> None:
        self._parts: dict[str, dict[str, torch.Tensor]] = {}

    def add(self, base: str, leaf: str, tensor: torch.Tensor) -> torch.Tensor | None:
        """The finished weight if this tensor completed one; a tensor that is not quantised is returned as it is."""
        if leaf == "weight" and tensor.dtype not in (torch.float8_e4m3fn, torch.uint8):
            return tensor
        parts = self._parts.setdefault(base, {})
        parts[leaf] = tensor
        weight = parts.get("weight")
        if weight is None or "weight_scale" not in parts:
            return None
        if weight.dtype == torch.uint8:
            if "weight_scale_2" not in parts:
                return None
            whole = dequantise_nvfp4(weight, parts["weight_scale"], parts["weight_scale_2"])
        else:
            whole = dequantise_fp8(weight, parts["weight_scale"])
        del self._parts[base]
        return whole

    def incomplete(self) -> list[str]:
        """Weights whose scales never came, and scales whose weight never came."""
        return [f"{base} (has only {', '.join(sorted(parts))})" for base, parts in self._parts.items()]
