"""The Omni chat template: where media go, what switches thinking, and that the text template knows nothing of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import pytest
from transformers import PreTrainedTokenizerFast

from sglang_nemotron.checkpoint.spec import OMNI_PRESETS
from sglang_nemotron.checkpoint.template import chat_template
from sglang_nemotron.checkpoint.tokenizer import tokenizer_files


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    for name, text in tokenizer_files(OMNI_PRESETS["toy"].vocab_size, 4096).items():
        (folder / name).write_text(text)
    return PreTrainedTokenizerFast.from_pretrained(folder)


@pytest.fixture(scope="module")
def render(tokenizer):
    def call(messages: list[dict[str, Any]], kind: str = "media-first", **options: Any) -> str:
        return tokenizer.apply_chat_template(
            messages, tokenize=False, chat_template=chat_template(kind), **{"add_generation_prompt": True, **options}
        )

    return call


def user(*parts: str) -> dict[str, Any]:
    """A message whose parts are media if one word names them, text otherwise."""
    kinds = {"image", "image_url", "video", "video_url", "audio", "audio_url", "input_audio"}
    content = [{"type": part} if part in kinds else {"type": "text", "text": part} for part in parts]
    return {"role": "user", "content": content}


def turn(text: str) -> str:
    """The first user turn of a rendered prompt."""
    return text.split("<|im_start|>user\n")[1].split("<|im_end|>")[0]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("image", "what?"), "<image>\nwhat?"),
        (("what?", "image_url"), "<image>\nwhat?"),
        (("image", "or ", "image", "this", "image"), "<image 1><image> <image 2><image> <image 3><image>\nor this"),
        (("video", "video_url", "what?"), "<video>\n<video>\nwhat?"),
        (("audio", "what?"), "<so_embedding>\nwhat?"),
        (("input_audio", "audio_url"), "<so_embedding>\n<so_embedding>"),
        (
            ("audio", "a ", "video", "b ", "image", "\n c ", "image"),
            "<image 1><image> <image 2><image>\n<video>\n<so_embedding>\na b \n c",
        ),
        (("image", "\n\nwhat?  "), "<image>\nwhat?"),
        (("just text",), "just text"),
        # text with slots of its own places the media itself
        (("image", "here: <image>, look"), "here: <image>, look"),
    ],
)
def test_media_come_before_the_text(render, parts: tuple[str, ...], expected: str):
    assert turn(render([user(*parts)])) == expected


def test_in_order_leaves_parts_where_they_are(render):
    message = user("first ", "image", "then ", "audio", "video", "and ", "image")
    text = turn(render([message], "in-order"))
    assert text == "first <image>\nthen <so_embedding>\n<video>\nand <image>"


def test_every_turn_has_its_own_media(render):
    history = [user("image", "one"), {"role": "assistant", "content": "yes"}, user("audio", "two")]
    text = render(history)
    assert "user\n<image>\none<|im_end|>\n<|im_start|>assistant\n<think></think>yes<|im_end|>" in text
    assert text.endswith("user\n<so_embedding>\ntwo<|im_end|>\n<|im_start|>assistant\n<think>\n")


def test_media_elsewhere_are_refused(render):
    for role in ("system", "assistant", "tool"):
        with pytest.raises(jinja2.TemplateError, match="Media belong in user messages"):
            render([{**user("image"), "role": role}, user("hi")])
    with pytest.raises(jinja2.TemplateError, match="unknown type hologram"):
        render([{"role": "user", "content": [{"type": "hologram"}]}])


ON, OFF = "<|im_start|>assistant\n<think>\n", "<|im_start|>assistant\n<think></think>"


@pytest.mark.parametrize(
    ("messages", "options", "end"),
    [
        ([user("hi")], {}, ON),
        ([user("hi")], {"enable_thinking": False}, OFF),
        ([user("hi /no_think")], {}, OFF),
        ([{"role": "user", "content": "hi /no_think"}], {}, OFF),
        ([user("hi /think")], {"enable_thinking": False}, ON),
        ([{"role": "system", "content": "Be brief. /no_think"}, user("hi")], {}, OFF),
        ([user("/no_think"), {"role": "assistant", "content": "a"}, user("now /think")], {}, ON),
        ([user("/think"), {"role": "assistant", "content": "a"}, user("now /no_think")], {}, OFF),
        ([user("a </think> tag is no word")], {"enable_thinking": False}, OFF),
        # an assistant has no say
        ([user("hi"), {"role": "assistant", "content": "/no_think"}, user("more")], {}, ON),
    ],
)
def test_the_last_word_on_thinking_counts(render, messages: list[dict[str, Any]], options: dict[str, Any], end: str):
    text = render(messages, **options)
    assert text.endswith(end)
    said = "".join(part.split("<|im_end|>")[0] for part in text.split("<|im_start|>user\n")[1:])
    assert "/no_think" not in said and "/think" not in said.replace("</think>", "")


def test_switches_leave_the_rest_of_the_text(render):
    assert turn(render([user("one /think two </think> three/no_think")])) == "one  two </think> three"
    assert render([{"role": "system", "content": "a /think b"}, user("x")]).startswith(
        "<|im_start|>system\na  b<|im_end|>"
    )


def test_a_budget_stands_after_the_last_user_turn(render):
    text = render([user("a"), {"role": "assistant", "content": "b"}, user("image", "c")], reasoning_budget=64)
    assert text.count("{thinking token budget: 64}") == 1
    assert "<image>\nc\n\n{thinking token budget: 64}<|im_end|>" in text


def test_slots_are_the_tokens_that_the_config_names(tokenizer, render):
    text = render([user("image", "video", "audio", "x")])
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert ids.count(18) == 1 and ids.count(27) == 1
    # the video's word is no token: a, v, i, d, e, o and brackets as bytes and merges
    start = ids.index(18) + 2
    assert tokenizer.decode(ids[start : start + 10]).startswith("<video>\n") and min(ids[start : start + 5]) >= 1000


def test_the_rest_is_the_text_template(render):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "content": "rain"},
    ]
    assert render(messages, tools=[tool]) == render(messages, "text", tools=[tool])
    assert render(messages, "in-order", tools=[tool]) == render(messages, "text", tools=[tool])


def test_the_text_template_does_not_look_multimodal():
    # SGLang goes by these words
    words = ("image", "audio", "video", "vision")
    assert not any(word in chat_template("text") for word in words)
    for kind in ("media-first", "in-order"):
        assert all(word in chat_template(kind) for word in words[:3])


def test_no_section_mark_is_left(toy: Path):
    for kind in ("text", "media-first", "in-order"):
        assert "section:" not in chat_template(kind) and "{#- end -#}" not in chat_template(kind)
    assert (toy / "chat_template.jinja").read_text() == chat_template("text")


def test_sglang_recognises_the_family(tokenizer):
    from sglang.srt.parser import template_detection as detection

    for kind in ("media-first", "in-order"):
        template = chat_template(kind)
        always, toggle = detection.detect_reasoning_pattern(template)
        assert not always and (toggle.toggle_param, toggle.default_enabled) == ("enable_thinking", True)
        assert detection.detect_reasoning_parser(template, tokenizer, toggle, always) == "nemotron_3"
        assert detection.detect_tool_call_parser(template, tokenizer, toggle, always) == "qwen3_coder"
