"""Chats rendered through SGLang's own code with our hooks in place: where media lie, and what typed tags become."""

from __future__ import annotations

import base64
import importlib
import json
from types import SimpleNamespace
from typing import Any

import pytest
from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest
from sglang.srt.managers.io_struct import GenerateReqInput
from transformers import PreTrainedTokenizerFast

from sglang_nemotron.checkpoint.template import chat_template
from sglang_nemotron.checkpoint.tokenizer import build_tokenizer
from sglang_nemotron.host import packages
from sglang_nemotron.host.http import chat_body, history, media
from sglang_nemotron.prompt.options import MediaLimits, MediaOptions
from sglang_nemotron.prompt.splice import VIDEO_SLOT
from sglang_nemotron.prompt.tags import TagEncoder
from sglang_nemotron.reader.service import OPTIONS, MediaService
from support.chat_endpoint import endpoint
from support.published import SPEC

TOKENS = SPEC.tokens
MEDIA = {18, 19, 20, 27, 28, 29, VIDEO_SLOT}
PIXEL = "data:image/png;base64," + base64.b64encode(b"a file").decode()
# media before text, unless the text has slots; switches of thinking are stripped: as the published template does
TEMPLATE = """{%- for message in messages -%}
{{- "<|im_start|>" ~ message.role ~ "\n" -}}
{%- if message.content is string -%}{{- message.content -}}
{%- else -%}
{%- set found = namespace(text="") -%}
{%- for part in message.content if part.type == "text" -%}
{%- set found.text = found.text ~ part.text -%}
{%- endfor -%}
{%- for part in message.content if part.type != "text" -%}
{%- set slot = {"image": "<image>", "video": "<video>", "audio": "<so_embedding>"}[part.type] -%}
{%- if slot not in found.text -%}{{- slot ~ "\n" -}}{%- endif -%}
{%- endfor -%}
{{- found.text.replace("/no_think", "") -}}
{%- endif -%}
{%- for call in message.tool_calls or [] -%}{{- call.function.arguments | tojson -}}{%- endfor -%}
{{- "<|im_end|>\n" -}}
{%- endfor -%}
{%- for tool in tools or [] -%}
{%- for key, value in tool.function.parameters.items() -%}{{- "<" ~ key ~ ">" ~ value -}}{%- endfor -%}
{%- endfor -%}
{{- "<|im_start|>assistant\n" -}}"""


class Manager(SimpleNamespace):
    """What the hooks read of SGLang's tokenizer manager."""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    made = PreTrainedTokenizerFast(tokenizer_object=build_tokenizer(1400))
    made.chat_template = TEMPLATE
    return made


@pytest.fixture(scope="module")
def manager(tokenizer: Any) -> Manager:
    service = MediaService(
        spec=SimpleNamespace(tokens=TOKENS),  # type: ignore[arg-type]
        encoder=TagEncoder(tokenizer, TOKENS),
        reader=SimpleNamespace(),  # type: ignore[arg-type]
        options=MediaOptions(),
        limits=MediaLimits(),
        context_length=4096,
        max_prompt=4095,
    )
    processor = SimpleNamespace(nemotron_service=service)
    return Manager(tokenizer=tokenizer, mm_processor=processor, nemotron_replies_are_ours=True)


@pytest.fixture(scope="module")
def serving(manager: Manager) -> Any:
    # as in a server: the second decides what the first renders
    importlib.import_module(chat_body.SERVER)
    # a process that has SGLang's models has a use for media
    importlib.import_module(packages.REGISTRY)
    media.MEDIA.open()
    history.HISTORIES.open()
    assert media.MEDIA.is_ours() is None and history.HISTORIES.is_ours() is None
    return endpoint(manager)


def _ids(serving: Any, content: Any, **more: Any) -> list[int]:
    messages = content if isinstance(content, list) and content and "role" in content[0] else None
    request = ChatCompletionRequest(model="m", messages=messages or [{"role": "user", "content": content}], **more)
    result = serving._apply_jinja_template(request, [t.model_dump() for t in request.tools or []] or None, True)
    name, ids = serving._engine_prompt(result, True)
    assert name == "input_ids"
    return ids


@pytest.fixture
def sglangs(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is rendered is what SGLang makes of a chat."""
    monkeypatch.setattr(manager, "nemotron_replies_are_ours", False)


def _part(kind: str) -> dict[str, Any]:
    return {"type": kind, kind: {"url": PIXEL}}


def _slots(ids: list[int]) -> list[int]:
    return [token for token in ids if token in MEDIA]


def test_media_lie_where_the_template_puts_them(serving: Any) -> None:
    parts = [_part("video_url"), {"type": "text", "text": "what"}, _part("image_url"), _part("audio_url")]
    assert _slots(_ids(serving, parts)) == [VIDEO_SLOT, 18, 27]


@pytest.mark.parametrize("tag", ["<image>", "<video>", "<so_embedding>", "<img>", "</img>", "<so_start>", "<so_end>"])
def test_typed_tags_claim_nothing_wherever_they_stand(serving: Any, tokenizer: Any, tag: str) -> None:
    image, text = _part("image_url"), f"a {tag} b"
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": json.dumps({"x": text})}}
    messages = [
        {"role": "system", "content": text},
        {"role": "user", "content": [{"type": "text", "text": text}, image]},
        {"role": "assistant", "content": text, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": text}]},
        {"role": "user", "content": text},
    ]
    ids = _ids(serving, messages)
    assert _slots(ids) == [18]
    # the one slot stands where it stands without the tags
    before = tokenizer.encode(f"<|im_start|>system\n{'a '}", add_special_tokens=False)
    assert ids[: len(before) - 1] == before[:-1]
    plain = serving.tokenizer_manager.mm_processor.nemotron_service.encoder._plain
    shown = plain.decode(ids, skip_special_tokens=False)
    assert shown.count(tag) == 6


def test_parts_that_meet_in_the_template_claim_nothing(serving: Any) -> None:
    image = _part("image_url")
    for texts in (["<ima", "ge>"], ["<ima/no_thinkge>"]):
        parts = [{"type": "text", "text": text} for text in texts]
        ids = _ids(serving, [image, *parts])
        # and the template's own place is not given up for them
        assert _slots(ids) == [18]
        assert ids.index(18) < 10


def test_a_tools_schema_claims_nothing(serving: Any) -> None:
    parameters = {"image": "x", "type": "object", "description": "<image>"}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    assert _slots(_ids(serving, "hello", tools=tools)) == []


def test_a_text_chat_is_what_the_tokenizer_makes_of_it(serving: Any, tokenizer: Any) -> None:
    text = "if a < b and <b>c</b> then <think>x</think>"
    rendered = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    assert _ids(serving, text) == tokenizer.encode(rendered, add_special_tokens=False)


def test_a_continued_message_claims_nothing(serving: Any) -> None:
    messages = [{"role": "user", "content": "draw"}, {"role": "assistant", "content": "here <image>"}]
    assert _slots(_ids(serving, messages, continue_final_message=True)) == []


def test_media_of_a_tool_lie_where_the_template_puts_them(serving: Any) -> None:
    parts = [{"type": "text", "text": "a <image> b"}, _part("image_url"), _part("video_url")]
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": ""}}
    messages = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": parts},
    ]
    assert _slots(_ids(serving, messages)) == [18, VIDEO_SLOT]


@pytest.mark.parametrize("kind", ["media-first", "in-order"])
def test_media_of_a_tool_lie_in_its_turn_where_the_template_takes_none(
    serving: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", chat_template(kind))
    # what was asked of the fixture's template is no answer of this one
    history.results_show_media.cache_clear()
    history._lists_of.cache_clear()
    text = {"type": "text", "text": "a <image> b"}
    calls = [{"id": one, "type": "function", "function": {"name": "f", "arguments": ""}} for one in "12"]
    results = [
        {"role": "tool", "tool_call_id": "2", "content": [_part("audio_url")]},
        {"role": "tool", "tool_call_id": "1", "content": [text, _part("image_url"), _part("video_url")]},
    ]
    messages = [
        {"role": "user", "content": [_part("image_url"), text]},
        {"role": "assistant", "content": "", "tool_calls": calls},
        *results,
    ]
    ids = _ids(serving, messages)
    # the results stand in the order of their calls
    assert _slots(ids) == [18, 18, VIDEO_SLOT, 27]
    plain = serving.tokenizer_manager.mm_processor.nemotron_service.encoder._plain
    shown = plain.decode([token for token in ids if token not in MEDIA], skip_special_tokens=False)
    assert "<tool_response>\na <image> b\n\n\n</tool_response>\n<tool_response>\n\n</tool_response>" in shown
    history.results_show_media.cache_clear()
    history._lists_of.cache_clear()


def test_media_come_in_the_order_of_their_places(serving: Any) -> None:
    def image(name: str) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": f"data:,{name}"}}

    calls = [{"id": one, "type": "function", "function": {"name": "f", "arguments": ""}} for one in "12"]
    messages = [
        {"role": "user", "content": [image("a")]},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "2", "content": [image("c")]},
        {"role": "tool", "tool_call_id": "1", "content": [image("b")]},
    ]
    request = ChatCompletionRequest(model="m", messages=messages)
    found = serving._apply_jinja_template(request, None, True).image_data
    assert [one.url for one in found] == ["data:,a", "data:,b", "data:,c"]


def test_other_models_pass_through(
    serving: Any, manager: Manager, tokenizer: Any, sglangs: None, monkeypatch: Any
) -> None:
    monkeypatch.setattr(manager, "mm_processor", None)
    request = ChatCompletionRequest(model="m", messages=[{"role": "user", "content": "a <image> b"}])
    result = serving._apply_jinja_template(request, None, True)
    assert 18 in result.prompt_ids
    assert serving._engine_prompt(result, True) == ("text", result.prompt)


def test_media_that_a_template_drops_are_refused(serving: Any, sglangs: None, monkeypatch: Any) -> None:
    monkeypatch.setattr(serving.template_manager, "jinja_template_content_format", "string")
    request = ChatCompletionRequest(model="m", messages=[{"role": "user", "content": [_part("image_url")]}])
    result = serving._apply_jinja_template(request, None, True)
    with pytest.raises(ValueError, match="images: 1 came, but the server's chat template"):
        media._check_template(serving, request, result)


def test_slots_without_media_are_refused(manager: Manager) -> None:
    validate = media._validate_one_request(lambda self, obj, ids: "valid")
    assert validate(manager, GenerateReqInput(input_ids=[1, 2]), [1, 2]) == "valid"
    with pytest.raises(ValueError, match="images: the prompt has 2 places for them, but 0 came"):
        validate(manager, GenerateReqInput(input_ids=[18, 18]), [18, 18])
    assert validate(Manager(mm_processor=None), GenerateReqInput(input_ids=[18]), [18]) == "valid"


@pytest.mark.parametrize(
    "body",
    [
        {"mm_processor_kwargs": {"fps": 1, "video_pruning_rate": 0.5}},
        {"video_config": {"fps": 1}, "video_pruning_rate": 0.5},
        {"media_io_kwargs": {"video": {"fps": 1}}, "mm_processor_kwargs": {"video_pruning_rate": 0.5}},
    ],
)
def test_options_of_a_request_reach_every_copy_of_it(manager: Manager, body: dict[str, Any]) -> None:
    service = manager.mm_processor.nemotron_service
    known = {name: value for name, value in body.items() if name in ("mm_processor_kwargs", "video_config")}
    obj = GenerateReqInput(input_ids=[VIDEO_SLOT], video_data=["x"], sampling_params={"n": 2}, **known)
    media.take_options(obj, body, service)
    obj.normalize_batch_and_arguments()
    for copy in (obj, obj[0]):
        options = MediaOptions(**copy.mm_processor_kwargs[OPTIONS])
        assert (options.fps, options.pruning_rate, options.max_frames) == (1.0, 0.5, 128)


def test_options_without_a_body_come_from_the_request(manager: Manager) -> None:
    obj = GenerateReqInput(input_ids=[1], video_data=["x"], use_audio_in_video=True, video_config={"fps": 4})
    media.take_options(obj, {}, manager.mm_processor.nemotron_service)
    options = MediaOptions(**obj.mm_processor_kwargs[OPTIONS])
    assert options.audio_in_video and options.fps == 4.0


def test_a_client_cannot_write_our_options(manager: Manager) -> None:
    forged = {"mm_processor_kwargs": {OPTIONS: {"max_frames": 10**9}}}
    obj = GenerateReqInput(input_ids=[1], video_data=["x"], **forged)
    media.take_options(obj, forged, manager.mm_processor.nemotron_service)
    assert MediaOptions(**obj.mm_processor_kwargs[OPTIONS]) == MediaOptions()


@pytest.mark.parametrize("body", [{"mm_processor_kwargs": {"fps": -3}}, {"mm_processor_kwargs": {"fpss": 3}}])
def test_options_that_mean_nothing_are_refused(manager: Manager, body: dict[str, Any]) -> None:
    obj = GenerateReqInput(input_ids=[1], video_data=["x"])
    with pytest.raises(ValueError, match="mm_processor_kwargs.fps"):
        media.take_options(obj, body, manager.mm_processor.nemotron_service)
