"""SGLang names for the processes that answer HTTP: the main one, and its tokenizer workers."""

from __future__ import annotations

from sglang.srt.managers.tokenizer_manager import TokenizerManager

__all__ = ["TokenizerManager"]
