"""SGLang names for the processes that answer HTTP: the main one, and its tokenizer workers."""

from __future__ import annotations

from sglang.srt.entrypoints.openai.serving_chat import OpenAIServingChat
from sglang.srt.entrypoints.openai.serving_responses import OpenAIServingResponses
from sglang.srt.function_call.utils import normalize_json_schema_types
from sglang.srt.managers.io_struct import GenerateReqInput
from sglang.srt.managers.tokenizer_manager import SignalHandler, TokenizerManager

__all__ = [
    "GenerateReqInput",
    "OpenAIServingChat",
    "OpenAIServingResponses",
    "SignalHandler",
    "TokenizerManager",
    "normalize_json_schema_types",
]
