"""The tokens of a chat with media, without generating any: for /v1/messages/count_tokens and /v1/tokenize of Omni.

SGLang counts a medium as the one token that stands for it. Here the same processor measures it that measures it when
the chat is served, so that both counts are one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from sglang_nemotron.host.door import Door
from sglang_nemotron.host.media import service_of, take_options
from sglang_nemotron.host.packages import wants_media
from sglang_nemotron.host.wrapping import Wrap
from sglang_nemotron.prompt.parcel import HELD, Parcel, drop


async def ids_with_media(manager: Any, processed: Any, raw_request: Any) -> list[int]:
    """The ids of a rendered chat as they are served, its media measured as the request's body asks.

    ValueError for media that cannot be served.
    """
    service = service_of(manager)
    if service is None or not (processed.image_data or processed.video_data or processed.audio_data):
        return processed.prompt_ids
    from sglang_nemotron.host.names.http import GenerateReqInput

    sent = getattr(raw_request, "_json", None)
    body: Mapping[str, Any] = sent if isinstance(sent, dict) else {}
    obj = GenerateReqInput(
        input_ids=processed.prompt_ids,
        image_data=processed.image_data,
        video_data=processed.video_data,
        audio_data=processed.audio_data,
    )
    take_options(obj, body, service)
    held: list[Parcel] = []
    obj.mm_processor_kwargs = {**(obj.mm_processor_kwargs or {}), HELD: held}
    try:
        measured = await manager.mm_processor.process_mm_data_async(
            image_data=processed.image_data,
            audio_data=processed.audio_data,
            input_text=processed.prompt_ids,
            request_obj=obj,
        )
        assert measured.input_ids is not None
        return list(measured.input_ids)
    finally:
        drop(held)


def _handle_count_tokens(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def count(self: Any, request: Any, raw_request: Any) -> Any:
        answer = await original(self, request, raw_request)
        chat = self.openai_serving_chat
        if answer.status_code != 200 or service_of(chat.tokenizer_manager) is None:
            return answer
        from sglang_nemotron.host.names.http import AnthropicMessagesRequest

        try:
            fields = {name: getattr(request, name) for name in type(request).model_fields}
            asked = AnthropicMessagesRequest(**fields, max_tokens=1)
            processed = chat._process_messages(self._convert_to_chat_completion_request(asked), True)
            ids = await ids_with_media(chat.tokenizer_manager, processed, raw_request)
        except ValueError as error:
            return self._error_response(status_code=400, error_type="invalid_request_error", message=str(error))
        return type(answer)(content={"input_tokens": len(ids)})

    return count


def _handle_tokenize(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def tokenize(self: Any, adapted_request: Any, request: Any, raw_request: Any) -> Any:
        answer = await original(self, adapted_request, request, raw_request)
        if request.messages is None or not hasattr(answer, "tokens") or service_of(self.tokenizer_manager) is None:
            return answer
        try:
            processed = self.chat_serving._process_messages(request.to_chat_completion_request(), True)
            ids = await ids_with_media(self.tokenizer_manager, processed, raw_request)
        except ValueError as error:
            return self.create_error_response(str(error))
        return answer.model_copy(update={"tokens": ids, "count": len(ids)})

    return tokenize


_MESSAGES = "sglang.srt.entrypoints.anthropic.serving"
_TOKENIZE = "sglang.srt.entrypoints.openai.serving_tokenize"

COUNTING = Door(
    "counting",
    "http",
    "tokens of chats with media, counted",
    needs=(_MESSAGES, _TOKENIZE),
    wraps=(
        Wrap(
            _MESSAGES, "AnthropicServing", "handle_count_tokens", _handle_count_tokens, takes=("request", "raw_request")
        ),
        Wrap(
            _TOKENIZE,
            "OpenAIServingTokenize",
            "_handle_non_streaming_request",
            _handle_tokenize,
            takes=("adapted_request", "request", "raw_request"),
        ),
    ),
    without="counts media as one token each",
    wanted=wants_media,
)
