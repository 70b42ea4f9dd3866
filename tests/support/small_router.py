"""A router of transformers over four experts, of which two are taken; its scores are what it is given, as logits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHTopkRouter


def small_router(scale: float = 1.0) -> NemotronHTopkRouter:
    """scale: of the weights that it gives."""
    config: Any = SimpleNamespace(
        num_experts_per_tok=2,
        num_local_experts=4,
        hidden_size=4,
        routed_scaling_factor=scale,
        n_group=1,
        topk_group=1,
        norm_topk_prob=True,
    )
    made = NemotronHTopkRouter(config)
    made.weight.data = torch.eye(4)
    return made
