"""SGLang's parser classes: every process that reads replies or constrains them pays for these (about two seconds)."""

from __future__ import annotations

from sglang.srt.entrypoints.openai.protocol import Tool
from sglang.srt.function_call.base_format_detector import BaseFormatDetector
from sglang.srt.function_call.core_types import ToolCallItem
from sglang.srt.function_call.function_call_parser import FunctionCallParser
from sglang.srt.parser.reasoning_parser import BaseReasoningFormatDetector, ReasoningParser
from sglang.srt.parser.reasoning_parser import StreamingParseResult as ReasoningAndText

__all__ = [
    "BaseFormatDetector",
    "BaseReasoningFormatDetector",
    "FunctionCallParser",
    "ReasoningAndText",
    "ReasoningParser",
    "Tool",
    "ToolCallItem",
]
