"""What this process's rank is in each parallel group, read from SGLang once while the model is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from sglang_nemotron.sglang_api.engine import (
    attn_tp_all_reduce,
    get_parallel,
    is_dp_attention_enabled,
    tensor_model_parallel_all_reduce,
)


@dataclass(frozen=True)
class Ranks:
    """Mixers (Mamba and attention) run on `mixer_group`: all of TP, or the attention group under DP attention."""

    mixer_group: Literal["tp", "attn_tp"]
    mixer_tp_rank: int
    mixer_tp_size: int
    attn_tp_size: int
    mixer_all_reduce: Callable[[torch.Tensor], torch.Tensor]


def current_ranks() -> Ranks:
    """The groups of this process; valid after SGLang has set up its distributed environment."""
    parallel = get_parallel()
    if is_dp_attention_enabled():
        return Ranks(
            mixer_group="attn_tp",
            mixer_tp_rank=parallel.attn_tp_rank,
            mixer_tp_size=parallel.attn_tp_size,
            attn_tp_size=parallel.attn_tp_size,
            mixer_all_reduce=attn_tp_all_reduce,
        )
    return Ranks(
        mixer_group="tp",
        mixer_tp_rank=parallel.tp_rank,
        mixer_tp_size=parallel.tp_size,
        attn_tp_size=parallel.attn_tp_size,
        mixer_all_reduce=tensor_model_parallel_all_reduce,
    )
