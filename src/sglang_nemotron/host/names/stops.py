"""SGLang names for ending a reply at a stop string: in the scheduler and in the detokenizer."""

from __future__ import annotations

from sglang.srt.managers.detokenizer_manager import DetokenizerManager
from sglang.srt.managers.schedule_batch import FINISH_MATCHED_STR

__all__ = ["FINISH_MATCHED_STR", "DetokenizerManager"]
