"""Replies that SGLang's `nemotron_3` and `qwen3_coder` get wrong, one by one; ours must get each right.

If one of these begins to pass in-tree, a release has mended it and the row can be told to the readers of the ledger.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from reply_intree import InTree, streamed, whole
from reply_texts import OPENAI_TOOLS, TOOLS

from sglang_nemotron.reply.events import CallArguments
from sglang_nemotron.reply.grammar import Reply, ReplyParser, collect, parse_reply

SIZES = (1, 3, 7, 1000)


def call(tool: str, **values: str) -> str:
    parameters = "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in values.items())
    return f"<tool_call>\n<function={tool}>\n{parameters}</function>\n</tool_call>\n"


@dataclass(frozen=True)
class Row:
    text: str
    reasoning: str
    content: str
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    # chunk sizes at which the in-tree parsers fail, and whether their whole parse does
    fails_at: tuple[int, ...] = SIZES
    fails_whole: bool = True


PARIS = call("get_weather", city="Paris")
PARIS_CALL = ("get_weather", {"city": "Paris"})


def set_call(value: str) -> Row:
    return Row(f"r\n</think>\n{call('set', s=value)}", "r", "", (("set", {"s": value}),))


ROWS = {
    "tag mentioned in thinking": Row(
        "The `<tool_call>` tag\nopens a call.\n</think>\nThe answer.",
        "The `<tool_call>` tag\nopens a call.",
        "The answer.",
        fails_at=(1, 3, 7),
        fails_whole=False,
    ),
    "tag mentioned in content": Row("r\n</think>\nThe `<tool_call>` tag.\nMore.", "r", "The `<tool_call>` tag.\nMore."),
    "call in thinking, then a close": Row(
        f"r\n{PARIS}</think>\nThe answer.", "r", "</think>\nThe answer.", (PARIS_CALL,), fails_at=(1000,)
    ),
    "function in prose": Row(
        "r\n</think>\nUse <function=foo> here.", "r", "Use <function=foo> here.", fails_whole=False
    ),
    "truncated call": Row(f"r\n</think>\n{PARIS}"[:60], "r", "", (("get_weather", {}),), fails_whole=False),
    "value with a parameter tag": set_call("see <parameter=x> there"),
    "value with a function end": set_call("a </function> b"),
    "string null": set_call("null"),
    "text behind a call": Row(f"r\n</think>\n{PARIS}That is it.", "r", "That is it.", (PARIS_CALL,), fails_at=()),
}
QUICK = ("tag mentioned in thinking", "value with a function end")
BY_ROW = [pytest.param(name, marks=() if name in QUICK else pytest.mark.matrix) for name in ROWS]


def right(reply: Reply, row: Row) -> bool:
    """Whether a reply says what the row wants, surrounding blanks aside."""
    try:
        calls = tuple((call.name, json.loads(call.arguments)) for call in reply.calls)
    except ValueError:
        return False
    return (reply.reasoning.strip(), reply.content.strip(), calls) == (row.reasoning, row.content, row.calls)


def pieces(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def ours(parts: list[str]) -> Reply:
    parser = ReplyParser(TOOLS)
    return collect([event for part in parts for event in parser.feed(part)] + parser.finish())


@pytest.mark.parametrize("name", ROWS)
def test_ours_gets_it_right(name: str) -> None:
    row = ROWS[name]
    assert right(parse_reply(row.text, TOOLS), row)
    for size in SIZES:
        assert right(ours(pieces(row.text, size)), row), size


@pytest.mark.parametrize("name", BY_ROW)
def test_in_tree_gets_it_wrong(name: str) -> None:
    row = ROWS[name]
    wrong = tuple(size for size in SIZES if not right(streamed(pieces(row.text, size), OPENAI_TOOLS), row))
    assert wrong == row.fails_at
    assert right(whole(row.text, OPENAI_TOOLS), row) is not row.fails_whole


@pytest.mark.matrix
def test_a_long_string_comes_only_at_its_end_in_tree() -> None:
    text = "r\n</think>\n" + call("set", s="word " * 400)
    last = len(text) - len("word \n</parameter>\n</function>\n</tool_call>\n")
    in_tree, parser = InTree(OPENAI_TOOLS), ReplyParser(TOOLS)
    theirs = [item.parameters for piece in text[:last] for item in in_tree.feed(piece)[2]]
    mine = [
        event.json_fragment for piece in text[:last] for event in parser.feed(piece) if isinstance(event, CallArguments)
    ]
    assert sum(map(len, theirs)) == 0
    assert sum(map(len, mine)) >= 399 * len("word ")


@pytest.mark.matrix
def test_thinking_off_with_the_parser_of_the_omni_cookbook() -> None:
    """`enable_thinking=False` with `deepseek-r1` puts the answer into `reasoning_content` in-tree."""
    for reply in (
        whole("The answer.", OPENAI_TOOLS, thinking=False, reasoning="deepseek-r1"),
        streamed("The answer.", OPENAI_TOOLS, thinking=False, reasoning="deepseek-r1"),
    ):
        assert (reply.reasoning, reply.content) == ("The answer.", "")
    assert parse_reply("The answer.", TOOLS, thinking=False) == Reply("", "The answer.")
