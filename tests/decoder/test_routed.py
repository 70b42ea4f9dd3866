"""Our kernels in the place of a FusedMoE runner's: what it is handed, what it hands back, what it refuses."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.layers.moe.moe_runner.base import MoeRunnerConfig
from sglang.srt.layers.moe.moe_runner.triton import TritonMoeQuantInfo
from sglang.srt.layers.moe.token_dispatcher.standard import StandardDispatchOutput
from sglang.srt.layers.moe.topk import StandardTopKOutput
from sglang.srt.layers.moe.utils import MoeRunnerBackend

from sglang_nemotron.decoder.routed import serve_routed_experts
from sglang_nemotron.ops import Float8Scales, experts_fp8_reference, experts_reference

CONFIG = MoeRunnerConfig(activation="relu2", is_gated=False, routed_scaling_factor=2.5)


def layer(config: MoeRunnerConfig = CONFIG, **other: Any) -> SimpleNamespace:
    """As much of a FusedMoE layer as is looked at."""
    given = {"runner_backend": MoeRunnerBackend.TRITON, "config": config, "lora_enabled": False, "fused_func": None}
    return SimpleNamespace(quant_method=SimpleNamespace(runner=SimpleNamespace(**given | other)))


def routed() -> tuple[torch.Tensor, ...]:
    ids_Tk = torch.stack([torch.randperm(8)[:3] for _ in range(5)]).int()
    ids_Tk[1, 2], ids_Tk[4] = -1, -1
    up_EID, down_EDI = torch.randn(8, 20, 24) * 0.3, torch.randn(8, 24, 20) * 0.3
    x_TD = torch.randn(5, 24)
    return x_TD.bfloat16(), up_EID.bfloat16(), down_EDI.bfloat16(), torch.rand(5, 3), ids_Tk


def run(experts: Any, x_TD: torch.Tensor, info: Any, weights_Tk: torch.Tensor, ids_Tk: torch.Tensor) -> torch.Tensor:
    handed = StandardDispatchOutput(x_TD, None, StandardTopKOutput(weights_Tk, ids_Tk, torch.empty(0)))
    runner = experts.quant_method.runner
    return runner.fused_func(handed, info, runner.config).hidden_states


@pytest.mark.parametrize("scaled", [False, True])
def test_bf16(scaled: bool) -> None:
    torch.manual_seed(0)
    x_TD, up_EID, down_EDI, weights_Tk, ids_Tk = routed()
    experts = layer()
    serve_routed_experts(experts, weights_are_scaled=scaled)
    found = run(experts, x_TD, TritonMoeQuantInfo(up_EID, down_EDI), weights_Tk, ids_Tk)
    expected = experts_reference.experts(x_TD, up_EID, down_EDI, weights_Tk * (1.0 if scaled else 2.5), ids_Tk)
    assert (found - expected).abs().max() <= 2**-7 * expected.abs().max()


def test_fp8() -> None:
    torch.manual_seed(0)
    x_TD, up_EID, down_EDI, weights_Tk, ids_Tk = routed()
    up8_EID, down8_EDI = up_EID.to(torch.float8_e4m3fn), down_EDI.to(torch.float8_e4m3fn)
    scales = Float8Scales(torch.tensor(0.1), torch.rand(8) + 0.5, torch.tensor(0.2), torch.rand(8) + 0.5)
    info = TritonMoeQuantInfo(
        up8_EID,
        down8_EDI,
        use_fp8_w8a8=True,
        w13_scale=scales.up_E,
        w2_scale=scales.down_E,
        a13_scale=scales.x,
        a2_scale=scales.hidden,
    )
    experts = layer()
    serve_routed_experts(experts, weights_are_scaled=True)
    expected = experts_fp8_reference.experts_fp8(x_TD, up8_EID, down8_EDI, weights_Tk, ids_Tk, scales)
    assert torch.equal(run(experts, x_TD, info, weights_Tk, ids_Tk), expected)
    with pytest.raises(ValueError, match="one static scale per tensor"):
        run(experts, x_TD, replace(info, a2_scale=None), weights_Tk, ids_Tk)


@pytest.mark.parametrize(
    ("experts", "message"),
    [
        (
            layer(runner_backend=MoeRunnerBackend.FLASHINFER_CUTLASS),
            "moe_runner_backend 'triton', this layer has 'flash",
        ),
        (layer(replace(CONFIG, activation="silu")), "activation 'relu2', this layer has 'silu'"),
        (layer(replace(CONFIG, is_gated=True)), "is_gated False"),
        (layer(lora_enabled=True), "lora_enabled False"),
    ],
)
def test_refuses_another_layer(experts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        serve_routed_experts(experts, weights_are_scaled=True)
