"""Special tokens in every field of a chat, and far too much of everything: what is rendered, and what is refused.

Of a text model: what a client types as a special token is one, as in transformers, SGLang and vLLM, and the prompt is
transformers' own, token for token. Of Omni, tags of media are the exception: `test_hostile_media_tags` here.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from host.http.test_histories import CALL, RESULT, Judge, U, assistant
from hostile.chats import ALL_SPECIAL, HIDDEN, PLACES, SPECIAL, as_tools, many_messages, nested, with_text
from sglang_nemotron.host.http import chat_body, history
from sglang_nemotron.prompt.history import read_history
from sglang_nemotron.prompt.tags import StandIns
from support.costs import assert_cheap, cost


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    importlib.import_module(chat_body.SERVER)
    history.HISTORIES.open()
    return Judge(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("place", PLACES)
def test_special_tokens_in_any_field_are_what_transformers_makes_of_them(judge: Judge, place: str) -> None:
    for text in (*SPECIAL, ALL_SPECIAL):
        chat = with_text(place, text)
        said = judge.of_chat(**chat)
        golden = judge.golden(chat["messages"], tools=chat["tools"])
        assert judge.tokenizer.encode(said) == judge.tokenizer.encode(golden), text


@pytest.mark.parametrize("place", HIDDEN)
def test_what_the_template_does_not_show_never_reaches_the_prompt(judge: Judge, place: str) -> None:
    assert judge.of_chat(**with_text(place, ALL_SPECIAL)) == judge.of_chat(**with_text(place, "x"))


def test_ten_thousand_messages_cost_ten_times_a_thousand() -> None:
    few, many = many_messages(1000), many_messages(10_000)
    assert_cheap(lambda: read_history(many), beside=cost(lambda: read_history(few)), times=40, what="a thousand")
    tags = ("<image>", "<video>")
    beside = cost(lambda: StandIns(tags, few).put(few))
    assert_cheap(lambda: StandIns(tags, many).put(many), beside=beside, times=40, what="a thousand")


def test_ten_thousand_messages_and_a_thousand_tools_are_rendered(judge: Judge) -> None:
    messages = many_messages(10_000)
    assert judge.of_chat(messages) == judge.golden(messages)
    tools = as_tools(1000)
    assert judge.of_chat([U], tools=tools) == judge.golden([U], tools=tools)


@pytest.mark.parametrize("depth", [60, 120])
def test_what_is_as_deep_as_a_body_may_be_is_rendered(judge: Judge, depth: int) -> None:
    """So that nothing between body and prompt recurses further than `prompt/bounds.py` lets a body go."""
    value: Any = "x"
    for _ in range(depth):
        value = {"a": value}
    call = {**CALL, "function": {"name": "f", "arguments": value}}
    assert "x" in judge.of_chat([U, assistant(tool_calls=[call]), RESULT, U])
    tool = {"type": "function", "function": {"name": "f", "parameters": nested(depth // 2)}}
    assert judge.of_chat([U], tools=[tool])
    assert judge.of_chat([U], chat_template_kwargs={"x": value})
    assert StandIns(("<image>",), value).put(value) == value
