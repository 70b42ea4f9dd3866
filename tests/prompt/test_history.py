"""Histories against transformers: what clients send is rendered as the same chat sent cleanly."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from sglang_nemotron.prompt.history import in_order_of_calls, lead_with_instructions, read_history
from support.template_rig import Rig

U = {"role": "user", "content": "hi"}
PARTS = [{"type": "text", "text": "line 1"}, {"type": "text", "text": "line 2"}]


def call(arguments: Any, name: str = "f", call_id: str | None = "c") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def assistant(content: Any = "", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def result(content: Any, call_id: str = "c") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


@pytest.fixture(params=["text", "media-first", "in-order"])
def rig(request: pytest.FixtureRequest, rigs: dict[str, Rig]) -> Rig:
    return rigs[request.param]


# ---- what a template makes of messages


CHATS: dict[str, list[dict[str, Any]]] = {
    "a last answer": [U, assistant("Hello.")],
    "a last answer and thoughts": [U, assistant("Hello.", reasoning_content="t")],
    "a last call": [U, assistant("I look.", tool_calls=[call({"a": "x"})])],
    "a call answered": [U, assistant(tool_calls=[call({})], reasoning_content="t"), result("r")],
    "thoughts of a turn that is over": [U, assistant("A", reasoning_content="t"), U],
    "user parts": [{"role": "user", "content": PARTS}],
    "system parts": [{"role": "system", "content": PARTS}, U],
    "assistant parts": [U, assistant(PARTS), U],
    "last assistant parts": [U, assistant(PARTS)],
    "tool parts": [U, assistant(tool_calls=[call({})]), result(PARTS)],
    "a later instruction": [U, assistant("A"), {"role": "system", "content": "Be brief."}, U],
}


@pytest.mark.parametrize("chat", CHATS)
def test_clean_chats_are_what_transformers_makes_of_them(rig: Rig, chat: str) -> None:
    messages = CHATS[chat]
    before = copy.deepcopy(messages)
    assert rig.ours(messages) == rig.golden(messages)
    assert messages == before


def test_nulls_of_a_request_change_nothing(rig: Rig) -> None:
    clean = [{"role": "system", "content": "s"}, U, assistant("A", tool_calls=[call({"a": None})])]
    dumped = [
        {"name": None, "reasoning_content": None, "tool_calls": None, "prefix": None, "tools": None, **message}
        for message in clean
    ]
    assert rig.ours(dumped) == rig.golden(clean)


def test_missing_content_is_empty(rig: Rig) -> None:
    messages = [U, {"role": "assistant", "content": None, "tool_calls": [call("{}")]}, result("r")]
    clean = [U, assistant(tool_calls=[call({})]), result("r")]
    assert rig.ours(messages) == rig.golden(clean)


@pytest.mark.parametrize(
    ("arguments", "clean"), [("", {}), ("null", {}), ('{"a": "x', {"a": "x"}), ('{"a": 123456789012345678901234}',) * 2]
)
def test_arguments_are_rendered_as_objects(rig: Rig, arguments: Any, clean: Any) -> None:
    if isinstance(clean, str):
        clean = {"a": 123456789012345678901234}
    messages = [U, assistant(tool_calls=[call(arguments)]), result("r")]
    assert rig.ours(messages) == rig.golden([U, assistant(tool_calls=[call(clean)]), result("r")])


def test_broken_arguments_are_told_once_each() -> None:
    calls = [call('{"a": 1', "f", "c1"), call("{}", "g", "c2"), call("x", "h", None)]
    history = read_history([U, assistant(tool_calls=calls)])
    assert len(history.notes) == 2
    assert "messages[1] calls 'f' (id 'c1')" in history.notes[0] and "'a'" in history.notes[0]
    assert "messages[1] calls 'h'" in history.notes[1] and "none could be read" in history.notes[1]


def test_arguments_that_are_no_object_are_refused() -> None:
    with pytest.raises(ValueError, match=r"messages\[1\] calls 'f' \(id 'c'\) with the arguments \[1\]"):
        read_history([U, assistant(tool_calls=[call("[1]")])])


def test_thoughts_among_the_parts_are_thoughts(rig: Rig) -> None:
    parts = [
        {"type": "thinking", "thinking": "first"},
        {"type": "text", "text": "A"},
        {"type": "reasoning", "text": "second"},
    ]
    clean = assistant([{"type": "text", "text": "A"}], reasoning_content="first\nsecond")
    assert rig.ours([U, assistant(parts)]) == rig.golden([U, clean])
    told = assistant(parts[:2], reasoning_content="told")
    assert read_history([U, told]).messages[1]["reasoning_content"] == "told\nfirst"


# ---- instructions


def test_leading_instructions_are_one(rig: Rig) -> None:
    messages = [
        {"role": "system", "content": "One."},
        {"role": "developer", "content": [{"type": "text", "text": "Two, "}, {"type": "text", "text": "too."}]},
        {"role": "system", "content": ""},
        {"role": "developer", "content": "Three."},
        U,
        {"role": "developer", "content": "Later."},
        U,
    ]
    clean = [
        {"role": "system", "content": "One.\n\nTwo, too.\n\nThree."},
        U,
        {"role": "system", "content": "Later."},
        U,
    ]
    assert rig.ours(messages) == rig.golden(clean)


def test_one_instruction_stays_as_it_is(rig: Rig) -> None:
    for content in (" a \n", "", PARTS):
        messages = [{"role": "system", "content": content}, U]
        assert rig.ours(messages) == rig.golden(messages)


def test_instructions_lead_where_a_template_drops_later_ones() -> None:
    later = [{"role": "system", "content": text} for text in ("A", "B")]
    led = lead_with_instructions([U, later[0], U, later[1]], later=False)
    assert led == [{"role": "system", "content": "A\n\nB"}, U, U]


def test_joined_instructions_keep_their_tools_and_parts() -> None:
    image = {"type": "image"}
    first = {"role": "system", "content": "A", "tools": [1]}
    second = {"role": "system", "content": [image], "tools": [2]}
    (joined,) = lead_with_instructions([first, second])
    assert joined["tools"] == [1, 2]
    assert joined["content"] == [{"type": "text", "text": "A"}, {"type": "text", "text": "\n\n"}, image]


# ---- the message to go on with


BEGUN: dict[str, tuple[Any, dict[str, Any], Any]] = {
    # content as sent, other fields, content as the template should see it (None: the same)
    "an answer": ('{"answer":', {}, None),
    "an answer of parts": ([{"type": "text", "text": "So"}], {}, None),
    "an answer in two parts": ([{"type": "text", "text": "So "}, {"type": "text", "text": "far"}], {}, None),
    "what the turn ends with": (">", {}, None),
    "blanks at the end": ("So far \n", {}, None),
    "thoughts and an answer": ("<think>\nI thought.\n</think>\nSo", {}, None),
    "thoughts apart": ("So", {"reasoning_content": "I thought."}, None),
    "the middle of a thought": ("<think>\nI thi", {}, None),
    "thoughts without their beginning": ("I thought.\n</think>\nSo", {}, "<think>\nI thought.\n</think>\nSo"),
    "thoughts that just ended": ("I thought.\n</think>", {}, "<think>\nI thought.\n</think>"),
    "parts without their beginning": (
        [{"type": "text", "text": "I thought."}, {"type": "text", "text": "</think>So"}],
        {},
        "<think>\nI thought.</think>So",
    ),
    "thoughts apart, and a closing tag": ("a</think>So", {"reasoning_content": "r"}, None),
}


@pytest.mark.parametrize("enable_thinking", [True, False])
@pytest.mark.parametrize("begun", BEGUN)
def test_a_message_is_continued_as_transformers_does(rig: Rig, begun: str, enable_thinking: bool) -> None:
    content, fields, clean = BEGUN[begun]
    messages = [U, assistant(content, **fields)]
    golden = rig.golden(
        [U, assistant(content if clean is None else clean, **fields)],
        add_generation_prompt=False,
        continue_final_message=True,
        enable_thinking=enable_thinking,
    )
    assert rig.ours(messages, go_on=True, enable_thinking=enable_thinking) == golden
    prefixed = [U, assistant(content, prefix=True, **fields)]
    assert rig.ours(prefixed, enable_thinking=enable_thinking) == golden
    assert golden.count("<think>") == 1 and "<|im_start|>assistant\n" in golden


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([U], r"messages\[0\] is of the role 'user'"),
        ([U, assistant(tool_calls=[call({})]), result("r")], r"messages\[2\] is of the role 'tool'"),
        ([U, assistant("So", tool_calls=[call({})])], r"messages\[1\] ends with tool calls"),
        ([U, assistant(None, reasoning_content="I thought")], r"content of messages\[1\] is empty"),
        ([U, assistant(" \n")], r"content of messages\[1\] is empty"),
        ([U, assistant([])], r"content of messages\[1\] is empty"),
    ],
)
def test_nothing_to_continue_is_refused(messages: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_history(messages, go_on=True)


@pytest.mark.parametrize("messages", [[U, assistant("A", prefix=True), U], [{**U, "role": "system", "prefix": True}]])
def test_a_prefix_elsewhere_is_refused(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"has prefix: true; allowed on the last message alone"):
        read_history(messages)
    assert not read_history([U, assistant("A", prefix=False)]).continued


# ---- results


def test_results_stand_in_the_order_of_their_calls(rig: Rig) -> None:
    calls = [call({}, "f", "1"), call({}, "g", "2"), call({}, "h", "3")]
    mixed = [U, assistant(tool_calls=calls), result("c", "3"), result("a", "1"), result("b", "2"), U]
    clean = [U, assistant(tool_calls=calls), result("a", "1"), result("b", "2"), result("c", "3"), U]
    assert rig.ours(mixed) == rig.golden(clean)


def test_results_without_their_calls_stay() -> None:
    twice = [call({}, "f", "1"), call({}, "g", "1")]
    for calls, ids in (([call({}, "f", "1")], ("2", "1")), (twice, ("1", "1")), ([call({}, "f", None)], ("1", "0"))):
        messages = [U, assistant(tool_calls=calls), *(result(str(n), one) for n, one in enumerate(ids))]
        assert in_order_of_calls(messages) == messages
    # and the others take their places around it
    messages = [assistant(tool_calls=[call({}, "f", "1"), call({}, "g", "2")])]
    messages += [result("b", "2"), result("?", "3"), {"role": "tool", "content": "!"}, result("a", "1")]
    assert [message["content"] for message in in_order_of_calls(messages)[1:]] == ["a", "?", "!", "b"]


def test_results_of_two_turns_do_not_mix() -> None:
    turn = [assistant(tool_calls=[call({}, "f", "1"), call({}, "g", "2")])]
    messages = [*turn, result("b", "2"), result("a", "1"), result("a2", "1"), *turn, result("x", "2")]
    ordered = [message.get("content") for message in in_order_of_calls(messages)]
    assert ordered == ["", "a", "a2", "b", "", "x"]


def test_calls_may_come_in_a_message_each() -> None:
    calls = [assistant(tool_calls=[call({}, name, name)]) for name in "fg"]
    messages = [U, *calls, result("b", "g"), result("a", "f")]
    assert [message["content"] for message in in_order_of_calls(messages)[3:]] == ["a", "b"]


def test_older_roles_are_todays(rig: Rig) -> None:
    messages = [U, assistant(tool_calls=[call({})]), {"role": "function", "name": "f", "content": "r"}]
    assert rig.ours(messages) == rig.golden([*messages[:2], result("r")])


# ---- results of calls


def calling(*ids: str) -> dict[str, Any]:
    calls = [{"id": name, "type": "function", "function": {"name": "f", "arguments": "{}"}} for name in ids]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def result_of(name: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": name, "content": f"of {name}"}


@pytest.mark.parametrize(
    ("messages", "order"),
    [
        ([calling("a", "b", "c"), result_of("c"), result_of("a"), result_of("b")], "abc"),
        ([calling("a", "b"), result_of("a"), result_of("b")], "ab"),
        # one message per call, as responses send them
        ([calling("a"), calling("b"), result_of("b"), result_of("a")], "ab"),
        # what answers no call, or answers it twice, keeps its place or its turn
        ([calling("a", "b"), result_of("b"), result_of("x"), result_of("a")], "axb"),
        ([calling("a", "b"), result_of("b"), result_of("a"), result_of("b")], "abb"),
        ([result_of("b"), result_of("a")], "ba"),
        # each run by the calls before it
        (
            [calling("a", "b"), result_of("b"), result_of("a"), calling("c", "d"), result_of("d"), result_of("c")],
            "abcd",
        ),
        ([calling("a", "b"), result_of("b"), {"role": "user", "content": "q"}, result_of("a")], "ba"),
    ],
)
def test_results_come_in_the_order_of_their_calls(messages: list[dict[str, Any]], order: str) -> None:
    ordered = in_order_of_calls(messages)
    assert "".join(message["tool_call_id"] for message in ordered if message["role"] == "tool") == order
    assert [message["role"] for message in ordered] == [message["role"] for message in messages]
