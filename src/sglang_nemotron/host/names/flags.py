"""SGLang names for choosing parsers while arguments resolve: cheap, and without the parsers themselves."""

from __future__ import annotations

from sglang.srt.arg_groups.model_override_base import model_config_of, resolving_view
from sglang.srt.arg_groups.overrides import declare_resolution
from sglang.srt.function_call.parser_names import TOOL_CALL_PARSER_NAMES as tool_parser_names
from sglang.srt.parser import template_detection
from sglang.srt.parser.reasoning_parser_names import REASONING_PARSER_NAMES as reasoning_parser_names
from sglang.srt.utils.hf_transformers_utils import get_tokenizer as load_tokenizer

__all__ = [
    "declare_resolution",
    "load_tokenizer",
    "model_config_of",
    "reasoning_parser_names",
    "resolving_view",
    "template_detection",
    "tool_parser_names",
]
