"""SGLang names for the processes that answer HTTP: the main one, and its tokenizer workers."""

from __future__ import annotations

from sglang.srt.constrained.json_schema_validation import validate_xgrammar_json_schema
from sglang.srt.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from sglang.srt.entrypoints.openai.protocol import MessageProcessingResult
from sglang.srt.entrypoints.openai.serving_chat import OpenAIServingChat
from sglang.srt.entrypoints.openai.serving_responses import OpenAIServingResponses

# the one error whose text a client of /v1/responses gets as it is
from sglang.srt.entrypoints.openai.serving_responses import _MediaInputValidationError as ResponsesError
from sglang.srt.function_call.utils import normalize_json_schema_types
from sglang.srt.managers.io_struct import GenerateReqInput
from sglang.srt.managers.tokenizer_manager import TokenizerManager
from sglang.srt.parser.jinja_template_utils import process_content_for_template_format
from sglang.srt.runtime_context import get_exec, get_serving

__all__ = [
    "AnthropicMessagesRequest",
    "GenerateReqInput",
    "MessageProcessingResult",
    "OpenAIServingChat",
    "OpenAIServingResponses",
    "ResponsesError",
    "TokenizerManager",
    "get_exec",
    "get_serving",
    "normalize_json_schema_types",
    "process_content_for_template_format",
    "validate_xgrammar_json_schema",
]
