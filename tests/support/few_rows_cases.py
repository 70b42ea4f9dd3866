"""Random weights of whole layers for a decode step with few rows, where our Triton kernels run."""

from __future__ import annotations

import torch

from sglang_nemotron.ops import Float8Scales, Linear, MambaLayer, MoELayer, Norm, Router, StepWeights
from support.triton_cases import DEVICE

FLOAT8 = torch.float8_e4m3fn


def norm(hidden: int, dtype: torch.dtype) -> Norm:
    return Norm((torch.rand(hidden) + 0.5).to(DEVICE, dtype), 1e-5)


def linear(num_out: int, num_in: int, dtype: torch.dtype, *, per_row: bool = False) -> Linear:
    """Products of unit normal inputs are of unit size; FP8 weights come with scales, of whole rows or of all."""
    weight = torch.randn(num_out, num_in) / num_in**0.5
    if dtype != FLOAT8:
        return Linear(weight.to(DEVICE, dtype))
    scale = (torch.rand(num_out if per_row else 1) + 0.5) / 100
    quantised = (weight / (scale[:, None] if per_row else scale)).clamp(-448, 448).to(DEVICE, FLOAT8)
    return Linear(quantised, torch.tensor([0.02], device=DEVICE), scale.to(DEVICE))


def mamba(
    hidden: int, dtype: torch.dtype, weight_dtype: torch.dtype, *, heads: int = 8, head_dim: int = 4, groups: int = 2,
    state: int = 16, width: int = 4, bias: bool = True, per_row: bool = False,
) -> MambaLayer:  # fmt: skip
    inner = heads * head_dim
    channels = inner + 2 * groups * state
    step = StepWeights(
        conv_CK=(torch.randn(channels, width) * 0.5).to(DEVICE, dtype),
        conv_bias_C=torch.randn(channels).to(DEVICE, dtype) if bias else None,
        A_H=-torch.exp(torch.rand(heads) * 4 - 2).to(DEVICE),
        D_H=torch.randn(heads).to(DEVICE),
        dt_bias_H=torch.randn(heads).to(DEVICE),
        norm_I=(torch.rand(inner) + 0.5).to(DEVICE, dtype),
    )
    return MambaLayer(
        norm(hidden, dtype),
        linear(inner + channels + heads, hidden, weight_dtype, per_row=per_row),
        step,
        linear(hidden, inner, weight_dtype, per_row=per_row),
        gated_norm_eps=1e-5,
    )


def states(
    layer: MambaLayer, num_slots: int, dtype: torch.dtype, *, state: int = 16
) -> tuple[torch.Tensor, torch.Tensor]:
    """(conv_SCW, ssm_SHPN) as the pool lays them out: windows lie channel by channel of a tap."""
    channels, width = layer.step.conv_CK.shape
    heads, inner = layer.step.A_H.shape[0], layer.out_proj.weight_NK.shape[1]
    conv_SWC = torch.randn(num_slots, width - 1, channels).to(DEVICE, dtype)
    return conv_SWC.transpose(1, 2), torch.randn(num_slots, heads, inner // heads, state).to(DEVICE)


def moe(
    hidden: int, dtype: torch.dtype, weight_dtype: torch.dtype, *, experts: int = 8, top_k: int = 3, width: int = 12,
    shared: int = 24, per_row: bool = False, shared_dtype: torch.dtype | None = None,
) -> MoELayer:  # fmt: skip
    up_EID, down_EDI = torch.randn(experts, width, hidden) / hidden**0.5, torch.randn(experts, hidden, width) / 2
    scales = None
    if weight_dtype == FLOAT8:
        per_expert = (torch.rand(2, experts) + 0.5).to(DEVICE) / 100
        one = torch.tensor(0.02, device=DEVICE)
        scales = Float8Scales(x=one, up_E=per_expert[0], hidden=2 * one, down_E=per_expert[1])
        up_EID, down_EDI = (w.mul(80).clamp(-448, 448) for w in (up_EID, down_EDI))
    shared_dtype = shared_dtype or weight_dtype
    return MoELayer(
        norm(hidden, dtype),
        Router((torch.randn(experts, hidden) / hidden**0.5).to(DEVICE, dtype),
               (torch.rand(experts) / 4).to(DEVICE), top_k, 2.5, True),
        up_EID.to(DEVICE, weight_dtype),
        down_EDI.to(DEVICE, weight_dtype),
        scales,
        linear(shared, hidden, shared_dtype, per_row=per_row),
        linear(hidden, shared, shared_dtype, per_row=per_row),
    )  # fmt: skip
