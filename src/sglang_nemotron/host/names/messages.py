"""SGLang names for /v1/messages, in the processes that answer HTTP."""

from __future__ import annotations

from sglang.srt.entrypoints.anthropic.serving import AnthropicServing

__all__ = ["AnthropicServing"]
