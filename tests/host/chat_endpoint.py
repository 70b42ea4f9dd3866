"""SGLang's chat endpoint as far as prompts are concerned: what stands for its tokenizer manager goes in."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

from sglang_nemotron.host.names.http import OpenAIServingChat


def endpoint(manager: Any, kind: type[OpenAIServingChat] = OpenAIServingChat) -> Any:
    """An endpoint that renders chats with the manager's tokenizer and template, and was never told of a server."""
    made: Any = kind.__new__(kind)
    made.tokenizer_manager = manager
    made.template_manager = SimpleNamespace(
        chat_template_name=None,
        python_chat_template=None,
        jinja_template_content_format="openai",
        jinja_template_may_reorder_tool_results=False,
        reasoning_config=None,
    )
    made.reasoning_parser = made.tool_call_parser = made.chat_encoding_spec = None
    made._encoding_adapter = made._reasoning_detector = None
    made.default_chat_template_kwargs = {}
    made.supports_inline_system = True
    made.is_gpt_oss = made.is_gemma4 = made.is_minimax_m3 = False
    made._tokenizer_auto_adds_specials = made._prompt_text_round_trip_is_lossy = False
    made._chat_template_cache = OrderedDict()
    return made
