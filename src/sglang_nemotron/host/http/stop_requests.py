"""Stop strings in the processes that answer HTTP: chats are marked for the scheduler, /v1/messages tells which matched.

What is no chat keeps SGLang's own meaning, and so do models whose replies are not ours to read.
"""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final

from sglang_nemotron.host.door import Door
from sglang_nemotron.host.reply_flags import PARSER, STOPS
from sglang_nemotron.reply.stops import check_stops
from sglang_nemotron.sglang_api.wrapping import Wrap

CHATS: Final = ("/v1/chat/completions", "/invocations", "/v1/responses", "/v1/messages")

# the stop sequences of the /v1/messages request that this task answers
_asked: ContextVar[tuple[str, ...]] = ContextVar("asked", default=())
# where the match of a stream travels from SGLang's chat to its messages, on the request that both hold
_MATCHED: Final = "nemotron_matched_stop"
_END_TURN: Final = '"stop_reason":"end_turn"'


def check_request_stops(request: Any) -> None:
    """ValueError for an empty stop string of a chat or responses request, before a stream has begun."""
    check_stops(_listed(request.stop))


def _listed(stops: str | list[str] | None) -> list[str]:
    return [stops] if isinstance(stops, str) else list(stops or ())


def take_stops(obj: Any, body: Mapping[str, Any], path: str, *, names: Callable[[], list[str]], apart: bool) -> None:
    """Marks a chat's generation request for the scheduler where it has stop strings; ValueError for an empty one.

    Args:
        obj: SGLang's GenerateReqInput, changed in place.
        body: the client's JSON. path: where it was sent.
        names: tells the declared tools, asked where there are stop strings alone.
        apart: whether this server tells thoughts from the answer.
    """
    params = obj.sampling_params
    if not isinstance(params, dict):
        return
    custom = params.get("custom_params")
    custom = {name: value for name, value in custom.items() if name != STOPS} if isinstance(custom, dict) else custom
    stops = _listed(params.get("stop"))
    if stops and path.endswith(CHATS) and not isinstance(custom, list | str):
        check_stops(stops)
        custom = {**(custom or {}), STOPS: names() if apart and body.get("separate_reasoning", True) else False}
    if custom != params.get("custom_params"):
        obj.sampling_params = {**params, "custom_params": custom}


# ---- /v1/messages


def _remember(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def handle(self: Any, chat_request: Any, anthropic_request: Any, raw_request: Any) -> Any:
        if _is_ours(self):
            _asked.set(tuple(anthropic_request.stop_sequences or ()))
        return await original(self, chat_request, anthropic_request, raw_request)

    return handle


def _tell_which(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def convert(self: Any, response: Any) -> Any:
        converted = original(self, response)
        matched = response.choices[0].matched_stop if response.choices else None
        if matched in _asked.get() and converted.stop_reason == "end_turn":
            converted.stop_reason, converted.stop_sequence = "stop_sequence", matched
        return converted

    return convert


def _tell_which_at_the_end(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def stream(
        self: Any, adapted_request: Any, processed_request: Any, anthropic_request: Any, raw_request: Any
    ) -> AsyncIterator[str]:
        asked = tuple(anthropic_request.stop_sequences or ()) if _is_ours(self) else ()
        if asked:
            setattr(adapted_request, _MATCHED, None)
        async for event in original(self, adapted_request, processed_request, anthropic_request, raw_request):
            matched = getattr(adapted_request, _MATCHED, None)
            if matched in asked and event.startswith("event: message_delta"):
                told = f'"stop_reason":"stop_sequence","stop_sequence":{json.dumps(matched)}'
                event = event.replace(_END_TURN, told, 1)
            yield event

    return stream


def _note_match(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def stream(self: Any, adapted_request: Any, request: Any, raw_request: Any) -> AsyncIterator[str]:
        async for line in original(self, adapted_request, request, raw_request):
            if hasattr(adapted_request, _MATCHED) and '"matched_stop":"' in line:
                setattr(adapted_request, _MATCHED, _matched_in(line))
            yield line

    return stream


def _matched_in(line: str) -> str | None:
    chunk = json.loads(line.removeprefix("data: "))
    return next((choice.get("matched_stop") for choice in chunk["choices"] if choice.get("finish_reason")), None)


def _is_ours(serving: Any) -> bool:
    chat = serving.openai_serving_chat
    return PARSER in (chat.reasoning_parser, chat.tool_call_parser)


_CHAT = "sglang.srt.entrypoints.openai.serving_chat"
_MESSAGES = "sglang.srt.entrypoints.anthropic.serving"
_STREAMED = ("adapted_request", "processed_request", "anthropic_request", "raw_request")

STOP_SEQUENCES = Door(
    "stop sequences",
    "http",
    "which stop sequence ended a message",
    needs=(_CHAT, _MESSAGES),
    wraps=(
        Wrap(
            _MESSAGES,
            "AnthropicServing",
            "_handle_non_streaming",
            _remember,
            takes=("chat_request", "anthropic_request", "raw_request"),
        ),
        Wrap(_MESSAGES, "AnthropicServing", "_convert_response", _tell_which, takes=("response",)),
        Wrap(_MESSAGES, "AnthropicServing", "_generate_anthropic_stream", _tell_which_at_the_end, takes=_STREAMED),
        Wrap(
            _CHAT,
            "OpenAIServingChat",
            "_generate_chat_stream",
            _note_match,
            takes=("adapted_request", "request", "raw_request"),
        ),
    ),
    without="does not tell which stop sequence matched",
)
