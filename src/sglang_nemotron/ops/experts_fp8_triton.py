"""The routed experts of an MoE layer on CUDA: our own kernels, with FP8 weights and activations.

In: hidden states, float8_e4m3fn weights with their scales, and the router's choice; out: the weighted sum.

Shapes: T tokens, D hidden, I expert width, E experts held here, k experts per token.
"""

from __future__ import annotations

import torch

from sglang_nemotron.ops._launch_triton import INTERPRETED, capability
from sglang_nemotron.ops.batch import Float8Scales
from sglang_nemotron.ops.experts_triton import _run

__all__ = ["experts_fp8"]


def experts_fp8(
    x_TD: torch.Tensor,
    up_EID: torch.Tensor,
    down_EDI: torch.Tensor,
    weights_Tk: torch.Tensor,
    ids_Tk: torch.Tensor,
    scales: Float8Scales,
) -> torch.Tensor:
    """Same contract as `experts_fp8_reference.experts_fp8`, for bfloat16 and float16; same inputs, same bits."""
    if x_TD.dtype not in (torch.bfloat16, torch.float16):
        raise ValueError(f"hidden states are bfloat16 or float16, not {x_TD.dtype}")
    if up_EID.dtype != torch.float8_e4m3fn or down_EDI.dtype != torch.float8_e4m3fn:
        raise ValueError(f"weights are float8_e4m3fn, not {up_EID.dtype} and {down_EDI.dtype}")
    if not INTERPRETED and x_TD.is_cuda:
        _check_card(x_TD.device)
    _check_scales(scales, up_EID.shape[0], x_TD.device)
    return _run(x_TD, up_EID, down_EDI, weights_Tk, ids_Tk, scales)


def _check_card(device: torch.device) -> None:
    major, minor = capability(device)
    if (major, minor) < (8, 9):
        raise ValueError(
            f"FP8 products need compute capability 8.9, this device has {major}.{minor}; serve 16-bit weights"
        )


def _check_scales(scales: Float8Scales, num_experts: int, device: torch.device) -> None:
    for name, scale, count in (
        ("x", scales.x, 1),
        ("up_E", scales.up_E, num_experts),
        ("hidden", scales.hidden, 1),
        ("down_E", scales.down_E, num_experts),
    ):
        if scale.numel() != count or scale.dtype != torch.float32 or scale.device != device:
            raise ValueError(
                f"scale {name} holds {count} float32 on {device}, not {scale.numel()} {scale.dtype} on {scale.device}"
            )
        if not scale.is_contiguous():
            raise ValueError(f"scale {name} is contiguous, not of strides {scale.stride()}")
