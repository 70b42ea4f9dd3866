"""The routed experts of an MoE layer in a handful of torch calls, for serving on a CPU.

In: hidden states, stacked expert weights and the router's choice; out: the weighted sum of the chosen experts.

Shapes: T tokens, D hidden, I expert width, E experts held here, k experts per token, n = T * k pairs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["experts", "relu2"]

# weights (numbers) that may be copied together for the pairs of a small batch; a copy costs about what reading costs,
# a loop over experts costs some twenty calls
_GATHER_NUMBERS = 100_000


def relu2(x: torch.Tensor) -> torch.Tensor:
    """Same contract as `experts_reference.relu2`: max(x, 0) squared, in x's dtype and shape."""
    return torch.relu(x).square_()


def experts(
    x_TD: torch.Tensor,
    up_EID: torch.Tensor,
    down_EDI: torch.Tensor,
    weights_Tk: torch.Tensor,
    ids_Tk: torch.Tensor,
) -> torch.Tensor:
    """Same contract as `experts_reference.experts`: [T, D] in x's dtype, ids below zero skipped.

    Small experts and few pairs: the pairs' weights are copied side by side and multiplied as one batch. Otherwise the
    pairs are sorted by expert, and each expert that is hit multiplies its rows once, its weights read in place.
    """
    num_tokens, top_k = ids_Tk.shape
    if num_tokens == 0:
        return x_TD.new_zeros(x_TD.shape)
    if ids_Tk.numel() * up_EID[0].numel() <= _GATHER_NUMBERS:
        pairs_nD, valid = _gathered(x_TD, up_EID, down_EDI, ids_Tk)
    else:
        pairs_nD, valid = _sorted(x_TD, up_EID, down_EDI, ids_Tk)
    weights_Tk = weights_Tk.float()
    if not valid:
        weights_Tk = weights_Tk.masked_fill(ids_Tk < 0, 0.0)
    pairs_TkD = pairs_nD.view(num_tokens, top_k, -1).float()
    return torch.bmm(weights_Tk.unsqueeze(1), pairs_TkD).squeeze(1).to(x_TD.dtype)


def _gathered(
    x_TD: torch.Tensor, up_EID: torch.Tensor, down_EDI: torch.Tensor, ids_Tk: torch.Tensor
) -> tuple[torch.Tensor, bool]:
    num_tokens, top_k = ids_Tk.shape
    valid = min(ids_Tk.flatten().tolist()) >= 0
    ids_n = (ids_Tk if valid else ids_Tk.clamp(min=0)).flatten()
    up_TJD = up_EID.index_select(0, ids_n).view(num_tokens, -1, x_TD.shape[1])
    hidden_n1I = torch.bmm(up_TJD, x_TD.unsqueeze(2)).view(ids_n.shape[0], -1, 1)
    hidden_n1I.relu_().square_()
    pairs_nD = torch.bmm(down_EDI.index_select(0, ids_n), hidden_n1I).squeeze(2)
    if not valid:
        pairs_nD.masked_fill_((ids_Tk < 0).view(-1, 1), 0.0)
    return pairs_nD, valid


def _sorted(
    x_TD: torch.Tensor, up_EID: torch.Tensor, down_EDI: torch.Tensor, ids_Tk: torch.Tensor
) -> tuple[torch.Tensor, bool]:
    top_k = ids_Tk.shape[1]
    ids_n, order_n = ids_Tk.flatten().sort(stable=True)
    # skipped pairs sort first and are counted in the first bin
    counts = torch.bincount(ids_n.clamp(min=-1).add_(1), minlength=up_EID.shape[0] + 1).tolist()
    rows_nD = x_TD.index_select(0, order_n // top_k)
    out_nD = torch.zeros_like(rows_nD) if counts[0] else torch.empty_like(rows_nD)
    begin = counts[0]
    for e, count in enumerate(counts[1:]):
        if count:
            end = begin + count
            hidden_mI = F.linear(rows_nD[begin:end], up_EID[e]).relu_().square_()
            torch.mm(hidden_mI, down_EDI[e].t(), out=out_nD[begin:end])
            begin = end
    pairs_nD = torch.empty_like(out_nD).index_copy_(0, order_n, out_nD)
    return pairs_nD, counts[0] == 0
