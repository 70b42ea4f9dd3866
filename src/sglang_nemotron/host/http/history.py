"""Chats rendered for our models: SGLang's requests go in on every endpoint, prompts come out that are what the
checkpoint's chat template makes of them.

The rules are in `prompt/`: `history` and `parts` for messages, `messages_api` for /v1/messages, `wishes` for what a
body says in fields that SGLang drops. Other models pass through untouched, and so do raw prompts.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import jinja2

from sglang_nemotron.host.counts import refused, refusing
from sglang_nemotron.host.door import Door
from sglang_nemotron.host.http.chat_body import SERVER
from sglang_nemotron.host.reply_flags import serves_ours
from sglang_nemotron.prompt.call_arguments import read_arguments
from sglang_nemotron.prompt.history import History, Message, read_history
from sglang_nemotron.prompt.messages_api import begins_reply, read_body
from sglang_nemotron.prompt.parts import Render, roles_with_lists, shows_media_in_results, without_lists
from sglang_nemotron.prompt.wishes import PATHS, read_wishes
from sglang_nemotron.sglang_api.wrapping import Wrap

logger = logging.getLogger(__name__)

# what a template raises for messages that it does not take
_TEMPLATE_ERRORS = (jinja2.TemplateError, TypeError, LookupError, AttributeError)
_MEDIA = ("image", "video", "audio")
_RENDERED = ("request", "tools", "is_multimodal")
# what a part of an item of /v1/responses may be, by its name in a chat
_PARTS = ("text", "image_url", "video_url", "audio_url", "input_audio")


# ---- every chat


def _apply_jinja_template(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def apply(self: Any, request: Any, tools: list[dict[str, Any]] | None, is_multimodal: bool) -> Any:
        if not serves_ours(self.tokenizer_manager):
            return original(self, request, tools, is_multimodal)
        with refusing("messages"):
            return _rendered(self, request, tools, is_multimodal)

    return apply


def _rendered(serving: Any, request: Any, tools: list[dict[str, Any]] | None, is_multimodal: bool) -> Any:
    from sglang_nemotron.sglang_api.http import MessageProcessingResult

    options = _template_options(serving, request)
    _check_own_template(serving, options.get("chat_template"))
    go_on = bool(options.pop("continue_final_message", False)) or request.continue_final_message
    history = read_history(
        [message.model_dump() for message in request.messages],
        go_on=go_on,
        later_instructions=getattr(serving, "supports_inline_system", True),
    )
    _tell_broken(history.notes)
    media: dict[str, list[Any]] = {name: [] for name in (*_MEDIA, "modalities")}
    messages = _with_media_apart(history.messages, media)
    if not is_multimodal and any(media[name] for name in _MEDIA):
        kinds = ", ".join(name for name in _MEDIA if media[name])
        raise ValueError(f"this model reads text only; the messages have parts of the kind {kinds}")
    tokenizer = serving.tokenizer_manager.tokenizer
    lists = _lists_of(tokenizer, options.get("chat_template"))
    shown = History(without_lists(messages, lists, media=is_multimodal), history.continued)
    ids, text = _encoded(serving, request, shown, tools, options, is_multimodal)
    if is_multimodal and text is None:
        text = tokenizer.decode(ids)
    return MessageProcessingResult(
        prompt=text or "" if is_multimodal else "",
        prompt_ids=ids,
        image_data=media["image"] or None,
        video_data=media["video"] or None,
        audio_data=media["audio"] or None,
        modalities=media["modalities"],
        stop=request.stop,
    )


def _tell_broken(notes: list[str]) -> None:
    if notes:
        logger.warning("broken tool calls in a history: %s", "; ".join(notes))


def _template_options(serving: Any, request: Any) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if request.reasoning_effort is not None:
        options["reasoning_effort"] = request.reasoning_effort
    options |= request.chat_template_kwargs or {}
    found = serving.template_manager.reasoning_config
    # a template that knows little effort and no other, by a name of its own
    if found is not None and found.effort_kwarg is not None and request.reasoning_effort == "low":
        options.setdefault(found.effort_kwarg, True)
    return options


def _check_own_template(serving: Any, template: Any) -> None:
    """ValueError for a request's own template where the operator allows none: it is a program.

    SGLang asks this of chats, and not of what /v1/responses makes of a request.
    """
    from sglang_nemotron.sglang_api.http import get_serving

    if template is None or template == serving.default_chat_template_kwargs.get("chat_template"):
        return
    if not get_serving().trust_request_chat_template:
        raise ValueError(
            "chat_template_kwargs has a chat_template, which this server takes from its operator alone; leave it out, "
            "or start the server with --trust-request-chat-template"
        )


def _with_media_apart(messages: list[Message], media: dict[str, list[Any]]) -> list[Message]:
    """The messages with media as bare parts; what they are made of goes into the lists, as SGLang passes it on."""
    from sglang_nemotron.sglang_api.http import process_content_for_template_format

    images, videos, sounds, others = (media[name] for name in (*_MEDIA, "modalities"))
    return [
        process_content_for_template_format(message, "openai", images, videos, sounds, others) for message in messages
    ]


def _encoded(
    serving: Any,
    request: Any,
    history: History,
    tools: list[dict[str, Any]] | None,
    options: dict[str, Any],
    is_multimodal: bool,
) -> tuple[list[int], str | None]:
    special = request._format_add_special_tokens
    # asked for what it is used to: a tokenizer that adds nothing by itself need not be told so
    encode = {"add_special_tokens": special} if serving._tokenizer_auto_adds_specials or special else {}
    open_turn = request._format_add_generation_prompt is not False and not history.continued
    if history.continued:
        options = {**options, "continue_final_message": True}
    # some templates want a tool without the wrapper that the API has around it
    bare = [tool.get("function", tool) for tool in tools] if tools else None
    refusal: Exception | None = None
    for shown in [tools, bare] if bare else [tools]:
        try:
            return serving._render_and_encode_chat_template(
                history.messages,
                tools=shown,
                template_kwargs=options,
                encode_kwargs=encode,
                use_cache=is_multimodal,
                add_generation_prompt=open_turn,
            )
        except (*_TEMPLATE_ERRORS, ValueError) as error:
            refusal = error
    raise ValueError(str(refusal)) from refusal


@functools.lru_cache(maxsize=16)
def _lists_of(tokenizer: Any, template: str | None) -> frozenset[str]:
    return roles_with_lists(_renderer(tokenizer, template))


@functools.lru_cache(maxsize=16)
def results_show_media(tokenizer: Any, template: str | None, slot: str) -> bool:
    """Whether a template places media in the results of tools by itself. slot: the tag of an image."""
    return shows_media_in_results(_renderer(tokenizer, template), slot)


def _renderer(tokenizer: Any, template: str | None) -> Render:
    """Messages -> prompt, with a template of a request's own or the tokenizer's; ValueError where it refuses."""

    def render(messages: list[Message]) -> str:
        try:
            return tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
        except _TEMPLATE_ERRORS as error:
            raise ValueError(str(error)) from error

    return render


def _keeps_thoughts(original: Callable[..., Any]) -> Callable[..., Any]:
    # of /v1/messages: our template has a place for thoughts, and need not find them in the content
    @functools.wraps(original)
    def keeps(self: Any) -> bool:
        return serves_ours(self.tokenizer_manager) or original(self)

    return keeps


# ---- /v1/responses


def _construct_input_messages(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def construct(self: Any, request: Any, prev_response: Any = None, *, tool_adapter: Any = None) -> Any:
        if not serves_ours(self.tokenizer_manager) or tool_adapter is not None:
            return original(self, request, prev_response, tool_adapter=tool_adapter)
        items = [_plain(item) for item in self._response_input_history(request)]
        notes: list[str] = []
        with refusing("messages"):
            messages = [_message_of(self, item, f"input[{number}]", notes) for number, item in enumerate(items)]
        _tell_broken(notes)
        if request.instructions:
            messages.insert(0, {"role": "system", "content": request.instructions})
        return self._merge_consecutive_assistant_messages([message for message in messages if message is not None])

    return construct


def _make_request(original: Callable[..., Any]) -> Callable[..., Any]:
    # any other error than this one gets its cause behind it, "None" where it has none, and a traceback in the log
    @functools.wraps(original)
    async def make(self: Any, *args: Any, **kwargs: Any) -> Any:
        from sglang_nemotron.sglang_api.http import ResponsesError

        try:
            return await original(self, *args, **kwargs)
        except ValueError as error:
            if not serves_ours(self.tokenizer_manager):
                raise
            raise ResponsesError(str(error)) from error

    return make


def _plain(item: Any) -> Any:
    return item.model_dump(exclude_none=True) if hasattr(item, "model_dump") else item


def _message_of(serving: Any, item: Any, where: str, notes: list[str]) -> Any:
    """The chat message of an item, or None. SGLang's reading, but for what it loses."""
    if not isinstance(item, dict):
        return item
    kind = item.get("type")
    if kind == "function_call":
        arguments, note = read_arguments(item.get("arguments"), f"{where} calls {item.get('name')!r}")
        if note:
            notes.append(note)
        return serving._chat_tool_call_message(item, item.get("name"), arguments)
    if kind in ("function_call_output", "custom_tool_call_output") and isinstance(item.get("output"), list):
        parts = [_part_of(serving, part, where) for part in item["output"]]
        return {"role": "tool", "tool_call_id": item.get("call_id"), "content": parts}
    if item.get("role") == "developer":
        item = {**item, "role": "system"}
    # thoughts have parts of their own, which SGLang reads
    if kind in (None, "message") and isinstance(item.get("content"), list):
        item = {**item, "content": [_part_of(serving, part, where) for part in item["content"]]}
    message = serving._normalize_response_message_for_chat(item, tool_call_parser=serving.tool_call_parser)
    if message is None and item.get("encrypted_content"):
        logger.warning("%s is left out: its thoughts are encrypted, and not by this server", where)
    return message


def _part_of(serving: Any, part: Any, where: str) -> Any:
    """A part as a chat has it; ValueError, naming the item, for one that a chat has no place for."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    part = _plain(part)
    if isinstance(part, dict) and part.get("type") == "refusal":
        return {"type": "text", "text": part.get("refusal") or ""}
    part = serving._normalize_response_content_part_for_chat(part)
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in _PARTS:
        raise ValueError(f"{where} has a part of type {kind!r}; allowed: input_text, input_image, input_audio")
    if kind == "image_url" and not part["image_url"].get("url"):
        raise ValueError(f"{where} has an input_image without image_url, which holds a URL or a data URI")
    return part


# ---- /v1/messages, and its count_tokens


def _convert(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def convert(self: Any, anthropic_request: Any) -> Any:
        if not serves_ours(self.openai_serving_chat.tokenizer_manager):
            return original(self, anthropic_request)
        with refusing("messages"):
            body, notes = read_body(anthropic_request.model_dump(exclude_unset=True, by_alias=True))
        go_on = begins_reply(body)
        for note in notes:
            logger.warning("/v1/messages: %s", note)
        chat = original(self, type(anthropic_request).model_validate(body))
        chat.continue_final_message = go_on
        if (body.get("thinking") or {}).get("type") == "disabled":
            # SGLang does this where the server has a reasoning parser alone
            chat.chat_template_kwargs = {**(chat.chat_template_kwargs or {}), "enable_thinking": False}
        return chat

    return convert


# ---- bodies

# whether this process answers for a model of ours; until it knows its model, it answers nothing
_answers_ours = False


def _then_look(original: Callable[..., Any]) -> Callable[..., Any]:
    # the first moment at which a process that answers HTTP knows its model
    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> Any:
        global _answers_ours
        result = original(self, *args, **kwargs)
        _answers_ours = serves_ours(self)
        return result

    return init


_READ = "nemotron_wishes_are_read"


def _read_body(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def read(self: Any) -> Any:
        if not _answers_ours or getattr(self, _READ, False) or not self.url.path.endswith(PATHS):
            return await original(self)
        from fastapi import HTTPException

        value = await original(self)
        try:
            if isinstance(value, dict):
                _tell_broken(read_wishes(self.url.path, value))
        except ValueError as error:
            refused(error, "body")
            # SGLang makes its usual answer of it; any other error here would lose its text
            raise HTTPException(400, str(error)) from error
        setattr(self, _READ, True)
        return value

    return read


_CHAT = "sglang.srt.entrypoints.openai.serving_chat"
_RESPONSES = "sglang.srt.entrypoints.openai.serving_responses"
_MESSAGES = "sglang.srt.entrypoints.anthropic.serving"
_MANAGER = "sglang.srt.managers.tokenizer_manager"

HISTORIES = Door(
    "histories",
    "http",
    "chats rendered as the chat template has it",
    needs=(_CHAT, _MANAGER, SERVER),
    wraps=(
        Wrap(_CHAT, "OpenAIServingChat", "_apply_jinja_template", _apply_jinja_template, takes=_RENDERED),
        Wrap(_CHAT, "OpenAIServingChat", "supports_native_reasoning_history", _keeps_thoughts),
        Wrap(
            _RESPONSES,
            "OpenAIServingResponses",
            "_construct_input_messages",
            _construct_input_messages,
            takes=("request", "prev_response"),
        ),
        Wrap(_RESPONSES, "OpenAIServingResponses", "_make_request", _make_request),
        Wrap(
            _MESSAGES,
            "AnthropicServing",
            "_convert_to_chat_completion_request",
            _convert,
            takes=("anthropic_request",),
        ),
        Wrap(_MANAGER, "TokenizerManager", "init_tokenizer_and_processor", _then_look),
        Wrap(SERVER, "ORJSONRequest", "json", _read_body),
    ),
    without="does not render histories our way",
)
