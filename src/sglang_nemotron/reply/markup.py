"""The tags that a Nemotron reply is made of, and the one test for where a tool call really begins.

Text and the declared tool names come in, positions go out. Knows nothing of chunks beyond "more text may come", and
nothing of reasoning, values or SGLang.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

THINK_OPEN: Final = "<think>"
THINK_CLOSE: Final = "</think>"
CALL_OPEN: Final = "<tool_call>"
CALL_CLOSE: Final = "</tool_call>"
FUNCTION_CLOSE: Final = "</function>"
PARAMETER_OPEN: Final = "<parameter="
PARAMETER_CLOSE: Final = "</parameter>"
# a call is known by these characters plus a declared name and ">"
CALL_HEADER: Final = "<tool_call>\n<function="

# longest name that is looked for; with the two bounds below no decision needs more than ~400 characters of lookahead
MAX_NAME: Final = 128
# most whitespace that the template's tags may have between them and still belong together
MAX_SPACE: Final = 64
SPACE: Final = " \t\r\n"

# answers of the matchers below that are not positions (a match always ends after position 0)
NO: Final = -1
MORE: Final = 0


class Names:
    """The tool names that a reply may call; empty means that nothing is a call."""

    __slots__ = ("longest", "names")

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        self.longest = max((len(name) for name in self.names), default=0)


def is_cut(tag: str, text: str, at: int) -> bool:
    """Whether `text` ends inside `tag`, which begins at `at`: text[at:] is a proper, non-empty prefix of it."""
    left = len(text) - at
    return 0 < left < len(tag) and tag.startswith(text[at:])


def call_header(text: str, at: int, declared: Names) -> int:
    """Match `<tool_call>`, newline, `<function=NAME>` with NAME declared, at `at`.

    Returns the position after the header, NO, or MORE when the text ends before that can be told. Whether `at` begins
    a line is the caller's to know.
    """
    if not declared.names:
        return NO
    if not text.startswith(CALL_HEADER, at):
        return MORE if is_cut(CALL_HEADER, text, at) else NO
    start = at + len(CALL_HEADER)
    end = text.find(">", start, start + declared.longest + 1)
    if end >= 0:
        return end + 1 if text[start:end] in declared.names else NO
    if len(text) - start > declared.longest:
        return NO
    tail = text[start:]
    return MORE if any(name.startswith(tail) for name in declared.names) else NO


def named_tag(text: str, at: int, opening: str) -> int:
    """Match `opening`, any name of 1 to MAX_NAME characters without `<`, `>` or newline, and `>`, at `at`.

    Returns the position after the `>`, NO, or MORE when the text ends before that can be told.
    """
    if not text.startswith(opening, at):
        return MORE if is_cut(opening, text, at) else NO
    start = at + len(opening)
    end = text.find(">", start, start + MAX_NAME + 1)
    name = text[start : end if end >= 0 else start + MAX_NAME + 1]
    if "<" in name or "\n" in name or (end >= 0 and not name) or len(name) > MAX_NAME:
        return NO
    return end + 1 if end >= 0 else MORE


def after_space(text: str, at: int) -> int:
    """The position after at most MAX_SPACE whitespace characters from `at`."""
    last = min(len(text), at + MAX_SPACE)
    while at < last and text[at] in SPACE:
        at += 1
    return at
