"""Our config classes and Omni's tokenizer in SGLang's tables by model type: put there, and proved to be there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sglang_nemotron.config import OMNI_MODEL_TYPES
from sglang_nemotron.host.door import Door
from sglang_nemotron.host.hf_config import NanoConfig
from sglang_nemotron.host.hf_config_omni import NanoOmniConfig, TransformersOmniConfig
from sglang_nemotron.host.names import args
from sglang_nemotron.host.tokenizer import OmniTokenizer

CLASSES = (NanoConfig, NanoOmniConfig, TransformersOmniConfig)


def open_configs() -> None:
    for cls in CLASSES:
        args.config_registry[cls.model_type] = cls
        args.AutoConfig.register(cls.model_type, cls, exist_ok=True)


def configs_are_ours() -> str | None:
    """None if SGLang reads our model types with our classes, and gives each its hybrid cache."""
    for cls in CLASSES:
        registered = args.config_registry.get(cls.model_type)
        if registered is not cls:
            return f"the config class of {cls.model_type} is {registered}"
        probe: Any = _Probe(cls())
        if args.mamba2_config(probe) is not probe.hf_config.get_text_config():
            return f"SGLang gives our config of {cls.model_type} no hybrid cache"
    return None


@dataclass
class _Probe:
    """The two fields of SGLang's ModelConfig that decide about the hybrid cache."""

    hf_config: Any
    is_draft_model: bool = False


def open_tokenizers() -> None:
    loader: Any = OmniTokenizer
    for model_type in OMNI_MODEL_TYPES:
        args.custom_processors[model_type] = loader


def tokenizers_are_ours() -> str | None:
    for model_type in OMNI_MODEL_TYPES:
        found: Any = args.custom_processors.get(model_type)
        if found is not OmniTokenizer:
            return f"SGLang would load a processor for {model_type} with {found}"
    return None


CONFIGS = Door(
    "config",
    "args",
    "config classes of text and Omni, and their hybrid cache",
    opens=open_configs,
    proof=configs_are_ours,
)
TOKENIZER = Door(
    "tokenizer", "args", "tokenizer of Omni, without remote code", opens=open_tokenizers, proof=tokenizers_are_ours
)
