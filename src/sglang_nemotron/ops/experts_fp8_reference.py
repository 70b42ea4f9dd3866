"""The routed experts of an MoE layer with FP8 weights and activations, one (token, expert) pair at a time.

In: hidden states, float8_e4m3fn weights with their scales, and the router's choice; out: the weighted sum.

Shapes: T tokens, D hidden, I expert width, E experts held here, k experts per token.
"""

from __future__ import annotations

import torch

from sglang_nemotron.ops.batch import Float8Scales

__all__ = ["experts_fp8"]


def _quantised(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """x times 1 / scale, clamped to what float8_e4m3fn holds and rounded to it; as fp32."""
    largest = torch.finfo(torch.float8_e4m3fn).max
    return (x.float() * (1 / scale)).clamp(-largest, largest).to(torch.float8_e4m3fn).float()


def experts_fp8(
    x_TD: torch.Tensor,
    up_EID: torch.Tensor,
    down_EDI: torch.Tensor,
    weights_Tk: torch.Tensor,
    ids_Tk: torch.Tensor,
    scales: Float8Scales,
) -> torch.Tensor:
    """`experts_reference.experts` with both operands of both products in FP8; [T, D] in x's dtype (16 bit).

    The products are summed in fp32, scaled, and rounded to x's dtype, as is relu2 before it is quantised; weighting
    and summing are fp32. An id below zero (an expert of another rank) contributes nothing, whatever its weight.
    """
    y_TD = torch.zeros(x_TD.shape, dtype=torch.float32, device=x_TD.device)
    for t, ids in enumerate(ids_Tk.tolist()):
        x_D = _quantised(x_TD[t], scales.x)
        for j, e in enumerate(ids):
            if e < 0:
                continue
            product_I = ((up_EID[e].float() @ x_D) * (scales.x * scales.up_E[e])).to(x_TD.dtype)
            hidden_I = _quantised(torch.relu(product_I) ** 2, scales.hidden)
            out_D = ((down_EDI[e].float() @ hidden_I) * (scales.hidden * scales.down_E[e])).to(x_TD.dtype)
            y_TD[t] += out_D.float() * weights_Tk[t, j].float()
    return y_TD.to(x_TD.dtype)
