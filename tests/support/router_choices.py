"""How sure the reference is of its experts: where two score alike, float32 decides between them by its rounding.

A token that goes to another expert changes logprobs by 1e-3 to 2e-2, a hundred times what is allowed. Seen in 7 of 471
random videos of 1,760 tokens through five MoE layers: each had a token whose last chosen and first passed-over expert
were at most 1.2e-6 apart, and transformers in float64 mostly sided with the server. So media and texts of the tests are
the same in every run, and none comes that near.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHTopkRouter

# of scores between 0 and 1, and biases beside them
MIN_GAP = 2e-6


@dataclass(frozen=True)
class Choice:
    """gap: between the score of the last expert that is taken and of the first that is not."""

    gap: float
    token: int
    router: str


NONE = Choice(float("inf"), 0, "no router")


class NearestChoice:
    """Watches the routers of a model; `take` gives the nearest choice since the last time and forgets it."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._nearest = NONE
        for name, module in model.named_modules():
            if isinstance(module, NemotronHTopkRouter):
                assert module.num_group == 1, "experts are also left out by groups, which this does not know"
                module.register_forward_hook(self._watcher(name))

    def take(self) -> Choice:
        found, self._nearest = self._nearest, NONE
        return found

    def _watcher(self, name: str) -> Any:
        def watch(router: NemotronHTopkRouter, _: Any, outputs: tuple[torch.Tensor, ...]) -> None:
            logits_TE = outputs[0].detach()
            best_TK = (logits_TE.sigmoid() + router.e_score_correction_bias).topk(router.top_k + 1, dim=-1).values
            gap_T = best_TK[:, -2] - best_TK[:, -1]
            token = int(gap_T.argmin())
            if gap_T[token] < self._nearest.gap:
                self._nearest = Choice(float(gap_T[token]), token, name)

        return watch
