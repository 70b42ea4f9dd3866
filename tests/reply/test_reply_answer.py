"""Replies that are calls or an answer of a schema: what the grammar allows, and how such a reply is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from xgrammar import Grammar
from xgrammar.testing import _is_grammar_accept_string

from sglang_nemotron.reply.answer import AnswerQuotes, call_tags, calls_or_answer
from sglang_nemotron.reply.grammar import ReplyParser, collect, parse_reply
from sglang_nemotron.reply.schema import check_tools
from support.reply_texts import TOOLS

NUMBER = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
STRICT = {"type": "json_schema", "json_schema": NUMBER, "style": "qwen_xml"}
END = "</function>\n</tool_call>"
NOW = f"<tool_call>\n<function=now>\n{END}"
ANSWER = '{"a": 1}'


def tool(body: str, name: str = "open") -> str:
    return f"<tool_call>\n<function={name}>\n{body}{END}"


def value(text: str, name: str = "x") -> str:
    return f"<parameter={name}>\n{text}\n</parameter>\n"


ALLOWED = {
    "an answer": ANSWER,
    "behind the template's newline": f"\n{ANSWER}",
    "laid out": '{\n  "a": 1\n}',
    "a call without parameters": NOW,
    "a call behind a newline": f"\n{NOW}",
    "with an empty line": NOW.replace("</function>", "\n</function>"),
    "two calls": f"{NOW}\n{NOW}",
    "any parameters of any values": tool(value("if a < b:\n\n  pass") + value("{", "not-declared.1")),
    "a value in one line": tool("<parameter=x>v</parameter>\n"),
    "a long name": tool(value("v", "x" * 128)),
    "an empty value": tool("<parameter=x>\n</parameter>\n"),
    "a closing tag within a line": tool(value("see </parameter> here")),
    "a strict call": tool(value("12", "a"), "strict"),
    "a strict call with blanks": tool("\n" * 50 + value("12", "a"), "strict"),
}
BARRED = {
    "nothing": "",
    "words": "Hello",
    "another answer": '{"b": 1}',
    "words before an answer": f"So: {ANSWER}",
    "words behind an answer": f"{ANSWER} so",
    "a call behind an answer": f"{ANSWER}\n{NOW}",
    "words before a call": f"I look.\n{NOW}",
    "words behind a call": f"{NOW}\nDone.",
    "an answer behind a call": f"{NOW}\n{ANSWER}",
    "words in a call": tool("I look.\n"),
    "a parameter with a name that is none": tool(value("v", "x" * 129)),
    "a tool that is not declared": tool("", "other"),
    "a strict call of another type": tool(value("one", "a"), "strict"),
    "a strict call that lacks a parameter": tool("", "strict"),
    "blanks without end": tool("\t" * 100 + value("12", "a"), "strict"),
    "thoughts": f"So.\n</think>\n{ANSWER}",
}


def allows(text: str, *, parallel: bool = True, thoughts: bool = False) -> bool:
    tags = call_tags(["now", "open", "strict"], {"strict": STRICT})
    answer = {"type": "json_schema", "json_schema": NUMBER}
    tag = calls_or_answer(answer, tags, parallel=parallel, thoughts=thoughts)
    grammar = Grammar.from_structural_tag(json.dumps({"type": "structural_tag", "format": tag}))
    return _is_grammar_accept_string(grammar, text)


@pytest.mark.parametrize("label", ALLOWED)
def test_allowed(label: str) -> None:
    assert allows(ALLOWED[label])


@pytest.mark.parametrize("label", BARRED)
def test_barred(label: str) -> None:
    assert not allows(BARRED[label])


def test_one_call() -> None:
    assert allows(NOW, parallel=False)
    assert not allows(f"{NOW}\n{NOW}", parallel=False)


def test_thoughts_in_the_grammar() -> None:
    for text in (ANSWER, NOW):
        assert allows(f"So <it> is.\n</think>\n{text}", thoughts=True)
        assert not allows(text, thoughts=True)
        assert not allows(f"So\n</think>\nI say {text}", thoughts=True)


# ---- reading

QUOTED = json.dumps({"a": "<tool_call><function=now></function>", "b": "x\n<tool_call>\n<function=now>\n</function>"})
WHERE = {
    "behind thoughts": (f"r\n</think>\n{QUOTED}", {}, ("r", QUOTED)),
    "without thoughts": (QUOTED, {"thinking": False}, ("", QUOTED)),
    "thoughts in the content": (
        f"a\n</think>\n{QUOTED}",
        {"reasoning": False},
        ("", f"a\n</think>\n{QUOTED}"),
    ),
    "a think tag in a string": (
        f'a\n</think>\n["</think>", {QUOTED}]',
        {"reasoning": False},
        ("", f'a\n</think>\n["</think>", {QUOTED}]'),
    ),
}


@pytest.mark.parametrize("label", WHERE)
def test_a_call_that_an_answer_quotes_is_none(label: str) -> None:
    text, options, expected = WHERE[label]
    reply = parse_reply(text, TOOLS, answers=True, **options)
    assert (reply.reasoning, reply.content, reply.calls) == (*expected, ())
    # where no schema was asked for, an agent would lose its call
    assert parse_reply(text, TOOLS, **options).calls
    for size in (1, 2, 7):
        parser = ReplyParser(TOOLS, answers=True, **options)
        events = [event for at in range(0, len(text), size) for event in parser.feed(text[at : at + size])]
        assert collect([*events, *parser.finish()]) == reply


@pytest.mark.parametrize("label", [label for label in ALLOWED if "call" in ALLOWED[label]])
def test_what_the_grammar_takes_for_calls_is_read_as_such(label: str) -> None:
    names = {"now": {}, "open": {}, "strict": NUMBER}
    tools = check_tools([{"type": "function", "function": {"name": n, "parameters": p}} for n, p in names.items()])
    reply = parse_reply(f"r\n</think>{ALLOWED[label]}", tools, answers=True)
    assert reply.calls and reply.content == ""


@pytest.mark.parametrize("options", [{}, {"reasoning": False}], ids=["apart", "in the content"])
def test_calls_are_calls(options: dict[str, Any]) -> None:
    reply = parse_reply(f"r\n</think>\n{NOW}\n{NOW}", TOOLS, answers=True, **options)
    assert [call.name for call in reply.calls] == ["now", "now"]


def test_quotes_begin_behind_blanks() -> None:
    quotes = AnswerQuotes()
    quotes.feed(" \n")
    assert not quotes.quotes
    quotes.feed('"')
    assert quotes.quotes
    quotes.end_line()
    assert not quotes.quotes
