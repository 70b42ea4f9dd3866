"""Whole layers of a decode step with few rows, residual and norm included: the references of their parts in a row.

In: the residual stream and a layer's weights; out: the stream moved on in place, or what attention reads.

Shapes: T decode rows, D hidden, N outputs and K inputs of a linear.
"""

from __future__ import annotations

import torch

from sglang_nemotron.ops import experts_fp8_reference, experts_reference, router_reference
from sglang_nemotron.ops.layers import Linear, MambaLayer, MoELayer, Norm
from sglang_nemotron.ops.mamba_step_reference import mamba_step
from sglang_nemotron.ops.step import StochasticRounding

__all__ = ["linear_add", "mamba_layer", "moe_layer", "norm_linear"]


def norm_linear(h_TD: torch.Tensor, norm: Norm, linear: Linear) -> torch.Tensor:
    """RMSNorm of the residual stream and a linear behind it; [T, N] in h's dtype.

    The norm is fp32 and rounded once; an FP8 linear quantises that by its static scale. Sums are fp32.
    """
    return _linear(_normed(h_TD, norm), linear)


def linear_add(h_TD: torch.Tensor, x_TK: torch.Tensor, linear: Linear) -> None:
    """h <- h + linear(x), in place: what a mixer puts back on the stream."""
    h_TD.copy_((h_TD.float() + _linear(x_TK, linear).float()).to(h_TD.dtype))


def mamba_layer(
    h_TD: torch.Tensor,
    layer: MambaLayer,
    conv_SCW: torch.Tensor,
    ssm_SHPN: torch.Tensor,
    *,
    slots_B: torch.Tensor,
    rounding: StochasticRounding | None = None,
) -> None:
    """h <- h + mixer(norm(h)), in place, one token a row; states move on as `mamba_step` says."""
    _, H, P, _ = ssm_SHPN.shape
    inner, channels = H * P, conv_SCW.shape[1]
    projected = norm_linear(h_TD, layer.norm, layer.in_proj)
    gate_BI, conv_in_BC, dt_BH = projected.split([inner, channels, H], dim=1)
    y_BI = mamba_step(
        *(conv_in_BC, gate_BI, dt_BH, conv_SCW, ssm_SHPN, layer.step),
        slots_B=slots_B,
        eps=layer.gated_norm_eps,
        dt_limit=layer.dt_limit,
        rounding=rounding,
    )
    linear_add(h_TD, y_BI, layer.out_proj)


def moe_layer(h_TD: torch.Tensor, layer: MoELayer) -> None:
    """h <- h + routed(norm(h)) + shared(norm(h)), in place."""
    x_TD, router = _normed(h_TD, layer.norm), layer.router
    weights_Tk, ids_Tk = router_reference.route(
        x_TD,
        router.weight_ED,
        router.bias_E,
        top_k=router.top_k,
        scale=router.scale,
        renormalize=router.renormalize,
    )
    given = (x_TD, layer.up_EID, layer.down_EDI, weights_Tk, ids_Tk)
    if layer.scales is None:
        routed_TD = experts_reference.experts(*given)
    else:
        routed_TD = experts_fp8_reference.experts_fp8(*given, layer.scales)
    hidden_TS = experts_reference.relu2(_linear(x_TD, layer.shared_up))
    shared_TD = _linear(hidden_TS, layer.shared_down)
    h_TD.copy_((h_TD.float() + routed_TD.float() + shared_TD.float()).to(h_TD.dtype))


def _normed(h_TD: torch.Tensor, norm: Norm) -> torch.Tensor:
    h = h_TD.float()
    scale_T1 = torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + norm.eps)
    return (h * scale_T1 * norm.weight_D.float()).to(h_TD.dtype)


def _linear(x_TK: torch.Tensor, linear: Linear) -> torch.Tensor:
    if linear.x_scale_1 is None:
        return (x_TK.float() @ linear.weight_NK.float().T).to(x_TK.dtype)
    assert linear.weight_scale is not None
    largest = torch.finfo(torch.float8_e4m3fn).max
    quantised = (x_TK.float() * (1 / linear.x_scale_1)).clamp(-largest, largest).to(torch.float8_e4m3fn)
    product_TN = quantised.float() @ linear.weight_NK.float().T
    return (product_TN * (linear.x_scale_1 * linear.weight_scale)).to(x_TK.dtype)
