"""Which experts of SGLang's layers our own kernels take: those whose FP8 scales are ModelOpt's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_nemotron.decoder.moe import MoEMixer

STATIC = {"w13_input_scale": 1, "w13_weight_scale": 4, "w2_input_scale": 1, "w2_weight_scale": 4}


def are_static(dtype: torch.dtype, **sizes: int | None) -> bool:
    scales: dict[str, Any] = {name: None if size is None else torch.ones(size) for name, size in sizes.items()}
    experts = SimpleNamespace(w13_weight=torch.zeros(4, 6, 8).to(dtype), **scales)
    # as much of a mixer as is asked
    mixer: Any = SimpleNamespace(experts=experts, spec=SimpleNamespace(num_experts=4))
    return MoEMixer._scales_are_static.func(mixer)  # type: ignore[attr-defined]


def test_weights_of_16_bits_need_no_scales() -> None:
    assert are_static(torch.bfloat16)


def test_modelopts_scales() -> None:
    assert are_static(torch.float8_e4m3fn, **STATIC)


@pytest.mark.parametrize(
    "changed",
    [
        # --quantization fp8: activations are quantised as they come
        {"w13_input_scale": None, "w2_input_scale": None},
        # a scale a row, or a block
        {"w13_weight_scale": 24},
        {"w2_weight_scale": None},
        {"w2_input_scale": 4},
    ],
)
def test_other_scales_are_left_to_sglang(changed: dict[str, int | None]) -> None:
    assert not are_static(torch.float8_e4m3fn, **{**STATIC, **changed})
