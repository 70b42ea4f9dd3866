"""Puts our kernels where SGLang's runner of a FusedMoE layer would launch its own; the weights stay where they are.

In: a FusedMoE layer; out: nothing, its runner calls us from then on. Knows no schedule and no tensor of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sglang_nemotron import ops
from sglang_nemotron.sglang_api.engine import StandardCombineInput

__all__ = ["serve_routed_experts"]


def serve_routed_experts(experts: Any, *, weights_are_scaled: bool) -> None:
    """From now on this layer's routed experts run on our kernels.

    Call it when the layer is built, before its first forward. `weights_are_scaled`: the router's top-k already
    multiplies by the routed scaling factor. Raises a ValueError for a layer that our kernels do not compute: the
    runner's backend must be `triton` (weights lie as [E, I, D] and [E, D, I]), the activation relu2 without a gate.
    """
    runner = experts.quant_method.runner
    config = runner.config
    wanted = {
        "moe_runner_backend": (runner.runner_backend.value, "triton"),
        "activation": (config.activation, "relu2"),
        "is_gated": (config.is_gated, False),
        "no_combine": (config.no_combine, False),
        "apply_router_weight_on_input": (config.apply_router_weight_on_input, False),
        "lora_enabled": (runner.lora_enabled, False),
    }
    for name, (found, needed) in wanted.items():
        if found != needed:
            raise ValueError(f"our routed experts need {name} {needed!r}, this layer has {found!r}")
    scale = None if weights_are_scaled else config.routed_scaling_factor
    runner.fused_func = _runner_function(scale)


def _runner_function(scale: float | None) -> Callable[[Any, Any, Any], StandardCombineInput]:
    def run(dispatch_output: Any, quant_info: Any, runner_config: Any) -> StandardCombineInput:
        # ids are local to this rank; those of other ranks and of padding rows are -1
        weights_Tk, ids_Tk = dispatch_output.topk_output[:2]
        if scale is not None:
            weights_Tk = weights_Tk * scale
        return StandardCombineInput(_experts(dispatch_output.hidden_states, quant_info, weights_Tk, ids_Tk))

    return run


def _experts(x_TD: torch.Tensor, info: Any, weights_Tk: torch.Tensor, ids_Tk: torch.Tensor) -> torch.Tensor:
    given = (x_TD, info.w13_weight, info.w2_weight, weights_Tk, ids_Tk)
    if not info.use_fp8_w8a8:
        return ops.experts(*given)
    if info.block_shape is not None or info.per_channel_quant or info.a13_scale is None or info.a2_scale is None:
        raise ValueError("FP8 experts need one static scale per tensor, for weights and for activations")
    scales = ops.Float8Scales(info.a13_scale, info.w13_scale, info.a2_scale, info.w2_scale)
    return ops.experts_fp8(*given, scales)
