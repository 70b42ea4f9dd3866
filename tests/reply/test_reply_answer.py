"""Replies that are calls or an answer of a schema: what the grammar allows, and how such a reply is read."""

from __future__ import annotations

import functools
import json
import random
import re
from typing import Any

import pytest
from xgrammar import Grammar
from xgrammar.testing import _is_grammar_accept_string

from sglang_nemotron.reply.answer import AnswerQuotes, call_tags, calls_or_answer
from sglang_nemotron.reply.grammar import ReplyParser, collect, parse_reply
from sglang_nemotron.reply.schema import check_tools
from support.reply_texts import TOOLS

NUMBER = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
TEXT = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
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
    "a value of tags that are none of a call": tool(value("<function> </para <parameters> </b> <tool_calls> </")),
    "a parameter twice": tool(value("a") + value("b")),
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
    "a closing tag within a line": tool(value("see </parameter> here")),
    "a value within its tag": tool("<parameter=x=1>\n</parameter>\n"),
    **{
        f"a value with {tag!r}": tool(value(f"see {tag} here"))
        for tag in (
            "<tool_call>",
            "</tool_call>",
            "<function=",
            "</function>",
            "<parameter=y>",
            "<parameter>",
            "<parameter name='y'>",
            "<parameter\nname='y'>",
        )
    },
    "a call in a value": tool(value(NOW)),
}


def allows(text: str, *, parallel: bool = True, thoughts: bool = False, strict: Any = STRICT) -> bool:
    tags = call_tags(["now", "open", "strict"], {"strict": strict})
    answer = {"type": "json_schema", "json_schema": NUMBER}
    tag = calls_or_answer(answer, tags, parallel=parallel, thoughts=thoughts)
    return _is_grammar_accept_string(compiled(json.dumps({"type": "structural_tag", "format": tag})), text)


@functools.cache
def compiled(tag: str) -> Grammar:
    return Grammar.from_structural_tag(tag)


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


LINE = "\n"
PARAMETER = re.compile(r"<parameter=([^<>\n=]+)>(.*?)</parameter>\n", re.DOTALL)
OPEN = {"type": "object", "properties": {"i": {"type": "integer"}, "s": {"type": "string"}}}
NAMED = {"now": {}, "open": OPEN, "strict": NUMBER}
HELD = [
    *("", "a", "\n", " ", "1", "<", "</", "</parameter", "</function", "<function>", "<parameter", "<tool_call", "`"),
    *("```\n", "\n  </", "<b>", "</tool_call", "=", "/>", "</think>", "<think>", '{"a": 1}', "</parameter ", "words"),
    *("<tool_call>", "<function=now>", "</function>", "<parameter=s>", "<parameter name='q'>", "</parameter>\n"),
]


def invented(seed: int) -> tuple[str, list[list[tuple[str, str]]]]:
    """Some calls of `open`, and their parameters as the grammar has them."""
    pick = random.Random(seed)
    bodies = [
        "".join(
            f"<parameter={name}>{pick.choice(['', LINE])}{text}{pick.choice(['', LINE])}</parameter>{LINE}"
            for name in pick.choices(["i", "s", "x", "i i", "s"], k=pick.randrange(4))
            for text in ["7" if name == "i" else "".join(pick.choices(HELD, k=pick.randrange(5)))]
        )
        for _ in range(pick.randrange(1, 4))
    ]
    return "\n".join(tool(body) for body in bodies), [PARAMETER.findall(body) for body in bodies]


def test_a_call_is_read_as_the_grammar_has_it() -> None:
    """Whatever its values hold, and a parameter given twice: the first text counts, and none of it is content."""
    tools = check_tools([{"type": "function", "function": {"name": n, "parameters": p}} for n, p in NAMED.items()])
    allowed = 0
    for seed in range(1500):
        text, wanted = invented(seed)
        if not allows(text):
            continue
        allowed += 1
        expected = []
        for given in wanted:
            values: dict[str, Any] = {}
            for name, held in given:
                value = held.removeprefix(LINE).removesuffix(LINE)
                values.setdefault(name, 7 if name == "i" else value)
            expected.append(values)
        for size in (len(text), 1, 5):
            parser = ReplyParser(tools, thinking=False, answers=True)
            events = [event for at in range(0, len(text), size) for event in parser.feed(text[at : at + size])]
            reply = collect([*events, *parser.finish()])
            assert reply.content == "", text
            assert [json.loads(call.arguments) for call in reply.calls] == expected, text
    assert allowed > 300


@pytest.mark.parametrize(
    "held", ["<parameter name='q'>", "<tool_call>\n<function=f>\n<parameter=u>", "see <function=f>", "<tool_call>\n{}"]
)
def test_a_strict_text_may_open_what_it_cannot_close(held: str) -> None:
    """XGrammar keeps nothing but `</parameter>` out of it."""
    strict = {"type": "json_schema", "json_schema": TEXT, "style": "qwen_xml"}
    text = f"{tool(value(held, 'a'), 'strict')}\n{NOW}"
    assert allows(text, strict=strict)
    tools = check_tools(
        [{"type": "function", "function": {"name": n, "parameters": p}} for n, p in {**NAMED, "strict": TEXT}.items()]
    )
    reply = parse_reply(text, tools, thinking=False, answers=True)
    assert [(call.name, json.loads(call.arguments)) for call in reply.calls] == [("strict", {"a": held}), ("now", {})]
    assert reply.content == ""


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
