"""How many tokens a chat with media takes, without generating any: for /v1/messages/count_tokens of Omni.

SGLang counts a medium as the one token that stands for it. Here the same processor measures it that measures it when
the chat is served, so that both counts are one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from sglang_nemotron.host.media import service_of, take_options
from sglang_nemotron.host.names.http import AnthropicMessagesRequest, AnthropicServing, GenerateReqInput
from sglang_nemotron.host.wrapping import Wrapped, first_unwrapped, wrap_once
from sglang_nemotron.prompt.parcel import HELD, Parcel, drop


async def count_with_media(manager: Any, processed: Any, body: Mapping[str, Any]) -> int:
    """The tokens of a rendered chat, its media measured as `body` asks. ValueError for media that cannot be served."""
    service = service_of(manager)
    assert service is not None
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
        return len(measured.input_ids)
    finally:
        drop(held)


def _handle_count_tokens(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def count(self: Any, request: Any, raw_request: Any) -> Any:
        answer = await original(self, request, raw_request)
        chat = self.openai_serving_chat
        if answer.status_code != 200 or service_of(chat.tokenizer_manager) is None:
            return answer
        try:
            fields = {name: getattr(request, name) for name in type(request).model_fields}
            asked = AnthropicMessagesRequest(**fields, max_tokens=1)
            processed = chat._process_messages(self._convert_to_chat_completion_request(asked), True)
            if not (processed.image_data or processed.video_data or processed.audio_data):
                return answer
            body = getattr(raw_request, "_json", None)
            number = await count_with_media(chat.tokenizer_manager, processed, body if isinstance(body, dict) else {})
        except ValueError as error:
            return self._error_response(status_code=400, error_type="invalid_request_error", message=str(error))
        return type(answer)(content={"input_tokens": number})

    return count


# ---- registration

_WRAPPED: tuple[Wrapped, ...] = ((AnthropicServing, "handle_count_tokens", _handle_count_tokens),)
_MARK = "counts_nemotron_media"


def open_counting() -> None:
    """Puts ours around SGLang's method; may be repeated."""
    wrap_once(_WRAPPED, _MARK)


def counting_is_ours() -> str | None:
    """None if media are counted, else what does not count them."""
    unwrapped = first_unwrapped(_WRAPPED, _MARK)
    return unwrapped and f"{unwrapped} counts media as one token each"
