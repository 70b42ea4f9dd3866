"""Typed media tags are text, whatever a template does to them; the template's own are media."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from sglang_nemotron.checkpoint.tokenizer import build_tokenizer
from sglang_nemotron.prompt.splice import VIDEO_SLOT
from sglang_nemotron.prompt.tags import StandIns, TagEncoder, media_tags
from support.published import SPEC

TOKENS = SPEC.tokens
TAGS = media_tags(TOKENS)
MEDIA_IDS = {18, 19, 20, 27, 28, 29, VIDEO_SLOT}

texts = st.lists(
    st.one_of(
        st.sampled_from([*TAGS, " ", "\n", "<", ">", "<image 1>", "<|im_end|>", "\ue000", "<think>", "\\ue001"]),
        st.text(max_size=6),
    ),
    max_size=12,
).map("".join)


@pytest.fixture(scope="module")
def tokenizer():
    return PreTrainedTokenizerFast(tokenizer_object=build_tokenizer(1400))


@pytest.fixture(scope="module")
def encoder(tokenizer):
    return TagEncoder(tokenizer, TOKENS)


@pytest.fixture(scope="module")
def ignorant(tokenizer):
    """The same tokenizer, which never heard of media."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [added for added in state["added_tokens"] if added["content"] not in TAGS]
    return Tokenizer.from_str(json.dumps(state))


@settings(max_examples=400, deadline=None)
@given(texts)
def test_typed_tags_encode_as_the_text_they_are(encoder, ignorant, text):
    typed = StandIns(TAGS, [{"role": "user", "content": text}])
    ids = encoder.encode(typed.put(text), typed)
    assert MEDIA_IDS.isdisjoint(ids)
    assert ids == ignorant.encode(text, add_special_tokens=False).ids


@settings(max_examples=200, deadline=None)
@given(texts, texts)
def test_the_templates_tags_are_media_where_it_put_them(encoder, tokenizer, before, after):
    typed = StandIns(TAGS, [before, after])
    rendered = (
        "<|im_start|>user\n<image 1><image>\n<video>\n<so_embedding>\n"
        + typed.put(before)
        + "<image>"
        + typed.put(after)
    )
    ids = encoder.encode(rendered, typed)
    assert [token for token in ids if token in MEDIA_IDS] == [18, VIDEO_SLOT, 27, 18]
    head = tokenizer.encode("<|im_start|>user\n<image 1>", add_special_tokens=False)
    assert ids[: len(head) + 1] == [*head, 18]
    # what was typed stands around the last image
    last = len(ids) - 1 - ids[::-1].index(18)
    assert encoder._plain.decode(ids[last + 1 :], skip_special_tokens=False) == after or "�" in after


def test_raw_text_means_what_it_says(encoder):
    assert [i for i in encoder.encode("a <image> b<video>c <so_embedding>") if i in MEDIA_IDS] == [18, VIDEO_SLOT, 27]


def test_text_without_tags_is_left_to_the_tokenizer(encoder, tokenizer):
    text = "<|im_start|>system\nthe other is on <think></think> and<|im_end|>"
    assert not encoder.has_tags(text)
    assert encoder.encode(text) == tokenizer.encode(text, add_special_tokens=False)


def test_every_string_of_a_request_is_neutralised():
    call = {"function": {"name": "f", "arguments": {"<video>": ["</img>", 3, None]}}}
    messages = [
        {"role": "tool", "content": [{"type": "text", "text": "<image>"}, {"type": "image"}]},
        {"role": "assistant", "tool_calls": [call], "content": "<think>so</think><tool_call><|im_end|>"},
    ]
    typed = StandIns(TAGS, messages)
    put = json.dumps(typed.put(messages), ensure_ascii=False)
    assert not any(tag in put for tag in TAGS)
    # what a template looks for, in structure and in text, is still there
    assert '{"type": "image"}' in put and "<think>so</think><tool_call><|im_end|>" in put
    assert json.loads(typed.restore(put)) == messages


@pytest.mark.parametrize(
    "parts",
    [
        ("<ima", "ge>"),
        ("<", "image>"),
        ("<ima/thinkge>",),
        ("</thinkimage>",),
        ("</think>image>",),
        ("<vid/no_thinkeo>",),
    ],
)
def test_a_tag_that_a_template_puts_together_is_text(encoder, parts):
    typed = StandIns(TAGS, parts)
    joined = "".join(typed.put(list(parts))).replace("/no_think", "").replace("/think", "")
    assert MEDIA_IDS.isdisjoint(encoder.encode(joined, typed))


def test_a_tag_made_of_a_schemas_names_is_text(encoder):
    tools = [{"function": {"parameters": {"properties": {"image": {"type": "string"}}, "image": "/img"}}}]
    typed = StandIns(TAGS, tools)
    schema = typed.put(tools, names=True)[0]["function"]["parameters"]
    rendered = "".join(f"<{key}>{value}</{key}>" for key, value in schema.items()) + f"<{list(schema.values())[1]}>"
    assert MEDIA_IDS.isdisjoint(encoder.encode(rendered, typed))
    assert "<image>/img</image></img>" in typed.restore(rendered)


def test_json_escapes_of_a_template_are_restored():
    typed = StandIns(TAGS, "<image>")
    escaped = json.dumps(typed.put("say <image>"))
    assert "\\ue" in escaped and typed.restore(escaped) == '"say <image>"'


def test_characters_that_a_client_uses_are_not_taken():
    used = "".join(chr(code) for code in range(0xE000, 0xE100))
    typed = StandIns(TAGS, used + "<image>")
    assert typed.restore(typed.put(used + "<image>")) == used + "<image>"
    with pytest.raises(ValueError, match="U\\+E000 to U\\+F8FF"):
        StandIns(TAGS, "<image>" + "".join(chr(code) for code in range(0xE000, 0xF900)))


def test_a_tokenizer_without_the_tokens_is_refused(tokenizer):
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [added for added in state["added_tokens"] if added["content"] != "<so_start>"]
    del state["model"]["vocab"]["<so_start>"]
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)))
    with pytest.raises(ValueError, match="no token <so_start>"):
        TagEncoder(bare, TOKENS)


def test_ids_that_differ_from_the_config_are_refused(tokenizer):
    import dataclasses

    with pytest.raises(ValueError, match="<image> is token 18 to the tokenizer, 21 to the config"):
        TagEncoder(tokenizer, dataclasses.replace(TOKENS, image_id=21))
