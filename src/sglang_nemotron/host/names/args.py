"""SGLang names that the main process may import while it parses arguments: cheap, and never the model runner."""

from __future__ import annotations

from sglang.srt import platforms
from sglang.srt.arg_groups.model_override_base import _MODEL_OVERRIDE_FNS as override_providers
from sglang.srt.arg_groups.model_override_base import register_model_override, resolving_view
from sglang.srt.configs.hybrid_arch import mamba2_config
from sglang.srt.configs.mamba_utils import Mamba2CacheParams, Mamba2StateDType, Mamba2StateShape
from sglang.srt.configs.nemotron_h import NemotronHConfig
from sglang.srt.environ import envs
from sglang.srt.runtime_context import get_model, get_parallel
from sglang.srt.utils.hf_transformers.common import _CONFIG_REGISTRY as config_registry
from transformers import AutoConfig

__all__ = [
    "AutoConfig",
    "Mamba2CacheParams",
    "Mamba2StateDType",
    "Mamba2StateShape",
    "NemotronHConfig",
    "config_registry",
    "envs",
    "get_model",
    "get_parallel",
    "mamba2_config",
    "override_providers",
    "platforms",
    "register_model_override",
    "resolving_view",
]
