"""Media in the processes that answer HTTP: chats are rendered to ids, requests say how media are read, workers read.

Every other model passes through untouched: whether a server is ours is asked of its media processor.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from sglang_nemotron.host.hf_config_omni import omni_spec_of
from sglang_nemotron.host.history import results_show_media
from sglang_nemotron.host.media_pool import Pool
from sglang_nemotron.host.media_settings import MediaSettings, media_settings
from sglang_nemotron.host.media_shm import receive_inline, receive_shared
from sglang_nemotron.host.media_source import Fetched, fetch
from sglang_nemotron.host.media_spool import let_go, open_bodies
from sglang_nemotron.host.media_worker import Terms
from sglang_nemotron.host.names.http import GenerateReqInput, OpenAIServingChat, TokenizerManager
from sglang_nemotron.host.wrapping import Wrapped, first_unwrapped, wrap_once
from sglang_nemotron.prompt.cargo import MediaError
from sglang_nemotron.prompt.options import MediaOptions
from sglang_nemotron.prompt.parcel import HELD, OPTIONS, Order, Parcel, Service, drop
from sglang_nemotron.prompt.parts import with_slots
from sglang_nemotron.prompt.splice import check_counts
from sglang_nemotron.prompt.tags import StandIns, TagEncoder

# downloads and base64 of requests, beside the workers that read what they bring
_NUM_FETCHERS = 8
# fields of SGLang's request that may say how media are read, where there is no JSON body to look into
_FIELDS = ("mm_processor_kwargs", "video_config", "images_config")
_KINDS = (
    ("image_url", "image_data", "images"),
    ("video_url", "video_data", "videos"),
    ("audio_url", "audio_data", "audios"),
)


# ---- the workshop


class Workshop:
    """Fetches and measures items. stamp: begins the names of the files in between."""

    def __init__(self, settings: MediaSettings, pool: Pool, stamp: str) -> None:
        self._settings = settings
        self._pool = pool
        self._stamp = stamp
        self._fetchers = ThreadPoolExecutor(_NUM_FETCHERS, thread_name_prefix="nemotron-fetch")
        # what waits for a worker lies in memory
        self._held = asyncio.Semaphore(_NUM_FETCHERS + settings.workers)

    async def measure(self, order: Order, item: Any) -> list[Parcel]:
        gone = asyncio.Event()
        job = asyncio.ensure_future(self._measure(order, item, gone))
        try:
            # a client that goes away must not take a file from under a worker, nor leave one behind
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            gone.set()
            job.add_done_callback(_forget)
            raise

    async def _measure(self, order: Order, item: Any, gone: asyncio.Event) -> list[Parcel]:
        async with self._held:
            if gone.is_set():
                return []
            fetched = await asyncio.get_running_loop().run_in_executor(self._fetchers, self._fetch, order, item)
            try:
                return [] if gone.is_set() else await self._pool.measure(order, fetched.path)
            finally:
                fetched.drop()

    def _fetch(self, order: Order, item: Any) -> Fetched:
        settings = self._settings
        return fetch(
            item, name=order.name, max_file=settings.max_file, seconds=settings.fetch_seconds, stamp=self._stamp
        )

    def close(self) -> None:
        self._fetchers.shutdown(wait=False, cancel_futures=True)
        self._pool.close()


def _forget(job: asyncio.Task[list[Parcel]]) -> None:
    """For a result that nobody waits for any more; looking at an error keeps asyncio from logging it."""
    if not job.cancelled() and job.exception() is None:
        drop(job.result())


def _serve(manager: Any) -> None:
    """Gives the processor of a server its service; ValueError for a setting or a tokenizer that cannot be served."""
    processor = manager.mm_processor
    config = manager.model_config
    spec = omni_spec_of(config.hf_config)
    settings = media_settings(os.environ, spec.image)
    stamp = f"sgl_shm_mm_{os.getpid()}_"
    open_bodies(stamp)
    terms = Terms(
        spec=spec,
        bounds=settings.bounds,
        pixels=config.dtype,
        memory=settings.memory,
        max_file=settings.max_file,
        timeout=settings.timeout,
        stamp=stamp,
    )
    # where SGLang sends features inside messages, it unpacks no shared memory
    inline = processor.transport_mode == "default" or processor.skip_tokenizer_init
    receive = receive_inline if inline else receive_shared
    processor.nemotron_service = Service(
        spec=spec,
        encoder=TagEncoder(processor._tokenizer, spec.tokens),
        workshop=Workshop(settings, Pool(terms, settings.workers, receive), stamp),
        options=settings.options,
        limits=settings.bounds.video,
        context_length=manager.context_len,
        # SGLang refuses a prompt that fills the context, and counts a few reserved tokens in
        max_prompt=manager.context_len - manager.num_reserved_tokens - 1,
    )


def service_of(manager: Any) -> Service | None:
    """What a server of ours knows of media, or None for a server of another model."""
    return getattr(getattr(manager, "mm_processor", None), "nemotron_service", None)


def _init_processor(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        # our class has the field, empty so far; nothing of ours is imported where another model is served
        if hasattr(self.mm_processor, "nemotron_service"):
            _serve(self)
        return result

    return init


# ---- requests


def take_options(obj: Any, body: Mapping[str, Any], service: Service) -> None:
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
        service = service_of(self)
        if service is not None and isinstance(obj, GenerateReqInput) and obj.contains_mm_input():
            # the body is parsed and kept by the time a handler runs
            body = getattr(request, "_json", None)
            take_options(obj, body if isinstance(body, dict) else {}, service)
            nest_items(obj)
            held: list[Parcel] = []
            obj.mm_processor_kwargs = {**(obj.mm_processor_kwargs or {}), HELD: held}
            return _dropping(original(self, obj, request), held, request)
        return original(self, obj, request)

    return generate


async def _dropping(answers: Any, held: list[Parcel], request: Any) -> AsyncIterator[Any]:
    """The answers as they are; then what the request still holds is given back.

    A client that leaves is told to SGLang by an error, whose frames would keep media in shared memory until Python
    collects its garbage, on an idle server for long.
    """
    try:
        async with contextlib.aclosing(answers):
            async for answer in answers:
                yield answer
    except BaseException:
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


# ---- registration

_WRAPPED: tuple[Wrapped, ...] = (
    (TokenizerManager, "init_tokenizer_and_processor", _init_processor),
    (TokenizerManager, "generate_request", _generate_request),
    (TokenizerManager, "_validate_one_request", _validate_one_request),
    (OpenAIServingChat, "_process_messages", _process_messages),
    (OpenAIServingChat, "_render_and_encode_chat_template", _render),
    (OpenAIServingChat, "_engine_prompt", _engine_prompt),
)
_MARK = "reads_nemotron_media"


def open_media() -> None:
    """Puts ours around SGLang's methods; may be repeated."""
    wrap_once(_WRAPPED, _MARK)


def media_is_ours() -> str | None:
    """None if media pass through ours, else what does not."""
    unwrapped = first_unwrapped(_WRAPPED, _MARK)
    return unwrapped and f"{unwrapped} does not show media to us"
