"""SGLang names that the main process may import while it parses arguments: cheap, and never the model runner."""

from __future__ import annotations

from sglang.srt import platforms
from sglang.srt.arg_groups import overrides as arch_tables
from sglang.srt.arg_groups.model_override_base import _MODEL_OVERRIDE_FNS as override_providers
from sglang.srt.arg_groups.model_override_base import model_config_of, register_model_override, resolving_view
from sglang.srt.arg_groups.overrides import declare_resolution
from sglang.srt.configs.hybrid_arch import mamba2_config
from sglang.srt.configs.mamba_utils import Mamba2CacheParams, Mamba2StateDType, Mamba2StateShape
from sglang.srt.configs.nano_nemotron_vl import (
    NemotronH_Nano_Omni_Reasoning_V3_Config,
    NemotronH_Omni_Reasoning_V3_Config,
)
from sglang.srt.configs.nemotron_h import NemotronHConfig
from sglang.srt.environ import envs
from sglang.srt.function_call.parser_names import TOOL_CALL_PARSER_NAMES as tool_parser_names
from sglang.srt.multimodal.customized_mm_processor_utils import _CUSTOMIZED_MM_PROCESSOR as custom_processors
from sglang.srt.parser.reasoning_parser_names import REASONING_PARSER_NAMES as reasoning_parser_names
from sglang.srt.runtime_context import get_model, get_parallel, get_platform
from sglang.srt.utils import get_device_memory_capacity
from sglang.srt.utils.hf_transformers.common import _CONFIG_REGISTRY as config_registry
from sglang.srt.utils.hf_transformers_utils import get_tokenizer as load_tokenizer
from transformers import AutoConfig, AutoProcessor, AutoTokenizer

__all__ = [
    "AutoConfig",
    "AutoProcessor",
    "AutoTokenizer",
    "Mamba2CacheParams",
    "Mamba2StateDType",
    "Mamba2StateShape",
    "NemotronHConfig",
    "NemotronH_Nano_Omni_Reasoning_V3_Config",
    "NemotronH_Omni_Reasoning_V3_Config",
    "arch_tables",
    "config_registry",
    "custom_processors",
    "declare_resolution",
    "envs",
    "get_device_memory_capacity",
    "get_model",
    "get_parallel",
    "get_platform",
    "load_tokenizer",
    "mamba2_config",
    "model_config_of",
    "override_providers",
    "platforms",
    "reasoning_parser_names",
    "register_model_override",
    "resolving_view",
    "tool_parser_names",
]
