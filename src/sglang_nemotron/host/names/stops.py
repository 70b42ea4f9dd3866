"""SGLang names for ending a reply at a stop string: in the scheduler, in the detokenizer, and in /v1/messages."""

from __future__ import annotations

from sglang.srt.entrypoints.anthropic.serving import AnthropicServing
from sglang.srt.managers.detokenizer_manager import DetokenizerManager
from sglang.srt.managers.schedule_batch import FINISH_MATCHED_STR, Req
from sglang.srt.managers.scheduler_components.output_streamer import _GenerationStreamAccumulator

__all__ = ["FINISH_MATCHED_STR", "AnthropicServing", "DetokenizerManager", "Req", "_GenerationStreamAccumulator"]
