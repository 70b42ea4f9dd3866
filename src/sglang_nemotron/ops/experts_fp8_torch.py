"""The routed experts of an MoE layer with FP8 weights and activations, one expert at a time, where no kernel serves.

In: hidden states, float8_e4m3fn weights with their scales, and the router's choice; out: the weighted sum.

Shapes: T tokens, D hidden, I expert width, E experts held here, k experts per token, m pairs of one expert.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from sglang_nemotron.ops.batch import Float8Scales

__all__ = ["experts_fp8"]

_LARGEST = torch.finfo(torch.float8_e4m3fn).max


def _quantised(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (x.float() * (1 / scale)).clamp_(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn).float()


def experts_fp8(
    x_TD: torch.Tensor,
    up_EID: torch.Tensor,
    down_EDI: torch.Tensor,
    weights_Tk: torch.Tensor,
    ids_Tk: torch.Tensor,
    scales: Float8Scales,
) -> torch.Tensor:
    """Same contract as `experts_fp8_reference.experts_fp8`; an expert's weights become fp32 for its product."""
    rows_TD = _quantised(x_TD, scales.x)
    parts_TkD = x_TD.new_zeros((*ids_Tk.shape, x_TD.shape[1]))
    for expert in ids_Tk.unique().tolist():
        if expert < 0:
            continue
        tokens_m, choices_m = (ids_Tk == expert).nonzero(as_tuple=True)
        product_mI = F.linear(rows_TD[tokens_m], up_EID[expert].float()) * (scales.x * scales.up_E[expert])
        hidden_mI = _quantised(product_mI.to(x_TD.dtype).relu_().square_(), scales.hidden)
        out_mD = F.linear(hidden_mI, down_EDI[expert].float()) * (scales.hidden * scales.down_E[expert])
        parts_TkD[tokens_m, choices_m] = out_mD.to(x_TD.dtype)
    weights_Tk = weights_Tk.float().masked_fill(ids_Tk < 0, 0.0)
    return torch.einsum("tk,tkd->td", weights_Tk, parts_TkD.float()).to(x_TD.dtype)
