"""Sigmoid top-k routing of the MoE layers, row by row.

In: hidden states and the router's weight and selection bias; out: weights and ids of the chosen experts.

Shapes: T tokens, D hidden, E experts, k experts per token.
"""

from __future__ import annotations

import torch

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
    """Choose by sigmoid(logit) + bias, weigh by sigmoid(logit) alone; (weights [T, k] fp32, ids [T, k] int64).

    Logits are fp32. With `num_groups` > 1 only the `top_groups` groups of consecutive experts compete, a group scored
    by the sum of its two best. `renormalize` divides by the sum of the chosen (+ 1e-20); `scale` multiplies last.
    Ties fall as `torch.topk` lets them; the order of the k ids is unspecified.
    Source: `norm_topk_prob`, `routed_scaling_factor`, `n_group`, `topk_group` of the model config; transformers 5.19.
    """
    num_experts = weight_ED.shape[0]
    logits_TE = torch.nn.functional.linear(x_TD.float(), weight_ED.float())
    scores_TE = torch.sigmoid(logits_TE)
    choice_TE = scores_TE + bias_E.float()
    if num_groups > 1:
        size = num_experts // num_groups
        for t in range(choice_TE.shape[0]):
            group_scores = torch.stack(
                [choice_TE[t, g * size : (g + 1) * size].topk(2)[0].sum() for g in range(num_groups)]
            )
            kept = group_scores.topk(top_groups, sorted=False)[1].tolist()
            for g in range(num_groups):
                if g not in kept:
                    choice_TE[t, g * size : (g + 1) * size] = float("-inf")
    ids_Tk = torch.topk(choice_TE, top_k, dim=-1, sorted=False)[1]
    weights_Tk = scores_TE.gather(1, ids_Tk)
    if renormalize:
        weights_Tk = weights_Tk / (weights_Tk.sum(-1, keepdim=True) + 1e-20)
    return weights_Tk * scale, ids_Tk
