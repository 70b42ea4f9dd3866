"""Parsing takes time in proportion to the reply, whatever it is made of."""

from __future__ import annotations

import pytest
from reply_texts import TOOLS

from sglang_nemotron.reply.grammar import ReplyParser
from support.costs import cost

KB = 1024
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


def seconds(text: str, chunk: int) -> float:
    """Processor time of one parse, the best of two."""

    def parse() -> None:
        parser = ReplyParser(TOOLS)
        for at in range(0, len(text), chunk):
            parser.feed(text[at : at + chunk])
        parser.finish()

    return cost(parse, runs=2)


@pytest.mark.parametrize("shape", SHAPES)
def test_four_times_the_reply_takes_about_four_times_the_time(shape: str) -> None:
    # quadratic would be 16; the slack is for a busy machine
    whole = seconds(reply(shape, 1024 * KB), 1 << 30) / max(seconds(reply(shape, 256 * KB), 1 << 30), 2e-3)
    assert whole < 9
    pieces = seconds(reply(shape, 128 * KB), 4) / max(seconds(reply(shape, 32 * KB), 4), 2e-3)
    assert pieces < 9


def test_a_planted_quadratic_parser_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parser that looks through all of the reply at each piece is told from a linear one."""
    seen: list[str] = []
    feed = ReplyParser.feed

    def slow(parser: ReplyParser, text: str) -> list:
        seen.append(text)
        "".join(seen).count("<")
        return feed(parser, text)

    monkeypatch.setattr(ReplyParser, "feed", slow)

    def run(size: int) -> float:
        seen.clear()
        return seconds(reply("thinking", size), 4)

    assert run(64 * KB) / run(16 * KB) > 9
