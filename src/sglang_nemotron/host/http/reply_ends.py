"""How a reply ended, told to the parsers: SGLang's finish reasons come in, calls that were cut stay unfinished.

A stop string or a limit of tokens may end a reply inside a call, and half a command must not be shown as a whole one.
Models whose replies are not ours to read pass through untouched.
"""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any, NamedTuple

from sglang_nemotron.host.door import Door
from sglang_nemotron.host.reply_flags import PARSER, serves_ours
from sglang_nemotron.sglang_api.wrapping import Wrap


class Ended(NamedTuple):
    """Whether something cut a reply off, and the stop string that did."""

    cut: bool = False
    stop: str = ""


# of the output that SGLang is about to hand to a parser, which it does in the task that took it from the engine
ended: ContextVar[Ended | None] = ContextVar("nemotron_ended", default=None)


def how_it_ended(finish_reason: Any) -> Ended:
    """What SGLang's finish reason says. A matched token is the model's own end."""
    reason = finish_reason if isinstance(finish_reason, dict) else {}
    matched = reason.get("matched")
    stop = matched if isinstance(matched, str) else ""
    return Ended(cut=reason.get("type") == "length" or bool(stop), stop=stop)


def _generate_request(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def generate(self: Any, obj: Any, request: Any = None) -> Any:
        from sglang_nemotron.sglang_api.http import GenerateReqInput

        outputs = original(self, obj, request)
        return _telling(outputs) if isinstance(obj, GenerateReqInput) and serves_ours(self) else outputs

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


_CHAT = "sglang.srt.entrypoints.openai.serving_chat"
_MESSAGES = "sglang.srt.entrypoints.anthropic.serving"
_MANAGER = "sglang.srt.managers.tokenizer_manager"

ENDS = Door(
    "reply ends",
    "http",
    "calls that were cut stay unfinished",
    needs=(_CHAT, _MESSAGES, _MANAGER),
    wraps=(
        Wrap(_MANAGER, "TokenizerManager", "generate_request", _generate_request, takes=("obj", "request")),
        Wrap(
            _CHAT,
            "OpenAIServingChat",
            "_process_tool_calls",
            _process_tool_calls,
            takes=("text", "tools", "finish_reason"),
        ),
        Wrap(_MESSAGES, "AnthropicServing", "_convert_response", _convert_response, takes=("response",)),
    ),
    without="does not tell our parsers how a reply ended",
)
