"""Sigmoid top-k routing of the MoE layers in a handful of torch calls, for serving on a CPU.

In: hidden states and the router's weight and selection bias; out: weights and ids of the chosen experts.

Shapes: T tokens, D hidden, E experts, k experts per token, Q groups of experts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["route"]


def route(
    x_TD: torch.Tensor,
    weight_ED: torch.Tensor,
    bias_E: torch.Tensor,
    *,
    top_k: int,
    scale: float,
    renormalize: bool,
    num_groups: int = 1,
    top_groups: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Same contract as `router_reference.route`: (weights [T, k] fp32, ids [T, k] int64)."""
    scores_TE = F.linear(x_TD.float(), weight_ED.float()).sigmoid_()
    choice_TE = scores_TE + bias_E
    if num_groups > 1:
        choice_TQe = choice_TE.unflatten(1, (num_groups, -1))
        groups_Tq = choice_TQe.topk(2, dim=-1)[0].sum(-1).topk(top_groups, dim=-1, sorted=False)[1]
        barred_TQ = torch.ones(choice_TQe.shape[:2], dtype=torch.bool, device=x_TD.device).scatter_(1, groups_Tq, False)
        choice_TQe.masked_fill_(barred_TQ.unsqueeze(2), float("-inf"))
    ids_Tk = choice_TE.topk(top_k, dim=-1, sorted=False)[1]
    weights_Tk = scores_TE.gather(1, ids_Tk)
    if renormalize:
        weights_Tk.div_(weights_Tk.sum(-1, keepdim=True).add_(1e-20))
    return weights_Tk.mul_(scale), ids_Tk
