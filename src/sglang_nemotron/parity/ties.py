"""Where a reference's choice of experts is a tie, and what it says if one falls the other way.

Two right programs add up in other orders, and their scores of an expert differ by a few units of float32's last place.
Where the last expert that is taken and the first that is not lie nearer than that, either is right, and what is right
differs by a hundred times the tolerance from there on: one random prompt of some thousand tokens in seventy was seen to
have such a token. An answer beyond the tolerance is therefore held against the reference with its nearest ties turned,
one after the other and together. It must equal one of these as closely as any other answer; nothing is excused.

Shape suffixes: T tokens, E experts, K chosen experts and the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch

from sglang_nemotron.parity.compare import Difference

# of scores between 0 and 1 and biases beside them: 1.2e-6 is the widest at which a server was seen to choose otherwise
MIN_GAP = 2e-6
# the nearest ones of a prompt: eight ways in all
_MOST_TIES = 3


@dataclass(frozen=True)
class Tie:
    """gap: between the last expert that is taken and the first that is not. token: its place. router: its name."""

    gap: float
    token: int
    router: str

    def __str__(self) -> str:
        return f"token {self.token}, {self.router}: two experts {self.gap:.0e} apart"


@contextmanager
def watched(model: torch.nn.Module, turned: Sequence[Tie] = ()) -> Iterator[list[Tie]]:
    """Ties of a forward of one prompt, in the list once that is done; those of `turned` fall the other way in it."""
    found: list[Tie] = []
    hooks = []
    for name, module in model.named_modules():
        # by their bias: the class is transformers', and may be another one by the next release. choices by groups of
        # experts, which no checkpoint of ours makes, are left alone
        if hasattr(module, "e_score_correction_bias") and module.num_group == 1:
            hooks.append(
                module.register_forward_hook(_hook(name, [tie for tie in turned if tie.router == name], found))
            )
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _hook(name: str, turned: Sequence[Tie], found: list[Tie]) -> Callable[..., Any]:
    def hook(router: Any, _: Any, outputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        logits_TE, weights, chosen = outputs
        scores_TE = logits_TE.sigmoid()
        best_TK = (scores_TE + router.e_score_correction_bias).topk(router.top_k + 1, dim=-1)
        gap_T = best_TK.values[:, -2] - best_TK.values[:, -1]
        found.extend(Tie(float(gap_T[t]), int(t), name) for t in (gap_T < MIN_GAP).nonzero().flatten())
        weights, chosen = weights.clone(), chosen.clone()
        for tie in turned:
            others = best_TK.indices[tie.token].tolist()
            # the next one in the place of the last
            taken = torch.tensor([*others[:-2], others[-1]])
            share = scores_TE[tie.token, taken]
            if router.norm_topk_prob:
                share = share / share.sum()
            chosen[tie.token], weights[tie.token] = taken, (share * router.routed_scaling_factor).to(weights.dtype)
        return logits_TE, weights, chosen

    return hook


def nearest_way(model: torch.nn.Module, compared: Callable[[], Difference], tolerance: float) -> Difference:
    """The difference; if it is beyond the tolerance, the first one within it that a turn of ties gives instead.

    compared: makes the difference, by one forward of `model`.
    """
    with watched(model) as ties:
        plain = compared()
    if is_near(plain, tolerance):
        return plain
    nearest = sorted(ties, key=lambda tie: tie.gap)[:_MOST_TIES]
    for count in range(1, len(nearest) + 1):
        for turned in combinations(nearest, count):
            with watched(model, turned):
                other = compared()
            if is_near(other, tolerance):
                return replace(other, turned=tuple(map(str, turned)))
    return plain


def is_near(difference: Difference, tolerance: float) -> bool:
    """Every logprob within the tolerance, and every sure token the same."""
    return difference.worst <= tolerance and not difference.disagreements
