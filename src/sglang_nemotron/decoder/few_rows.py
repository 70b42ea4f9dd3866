"""Decode steps of one or two rows: each layer is one op, or a few, that moves the residual stream on in place.

SGLang's stage boundaries (residual, norm, sums over ranks) are left out, so this serves a model that lies on one rank
whole. In: SGLang's modules; out: the records that `ops` takes. Who may go this way is asked of the mixers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from sglang_nemotron import ops
from sglang_nemotron.ops.forms import APART, MOST_FEW_ROWS, choose
from sglang_nemotron.sglang_api.engine import (
    ColumnParallelLinear,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
    get_parallel,
    is_dp_attention_enabled,
)
from sglang_nemotron.state.plan import StepPlan

__all__ = ["linear_of", "linears_are_plain", "norm_of", "on_one_rank", "takes_few_rows"]

# a subclass or a wrapper (LoRA) computes something else with the same weight
_PLAIN = (ColumnParallelLinear, MergedColumnParallelLinear, QKVParallelLinear, RowParallelLinear)
_WIDE = (torch.bfloat16, torch.float16, torch.float32)


def norm_of(norm: Any) -> ops.Norm:
    """An RMSNorm of SGLang's."""
    return ops.Norm(norm.weight, norm.variance_epsilon)


def linear_of(module: Any) -> ops.Linear:
    """A linear of SGLang's that `linears_are_plain` lets pass; read anew each time, as a weight update replaces it."""
    weight = module.weight
    if weight.dtype != torch.float8_e4m3fn:
        return ops.Linear(weight)
    # SGLang keeps FP8 weights transposed, for a product that reads columns
    return ops.Linear(weight.t(), module.input_scale.flatten(), module.weight_scale.flatten())


def linears_are_plain(modules: Iterable[nn.Module]) -> bool:
    """Whether all are unquantised, or FP8 with static scales, and SGLang's own classes."""
    return all(type(module) in _PLAIN and _weight_is_plain(module) for module in modules)


def _weight_is_plain(module: Any) -> bool:
    weight, x_scale = module.weight, getattr(module, "input_scale", None)
    if getattr(module, "bias", None) is not None or weight.dim() != 2:
        return False
    if weight.dtype in _WIDE:
        return x_scale is None and weight.is_contiguous()
    static = x_scale is not None and x_scale.numel() == 1
    return weight.dtype == torch.float8_e4m3fn and static and weight.t().is_contiguous()


def on_one_rank() -> bool:
    """Whether this process holds the whole model; nothing has to be summed over others then."""
    parallel = get_parallel()
    return parallel.tp_size == 1 and parallel.pp_group.world_size == 1 and not is_dp_attention_enabled()


def takes_few_rows(x_TD: torch.Tensor, plan: StepPlan | None) -> bool:
    """Whether this step, of a model that could, goes layer by layer; rows of padding are not among its rows."""
    if plan is None or plan.num_prefill_tokens > 0 or not 0 < x_TD.shape[0] <= MOST_FEW_ROWS:
        return False
    return plan.num_decodes == x_TD.shape[0] and choose(ops.few_rows_case(x_TD)).name != APART
