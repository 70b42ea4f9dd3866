"""How a reply ended, told to the parsers: SGLang's finish reasons come in, calls that were cut stay unfinished.

A stop string or a limit of tokens may end a reply inside a call, and half a command must not be shown as a whole one.
Models whose replies are not ours to read pass through untouched.
"""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from sglang_nemotron.host.names.http import GenerateReqInput, OpenAIServingChat, TokenizerManager
from sglang_nemotron.host.names.messages import AnthropicServing
from sglang_nemotron.host.replies import ended, how_it_ended
from sglang_nemotron.host.reply_flags import PARSER, is_ours
from sglang_nemotron.host.wrapping import Wrapped, first_unwrapped, wrap_once

# what a manager knows of its model after its first request
_OURS = "nemotron_ends_are_told"


def _generate_request(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def generate(self: Any, obj: Any, request: Any = None) -> Any:
        outputs = original(self, obj, request)
        if not hasattr(self, _OURS):
            setattr(self, _OURS, is_ours(self.model_config.hf_config))
        return _telling(outputs) if getattr(self, _OURS) and isinstance(obj, GenerateReqInput) else outputs

    return generate


async def _telling(outputs: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    """The outputs as they come, each with how it ended told to the parsers."""
    async with aclosing(outputs):
        async for output in outputs:
            # of several answers at once each is told on its own
            meta = output.get("meta_info") or {} if isinstance(output, dict) else {}
            ended.set(how_it_ended(meta.get("finish_reason")))
            yield output


def _process_tool_calls(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def process(self: Any, text: str, tools: Any, finish_reason: Any, *args: Any, **kwargs: Any) -> Any:
        if self.tool_call_parser != PARSER:
            return original(self, text, tools, finish_reason, *args, **kwargs)
        how, reason = how_it_ended(finish_reason), dict(finish_reason or {})
        told = ended.set(how)
        try:
            result = original(self, text, tools, finish_reason, *args, **kwargs)
        finally:
            ended.reset(told)
        if how.cut and result.tool_calls and not _is_json(result.tool_calls[-1].function.arguments):
            # SGLang says tool_calls wherever there is one
            result.finish_reason.update(reason)
        return result

    return process


def _convert_response(original: Callable[..., Any]) -> Callable[..., Any]:
    # a block of /v1/messages holds an object, so SGLang shows a call that was cut as one without arguments
    @functools.wraps(original)
    def convert(self: Any, response: Any) -> Any:
        if self.openai_serving_chat.tool_call_parser == PARSER:
            for choice in response.choices:
                calls = choice.message.tool_calls or []
                choice.message.tool_calls = [call for call in calls if _is_json(call.function.arguments)] or None
        return original(self, response)

    return convert


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


_WRAPPED: tuple[Wrapped, ...] = (
    (TokenizerManager, "generate_request", _generate_request),
    (OpenAIServingChat, "_process_tool_calls", _process_tool_calls),
    (AnthropicServing, "_convert_response", _convert_response),
)
_MARK = "tells_nemotron_ends"


def open_ends() -> None:
    """Puts ours around SGLang's methods; may be repeated."""
    wrap_once(_WRAPPED, _MARK)


def ends_are_ours() -> str | None:
    """None if the parsers are told how a reply ended, else what does not tell."""
    unwrapped = first_unwrapped(_WRAPPED, _MARK)
    return unwrapped and f"{unwrapped} does not tell our parsers how a reply ended"
