"""Parsing takes time in proportion to the reply, whatever it is made of."""

from __future__ import annotations

from typing import Any

import pytest

from sglang_nemotron.reply import tools
from sglang_nemotron.reply.grammar import ReplyParser
from support.costs import assert_cheap, cost
from support.reply_texts import TOOLS

KB = 1024
# at once
WHOLE = 1 << 30
HEAD = "</think>\n<tool_call>\n<function=set>\n"
SHAPES = {
    "thinking": ("word word\n", ""),
    "thinking of brackets": ("<", ""),
    "thinking of broken tags": ("\n<tool_call>\n<function=nope></thin", ""),
    "content": ("word word\n", "</think>\n"),
    "content of tags": ("\n<tool_call>\n<function=no>", "</think>\n"),
    "content of newlines": ("\n", "</think>\n"),
    "a string": ("word word\n", HEAD + "<parameter=s>\n"),
    "a string of end tags": ("\n</parameter>\n</function>\nx", HEAD + "<parameter=s>\n"),
    "a string of quoted calls": (
        "\n<tool_call>\n<function=now>\n</function>\n</tool_call>\n",
        HEAD + "<parameter=s>\n",
    ),
    "a string of brackets": ("<", HEAD + "<parameter=s>\n"),
    "a list": ("[1, 2],\n", HEAD + "<parameter=a>\n["),
    "a string or a list": ("[1, 2],\n", HEAD + "<parameter=either>\n["),
    "a numeral or a string": ("1", HEAD + "<parameter=either>\n"),
    "space in a call": (" ", HEAD),
    "content of backticks": ("`a` ``` b\n", "</think>\n"),
    "content of fences": ("```\n<tool_call><function=now>\n~~~\n", "</think>\n"),
    "content of loose headers": ("so <tool_call> then\n<function=now>\n ", "</think>\n"),
    "content of one line": ("` <tool_call>", "</think>\n"),
    "content of blanks": (" ", "</think>\n"),
    "blanks behind a call": (" ", "</think>\nso\n<tool_call>\n<function=now>\n</function>\n</tool_call>"),
    "a string of weak ends": ("\n</parameter>\nwords\n", HEAD + "<parameter=s>\n"),
    "a string of indented ends": ("\n    </parameter>\n    words\n", HEAD + "<parameter=s>\n"),
    "a string of indented brackets": ("        <", HEAD + "<parameter=s>\n"),
    "a string of ends on one line": ("</parameter></function></function> words ", HEAD + "<parameter=s>\n"),
    "a string of call tags": ("\n<tool_call>\n{}\n</tool_call>\n", HEAD + "<parameter=s>\n"),
    "calls on one line": ("<function=set><parameter=s>1</parameter></function> and ", "</think>\n"),
    "a string of parameters": ('<parameter name="q">\n', HEAD + "<parameter=s>\n"),
    "a string of loose headers": ("<tool_call> <function=x> ", HEAD + "<parameter=s>\n"),
    "one parameter, many times": ("<parameter=i>\n1\n</parameter>\n", HEAD),
    "one text, many times": ("<parameter=s>\nx\n</parameter>\n", HEAD),
    "words in a call": ("words\n<parameter=i>\n1\n</parameter>\n", HEAD),
    "end tags in a call": ("</parameter>\n", HEAD),
    "functions in a block": ("<function=now>\n</function>\nwords\n", "</think>\n<tool_call>"),
    "blanks between calls": (
        " \n<tool_call>\n<function=now>\n</function>\n</tool_call>\n",
        "</think>\n",
    ),
    "many parameters": ("<parameter=%d>\nx\n</parameter>\n", HEAD),
    "many calls": (
        "<tool_call>\n<function=set>\n<parameter=s>\nx\n</parameter>\n</function>\n</tool_call>\n",
        "</think>",
    ),
}


def reply(shape: str, size: int) -> str:
    piece, head = SHAPES[shape]
    count = size // len(piece)
    return head + ("".join(piece % number for number in range(count)) if "%d" in piece else piece * count)


def parse(text: str, chunk: int, kind: type[ReplyParser]) -> None:
    parser = kind(TOOLS)
    for at in range(0, len(text), chunk):
        parser.feed(text[at : at + chunk])
    parser.finish()


def assert_in_proportion(shape: str, size: int, chunk: int, kind: type[ReplyParser] = ReplyParser) -> None:
    """Whether a reply costs about sixteen times what its sixteenth costs; what is quadratic costs 256 times as much."""
    part, whole = reply(shape, size // 16), reply(shape, size)
    # what costs less cannot be measured
    least = 5e-4
    beside = 16 * max(cost(lambda: parse(part, chunk, kind)), least)
    # the slack is for a busy machine
    assert_cheap(lambda: parse(whole, chunk, kind), beside=beside, times=2.25, what="its sixteenth sixteen times")


@pytest.mark.parametrize("shape", SHAPES)
def test_sixteen_times_the_reply_takes_about_sixteen_times_the_time(shape: str) -> None:
    assert_in_proportion(shape, 512 * KB, WHOLE)
    assert_in_proportion(shape, 64 * KB, 4)


def test_a_parser_that_looks_through_all_of_the_reply_at_each_piece_is_caught() -> None:
    class Slow(ReplyParser):
        seen = ""

        def feed(self, text: str) -> list:
            self.seen += text
            self.seen.count("</think>")
            return super().feed(text)

    with pytest.raises(AssertionError, match="more than 2.25 times"):
        assert_in_proportion("thinking", 64 * KB, 4, Slow)


def test_a_parser_that_looks_back_to_the_head_at_each_tag_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    find = tools.strict_header

    def slow(text: str, at: int, *rest: Any) -> Any:
        text.count("</think>", 0, at)
        return find(text, at, *rest)

    monkeypatch.setattr(tools, "strict_header", slow)
    with pytest.raises(AssertionError, match="more than 2.25 times"):
        assert_in_proportion("content of tags", 128 * KB, WHOLE)
