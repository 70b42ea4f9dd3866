"""Fields that SGLang's types drop: each spelling on each endpoint, and bodies that nobody has checked yet."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from sglang_nemotron.prompt.wishes import CHATS, MESSAGES, PATHS, RESPONSES, read_wishes, thinking_asked

CHAT, TOKENIZE = CHATS[0], CHATS[-1]


def read(path: str, **body: Any) -> dict[str, Any]:
    read_wishes(path, body)
    return body


SPELLINGS: list[tuple[dict[str, Any], bool]] = [
    ({"enable_thinking": False}, False),
    ({"enable_thinking": True}, True),
    ({"enable_thinking": "false"}, False),
    ({"enable_thinking": 0}, False),
    ({"reasoning": {"enabled": False}}, False),
    ({"reasoning": {"enabled": True, "effort": "high"}}, True),
    ({"reasoning": {"enable": "no"}}, False),
    ({"reasoning": False}, False),
    ({"thinking": {"type": "disabled"}}, False),
    ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, True),
    ({"thinking": False}, False),
    ({"chat_template_kwargs": {"enable_thinking": False}}, False),
    ({"enable_thinking": False, "thinking": {"type": "disabled"}, "reasoning": {"enabled": False}}, False),
]


@pytest.mark.parametrize(("said", "thinks"), SPELLINGS)
def test_every_spelling_switches_thinking(said: dict[str, Any], thinks: bool) -> None:
    assert thinking_asked(said) is thinks
    for path in (*CHATS, *RESPONSES):
        body = read(path, **copy.deepcopy(said))
        assert body["chat_template_kwargs"]["enable_thinking"] is thinks
    for path in MESSAGES:
        body = read(path, **copy.deepcopy(said))
        if "thinking" in said:
            assert body["thinking"] == said["thinking"]
        else:
            assert body["thinking"] == {"type": "adaptive" if thinks else "disabled"}


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"enable_thinking": None},
        {"thinking": {"type": "adaptive"}},
        {"thinking": "x"},
        {"reasoning": {"effort": "none"}},
        {"reasoning": "x"},
        {"chat_template_kwargs": {"thinking": False}},
        {"chat_template_kwargs": "x"},
    ],
)
def test_nothing_said_nothing_changed(said: dict[str, Any]) -> None:
    for path in PATHS:
        assert read(path, **copy.deepcopy(said)) == said


def test_other_options_of_the_template_stay() -> None:
    body = read(CHAT, enable_thinking=False, chat_template_kwargs={"truncate_history_thinking": False})
    assert body["chat_template_kwargs"] == {"truncate_history_thinking": False, "enable_thinking": False}


@pytest.mark.parametrize(
    "said",
    [
        {"enable_thinking": True, "thinking": {"type": "disabled"}},
        {"reasoning": {"enabled": False}, "chat_template_kwargs": {"enable_thinking": True}},
    ],
)
def test_two_wishes_that_differ_are_refused(said: dict[str, Any]) -> None:
    for path in PATHS:
        with pytest.raises(ValueError, match="in two ways: .* on.* off|in two ways: .* off.* on"):
            read(path, **copy.deepcopy(said))


@pytest.mark.parametrize("value", ["maybe", 2, 1.0, [], {}])
def test_a_wish_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="enable_thinking is .*; allowed: true, false"):
        read(CHAT, enable_thinking=value)
    with pytest.raises(ValueError, match=r"reasoning\.enabled is .*; allowed: true, false"):
        read(CHAT, reasoning={"enabled": value})


def message(**fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "A", **fields}


@pytest.mark.parametrize(("path", "field"), [(CHAT, "messages"), (TOKENIZE, "messages"), (RESPONSES[0], "input")])
def test_thoughts_go_by_two_names(path: str, field: str) -> None:
    sent = [
        message(reasoning="t"),
        message(reasoning="t", reasoning_content=""),
        message(reasoning="t", reasoning_content="kept"),
        message(role="Assistant", reasoning="t"),
        {"role": "user", "content": "q", "reasoning": "t"},
        message(reasoning=None),
        message(reasoning={"text": "t"}),
    ]
    read_messages = read(path, **{field: sent})[field]
    assert [one.get("reasoning_content") for one in read_messages] == ["t", "t", "kept", "t", None, None, None]


def test_refusals_are_what_was_said() -> None:
    part = {"type": "refusal", "refusal": "No."}
    (whole, parts, both) = read(
        CHAT, messages=[message(content=None, refusal="No."), message(content=[part]), message(refusal="No.")]
    )["messages"]
    assert whole["content"] == "No."
    assert (parts["content"][0]["type"], parts["content"][0]["text"]) == ("text", "No.")
    assert both["content"] == "A"


def test_a_call_of_the_api_before_tools_is_a_call() -> None:
    function = {"name": "f", "arguments": "{}"}
    called, kept = read(
        CHAT, messages=[message(function_call=function), message(function_call=function, tool_calls=[1])]
    )["messages"]
    assert called["tool_calls"] == [{"type": "function", "function": function}]
    assert kept["tool_calls"] == [1]


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(ValueError, match=r"messages\[0\] has audio"):
        read(CHAT, messages=[message(audio={"id": "x"})])
    for role in ("user", "tool", "system"):
        with pytest.raises(ValueError, match=r"messages\[0\] has prefix: true"):
            read(CHAT, messages=[{"role": role, "content": "q", "prefix": True}])
    assert read(CHAT, messages=[message(prefix=True)]) == {"messages": [message(prefix=True)]}


def test_input_of_a_call_may_be_text() -> None:
    use = {"type": "tool_use", "id": "c", "name": "f"}
    blocks = [{**use, "input": given} for given in ('{"a": "x', None, {"a": 1}, "")] + [use]
    for path in MESSAGES:
        body = {"messages": [{"role": "assistant", "content": copy.deepcopy(blocks)}]}
        (note,) = read_wishes(path, body)
        assert "messages[0] calls 'f'" in note
        read_inputs = [block.get("input") for block in body["messages"][0]["content"]]
        assert read_inputs == [{"a": "x"}, {}, {"a": 1}, {}, None]
        with pytest.raises(ValueError, match=r"messages\[0\] calls 'f' with the arguments"):
            read(path, messages=[{"role": "assistant", "content": [{**use, "input": "[1]"}]}])


@pytest.mark.parametrize(
    "strange", [None, "x", 1, [], {}, [None], [1], [[]], [{}], [{"role": 1}], [{"role": "assistant"}]]
)
def test_strange_bodies_are_left_to_sglang(strange: Any) -> None:
    for path in PATHS:
        for field in ("messages", "input"):
            body = {field: copy.deepcopy(strange)}
            read_wishes(path, body)
            assert body == {field: strange}
        content = {"messages": [{"role": "assistant", "content": strange}]}
        read_wishes(path, copy.deepcopy(content))
