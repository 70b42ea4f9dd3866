"""Media in the processes that answer HTTP: chats are rendered to ids, requests say how media are read, workers read.

Every other model passes through untouched: whether a server is ours is asked of its media processor.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict
from typing import Any

from sglang_nemotron.host.counts import refused, refusing
from sglang_nemotron.host.door import Door
from sglang_nemotron.host.http.body_spool import let_go
from sglang_nemotron.host.http.history import results_show_media
from sglang_nemotron.host.packages import wants_media
from sglang_nemotron.media.features import MediaFeatures, drop
from sglang_nemotron.prompt.errors import MediaError
from sglang_nemotron.prompt.options import MediaOptions
from sglang_nemotron.prompt.parts import with_slots
from sglang_nemotron.prompt.splice import check_counts
from sglang_nemotron.prompt.tags import StandIns
from sglang_nemotron.reader.service import HELD, OPTIONS, MediaService
from sglang_nemotron.sglang_api.wrapping import Wrap

# fields of SGLang's request that may say how media are read, where there is no JSON body to look into
_FIELDS = ("mm_processor_kwargs", "video_config", "images_config")
_KINDS = (
    ("image_url", "image_data", "images"),
    ("video_url", "video_data", "videos"),
    ("audio_url", "audio_data", "audios"),
)


def service_of(manager: Any) -> MediaService | None:
    """What a server of ours knows of media, or None for a server of another model."""
    return getattr(getattr(manager, "mm_processor", None), "nemotron_service", None)


def _init_processor(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        # our class has the field, empty so far; nothing of ours is imported where another model is served
        if hasattr(self.mm_processor, "nemotron_service"):
            from sglang_nemotron.host.http.media_reader import serve

            serve(self)
        return result

    return init


# ---- requests


def take_options(obj: Any, body: Mapping[str, Any], service: MediaService) -> None:
    """Leaves what a request asks of its media where our processor finds it, on every copy that SGLang makes of it.

    `obj` is SGLang's GenerateReqInput, changed in place. ValueError for an option that is unknown or out of range.
    """
    asked: Mapping[str, Any] = body
    if not body:
        asked = {name: getattr(obj, name) for name in _FIELDS}
        if obj.use_audio_in_video:
            asked = {**asked, "use_audio_in_video": True}
    options = MediaOptions.from_request(_without_ours(asked), service.options, service.limits)
    obj.mm_processor_kwargs = {**(obj.mm_processor_kwargs or {}), OPTIONS: asdict(options)}


def _without_ours(asked: Mapping[str, Any]) -> Mapping[str, Any]:
    kwargs = asked.get("mm_processor_kwargs")
    if not isinstance(kwargs, dict) or OPTIONS not in kwargs:
        return asked
    return {**asked, "mm_processor_kwargs": {key: value for key, value in kwargs.items() if key != OPTIONS}}


def nest_items(obj: Any) -> None:
    """Keeps the items of one prompt together where SGLang makes several requests of it (n > 1), in place.

    It takes the lists for one item per prompt: it refuses two images, and loses all videos and audios but the first.
    """
    prompt = obj.text if obj.text is not None else obj.input_ids
    single = isinstance(prompt, str) or (isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], int))
    params = obj.sampling_params
    # sequences of a beam search are one request
    if not single or not isinstance(params, dict) or (params.get("beam_width") or 1) > 1 or params.get("n", 1) == 1:
        return
    for _, field, _ in _KINDS:
        items = getattr(obj, field)
        if isinstance(items, list) and items and not isinstance(items[0], list):
            setattr(obj, field, [items])


def _generate_request(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def generate(self: Any, obj: Any, request: Any = None) -> Any:
        from sglang_nemotron.sglang_api.http import GenerateReqInput

        service = service_of(self)
        if service is not None and isinstance(obj, GenerateReqInput) and obj.contains_mm_input():
            # the body is parsed and kept by the time a handler runs
            body = getattr(request, "_json", None)
            with refusing("media_options"):
                take_options(obj, body if isinstance(body, dict) else {}, service)
            nest_items(obj)
            held: list[MediaFeatures] = []
            obj.mm_processor_kwargs = {**(obj.mm_processor_kwargs or {}), HELD: held}
            return _dropping(original(self, obj, request), held, request)
        return original(self, obj, request)

    return generate


async def _dropping(answers: Any, held: list[MediaFeatures], request: Any) -> AsyncIterator[Any]:
    """The answers as they are; then what the request still holds is given back.

    A client that leaves is told to SGLang by an error, whose frames would keep media in shared memory until Python
    collects its garbage, on an idle server for long.
    """
    try:
        async with contextlib.aclosing(answers):
            async for answer in answers:
                yield answer
    except BaseException as error:
        if isinstance(error, MediaError):
            refused(error, "media")
        let_go(request)
        raise
    finally:
        drop(held)


def _validate_one_request(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def validate(self: Any, obj: Any, input_ids: Any) -> Any:
        service = service_of(self)
        # with media, the processor has counted
        if service is not None and input_ids is not None and not obj.contains_mm_input():
            with refusing("media"):
                check_counts(input_ids, service.encoder.slots, {})
        return original(self, obj, input_ids)

    return validate


# ---- chats


def _render(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def render(
        self: Any,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None,
        template_kwargs: dict[str, Any],
        encode_kwargs: dict[str, Any],
        use_cache: bool,
        add_generation_prompt: bool = True,
    ) -> tuple[list[int], str | None]:
        service = service_of(self.tokenizer_manager)
        if service is None:
            return original(
                self,
                messages,
                tools=tools,
                template_kwargs=template_kwargs,
                encode_kwargs=encode_kwargs,
                use_cache=use_cache,
                add_generation_prompt=add_generation_prompt,
            )
        tokenizer, encoder = self.tokenizer_manager.tokenizer, service.encoder
        # a request's own template, where the server allows one, is a template and no text
        options = {name: value for name, value in template_kwargs.items() if name != "chat_template"}
        own = {name: value for name, value in template_kwargs.items() if name == "chat_template"}
        typed = StandIns(encoder.tags, messages, tools, options)
        shown = typed.put(messages)
        if not results_show_media(tokenizer, template_kwargs.get("chat_template"), service.spec.tokens.image):
            shown = with_slots(shown, encoder.slot_tags)
        rendered = tokenizer.apply_chat_template(
            shown,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            tools=typed.put(tools, names=True),
            return_dict=False,
            **typed.put(options),
            **own,
        )
        specials = list(tokenizer.encode("")) if encode_kwargs.get("add_special_tokens") else []
        # SGLang asks for the text only to decode what we give it in ids
        return specials + encoder.encode(rendered, typed), typed.restore(rendered)

    return render


def _engine_prompt(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def engine_prompt(self: Any, processed_messages: Any, is_multimodal: bool) -> tuple[str, Any]:
        ids = processed_messages.prompt_ids
        if service_of(self.tokenizer_manager) is None or not isinstance(ids, list) or not ids:
            return original(self, processed_messages, is_multimodal)
        return "input_ids", ids

    return engine_prompt


def _process_messages(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def process(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, request, *args, **kwargs)
        if service_of(self.tokenizer_manager) is not None and request.input_ids is None:
            with refusing("media"):
                _check_template(self, request, result)
        return result

    return process


def _check_template(serving: Any, request: Any, result: Any) -> None:
    """MediaError for media that the way a server renders its chats would drop, or place by text."""
    named = serving.template_manager.chat_template_name
    sent = [
        getattr(part, "type", None)
        for message in request.messages
        if isinstance(content := getattr(message, "content", None), list)
        for part in content
    ]
    for kind, field, noun in _KINDS:
        number = sent.count(kind)
        if number and (named is not None or number != len(getattr(result, field) or ())):
            problem = (
                f"{number} came, but the server's chat template ({named or 'a text template'}) has no place for them"
            )
            raise MediaError(noun, problem, "the operator can pass --chat-template with the checkpoint's own file")


_MANAGER = "sglang.srt.managers.tokenizer_manager"
_CHAT = "sglang.srt.entrypoints.openai.serving_chat"

_RENDERS = ("messages", "tools", "template_kwargs", "encode_kwargs", "use_cache", "add_generation_prompt")

MEDIA = Door(
    "media",
    "http",
    "images, video and sound of requests",
    needs=(_MANAGER, _CHAT),
    wraps=(
        Wrap(_MANAGER, "TokenizerManager", "init_tokenizer_and_processor", _init_processor),
        Wrap(_MANAGER, "TokenizerManager", "generate_request", _generate_request, takes=("obj", "request")),
        Wrap(_MANAGER, "TokenizerManager", "_validate_one_request", _validate_one_request, takes=("obj", "input_ids")),
        Wrap(_CHAT, "OpenAIServingChat", "_process_messages", _process_messages, takes=("request",)),
        Wrap(_CHAT, "OpenAIServingChat", "_render_and_encode_chat_template", _render, takes=_RENDERS),
        Wrap(
            _CHAT, "OpenAIServingChat", "_engine_prompt", _engine_prompt, takes=("processed_messages", "is_multimodal")
        ),
    ),
    without="does not show media to us",
    wanted=wants_media,
)
