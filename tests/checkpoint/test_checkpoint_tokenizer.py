"""The tokenizer and the chat template: real ids, lossless text, and the documented prompt format."""

from __future__ import annotations

import json
from pathlib import Path

import jinja2
import pytest
from transformers import AutoTokenizer

from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.checkpoint.tokenizer import build_tokenizer, token_names

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Its name"},
                "days": {"type": "integer", "enum": [1, 2]},
            },
            "required": ["city"],
        },
    },
}
USER = {"role": "user", "content": "hi"}


@pytest.fixture(scope="module")
def tokenizer(toy: Path):
    return AutoTokenizer.from_pretrained(toy)


@pytest.fixture(scope="module")
def render(tokenizer):
    def call(messages, **options):
        options.setdefault("add_generation_prompt", True)
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)

    return call


REAL_IDS = {
    "<unk>": 0,
    "<s>": 1,
    "</s>": 2,
    "<SPECIAL_3>": 3,
    "<|im_start|>": 10,
    "<|im_end|>": 11,
    "<think>": 12,
    "</think>": 13,
    "<tool_call>": 14,
    "</tool_call>": 15,
    "<image>": 18,
    "<img>": 19,
    "</img>": 20,
    "<so_embedding>": 27,
    "<so_start>": 28,
    "<so_end>": 29,
    "<SPECIAL_999>": 999,
    "\n": 1010,
}


@pytest.mark.parametrize("text", REAL_IDS)
def test_real_ids(tokenizer, text: str):
    # alone, and glued to text on both sides
    assert tokenizer(text).input_ids == [REAL_IDS[text]]
    assert tokenizer(f"x{text}y").input_ids == [1120, REAL_IDS[text], 1121]
    assert tokenizer.decode([REAL_IDS[text]]) == text


def test_video_is_no_token(tokenizer):
    assert len(tokenizer("<video>").input_ids) > 1


def test_nothing_is_put_before_a_text(tokenizer):
    assert tokenizer("").input_ids == []


@pytest.mark.parametrize("text", ["the rain and the thing", "naïve 日本語 🙂\t\r\n", "\x00\x7f", "  two  spaces  "])
def test_text_survives(tokenizer, text: str):
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    assert all(1000 <= i < 1280 for i in ids)


def test_every_byte_is_its_id(tokenizer):
    for byte in range(128):
        assert tokenizer(chr(byte)).input_ids == [1000 + byte]


def test_merges_join_bytes(tokenizer):
    assert len(tokenizer(" the").input_ids) == 1 and len(tokenizer(" qz").input_ids) == 3


def test_tags_stay_when_special_tokens_are_skipped(tokenizer):
    # parsers of reasoning and tool calls read the decoded text
    text = "<s><think>a</think><tool_call>b</tool_call><image><SPECIAL_500><|im_end|>"
    assert (
        tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True)
        == "<think>a</think><tool_call>b</tool_call>"
    )


@pytest.mark.parametrize("size", PRESETS)
def test_every_id_has_a_name_of_its_own(size: str):
    spec = PRESETS[size]
    names = token_names(spec.vocab_size)
    assert len(names) == len(set(names)) == spec.vocab_size


def test_full_vocabulary_decodes_to_words():
    tokenizer = build_tokenizer(131072)
    assert tokenizer.get_vocab_size() == 131072
    text = tokenizer.decode(list(range(100_000, 100_040)))
    assert all(word.isalpha() and len(word) == 6 for word in text.split()) and len(text.split()) == 40


def test_special_tokens_have_their_roles(tokenizer, toy: Path):
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)
    assert len(tokenizer) == json.loads((toy / "config.json").read_text())["vocab_size"] == 1280


def test_generation_prompts(render):
    start = "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
    assert render([USER]) == start + "<|im_start|>assistant\n<think>\n"
    assert render([USER], enable_thinking=True) == render([USER])
    assert render([USER], enable_thinking=False) == start + "<|im_start|>assistant\n<think></think>"
    assert render([USER], add_generation_prompt=False) == start


def test_system_turn(render):
    assert render([{"role": "system", "content": "Be brief."}, USER]).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
    )


def test_tools_block(render):
    text = render([{"role": "system", "content": "Be brief."}, USER], tools=[TOOL])
    assert text.startswith(
        "<|im_start|>system\nBe brief.\n\n# Tools\n\nYou have access to the following functions:\n\n<tools>\n"
        "<function>\n<name>get_weather</name>\n<description>Weather of a city.</description>\n<parameters>\n"
        "<parameter>\n<name>city</name>\n<type>string</type>\n<description>Its name</description>\n</parameter>\n"
        "<parameter>\n<name>days</name>\n<type>integer</type>\n<enum>[1, 2]</enum>\n</parameter>\n"
        '<required>["city"]</required>\n</parameters>\n</function>\n</tools>\n'
    )
    # the form that the tool-call parser reads is shown, inside the system turn
    system = text.split("<|im_end|>")[0]
    assert "<tool_call>\n<function=" in system and "</function>\n</tool_call>" in system and "<IMPORTANT>" in system
    assert render([USER], tools=[TOOL]).startswith("<|im_start|>system\n# Tools\n")
    # bare functions, without the OpenAI wrapper, are the same
    assert render([USER], tools=[TOOL["function"]]) == render([USER], tools=[TOOL])


def history(answer: dict) -> list[dict]:
    return [USER, {"role": "assistant", **answer}, {"role": "user", "content": "more"}]


@pytest.mark.parametrize(
    "answer",
    [
        {"content": "hello"},
        {"content": "<think>\nhm\n</think>\nhello"},
        {"content": "hello", "reasoning_content": "hm"},
        {"content": "<think></think>hello"},
    ],
)
def test_thinking_of_earlier_turns_is_dropped(render, answer: dict):
    assert "<|im_start|>assistant\n<think></think>hello<|im_end|>\n<|im_start|>user\nmore" in render(history(answer))


@pytest.mark.parametrize(
    ("answer", "turn"),
    [
        ({"content": "hello"}, "<think></think>hello"),
        ({"content": "<think>\nhm\n</think>\nhello"}, "<think>\nhm\n</think>\nhello"),
        ({"content": "hello", "reasoning_content": "hm"}, "<think>\nhm\n</think>\nhello"),
        ({"content": "hello", "reasoning_content": None}, "<think></think>hello"),
    ],
)
def test_thinking_of_earlier_turns_is_kept_on_request(render, answer: dict, turn: str):
    text = render(history(answer), truncate_history_thinking=False)
    assert f"<|im_start|>assistant\n{turn}<|im_end|>\n<|im_start|>user\nmore" in text


def test_thinking_after_the_last_user_turn_is_kept(render):
    call = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo", "days": 2}}}
    text = render(
        [
            *history({"content": "hello", "reasoning_content": "old"}),
            {"role": "assistant", "content": "", "reasoning_content": "new", "tool_calls": [call, call]},
            {"role": "tool", "content": "rain"},
            {"role": "tool", "content": "sun"},
        ]
    )
    assert "old" not in text
    block = (
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
        "</function>\n</tool_call>\n"
    )
    assert text.endswith(
        f"<|im_start|>assistant\n<think>\nnew\n</think>\n{block}{block}<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\nrain\n</tool_response>\n<tool_response>\nsun\n</tool_response>\n<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n"
    )


def test_structured_arguments_are_json_and_text_is_refused(render):
    def turn(arguments):
        return [USER, {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": arguments}]}]

    text = render(turn({"where": {"a": [1, "é"]}, "when": ["x"], "why": 'say "hi"'}))
    assert '<parameter=where>\n{"a": [1, "é"]}\n</parameter>' in text
    assert '<parameter=when>\n["x"]\n</parameter>' in text
    assert '<parameter=why>\nsay "hi"\n</parameter>' in text
    assert "<function=f>\n</function>" in render(turn({}))
    with pytest.raises(jinja2.TemplateError, match="must be an object"):
        render(turn('{"a": 1}'))


def test_content_in_parts(render):
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    assert "<|im_start|>user\none two<|im_end|>" in render([{"role": "user", "content": parts}])
    with pytest.raises(jinja2.TemplateError, match="text only"):
        render([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])


def test_without_thinking_a_conversation_only_grows(render):
    # what was sent and answered is a prefix of the next prompt, so that the prefix cache holds
    first = render([USER], enable_thinking=False)
    second = render(history({"content": "hello"}), enable_thinking=False)
    assert second.startswith(first + "hello<|im_end|>\n")


def test_sglang_recognises_the_family(tokenizer):
    # SGLang picks its parsers from the template's text
    from sglang.srt.parser import template_detection as detection

    template = tokenizer.chat_template
    always, toggle = detection.detect_reasoning_pattern(template)
    assert not always and (toggle.toggle_param, toggle.default_enabled) == ("enable_thinking", True)
    assert detection.detect_reasoning_parser(template, tokenizer, toggle, always) == "nemotron_3"
    assert detection.detect_tool_call_parser(template, tokenizer, toggle, always) == "qwen3_coder"
