"""The routed experts of an MoE layer, one (token, expert) pair at a time.

In: hidden states, stacked expert weights and the router's choice; out: the weighted sum of the chosen experts.

Shapes: T tokens, D hidden, I expert width, E experts held here, k experts per token.
"""

from __future__ import annotations

import torch

__all__ = ["experts", "relu2"]


def relu2(x: torch.Tensor) -> torch.Tensor:
    """max(x, 0) squared, in x's dtype and shape (`mlp_hidden_act` of the model config)."""
    positive = torch.relu(x)
    return positive * positive


def experts(
    x_TD: torch.Tensor,
    up_EID: torch.Tensor,
    down_EDI: torch.Tensor,
    weights_Tk: torch.Tensor,
    ids_Tk: torch.Tensor,
) -> torch.Tensor:
    """y[t] = sum_j weights[t, j] * down[e] relu2(up[e] x[t]) with e = ids[t, j]; [T, D] in x's dtype.

    The products and relu2 are rounded to x's dtype, as transformers 5.19 does; weighting and summing are fp32. An id
    below zero (an expert of another rank) contributes nothing, whatever its weight.
    """
    y_TD = torch.zeros(x_TD.shape, dtype=torch.float32, device=x_TD.device)
    for t, ids in enumerate(ids_Tk.tolist()):
        for j, e in enumerate(ids):
            if e < 0:
                continue
            hidden_I = relu2((up_EID[e].float() @ x_TD[t].float()).to(x_TD.dtype))
            out_D = (down_EDI[e].float() @ hidden_I.float()).to(x_TD.dtype)
            y_TD[t] += out_D.float() * weights_Tk[t, j].float()
    return y_TD.to(x_TD.dtype)
