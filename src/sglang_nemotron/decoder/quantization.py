"""Quantised checkpoints on a device without quantised kernels: a quantisation config that asks for plain layers.

The CPU platform hands this class to SGLang for ModelOpt checkpoints. Weights are dequantised while they load
(`decoder/weights.py`); activation scales are ignored and the KV cache keeps the model's dtype, and both are logged.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from sglang_nemotron.sglang_api.engine import QuantizationConfig

logger = logging.getLogger(__name__)


class DequantisedConfig(QuantizationConfig):
    """Stands for "ModelOpt weights, plain layers"; only our model classes can be built with it."""

    def __init__(self, algorithm: str) -> None:
        super().__init__()
        self.algorithm = algorithm
        logger.warning(
            "ModelOpt %s checkpoint on a CPU: weights are dequantised while loading, activation scales are ignored, "
            "and the KV cache keeps the model's dtype",
            algorithm,
        )

    def get_name(self) -> str:
        return "modelopt"

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16, torch.float32]

    @classmethod
    def get_min_capability(cls) -> int:
        return 0

    @staticmethod
    def get_config_filenames() -> list[str]:
        return ["hf_quant_config.json"]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> DequantisedConfig:
        fields = config.get("quantization", config)
        return cls(str(fields.get("quant_algo", "unknown")))

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> None:
        raise ValueError(
            f"this ModelOpt {self.algorithm} checkpoint needs quantised kernels that the CPU platform does not have; "
            f"only Nemotron 3 Nano checkpoints are dequantised on a CPU (asked for layer {prefix!r})"
        )

    def get_scaled_act_names(self) -> list[str]:
        return []


def is_dequantised(quant_config: QuantizationConfig | None) -> bool:
    return isinstance(quant_config, DequantisedConfig)
