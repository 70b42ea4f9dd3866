"""The tags that a Nemotron reply is made of, and the tests for where a tool call really begins.

Text and the declared tool names come in, positions go out. Knows nothing of chunks beyond "more text may come", and
nothing of reasoning, values or SGLang.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Final, NamedTuple

THINK_OPEN: Final = "<think>"
THINK_CLOSE: Final = "</think>"
CALL_OPEN: Final = "<tool_call>"
CALL_CLOSE: Final = "</tool_call>"
FUNCTION_OPEN: Final = "<function="
FUNCTION_CLOSE: Final = "</function>"
PARAMETER_OPEN: Final = "<parameter="
PARAMETER_CLOSE: Final = "</parameter>"
CLOSERS: Final = (PARAMETER_CLOSE, FUNCTION_CLOSE, CALL_CLOSE)
# the strict form: a call is known by these characters plus a declared name and ">"
CALL_HEADER: Final = "<tool_call>\n<function="

# longest name that is looked for; with the bounds below no decision needs more than ~700 characters of lookahead
MAX_NAME: Final = 128
# most whitespace that tags may have between them and still belong together
MAX_SPACE: Final = 64
# longest line of words that may stand between the tags of a call
MAX_WORDS: Final = 200
SPACE: Final = " \t\r\n"
# whitespace within a line
BLANK: Final = " \t"

# answers of the matchers below that are not positions (a match always ends after position 0)
NO: Final = -1
MORE: Final = 0


class Names:
    """The tool names that a reply may call; empty means that nothing is a call."""

    __slots__ = ("longest", "names")

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        self.longest = max((len(name) for name in self.names), default=0)


class Header(NamedTuple):
    """Where a call begins: the declared name, words that stand between `<tool_call>` and `<function=`, and the position
    behind the header."""

    name: str
    words: str
    end: int


class Parameter(NamedTuple):
    """Where a parameter's value begins: its name, what of the value its tag holds, and where the text goes on."""

    name: str
    begun: str
    end: int


class Line(NamedTuple):
    """Words on a line between the tags of a call, without the space around them, and where the text goes on."""

    words: str
    end: int


def is_cut(tag: str, text: str, at: int) -> bool:
    """Whether `text` ends inside `tag`, which begins at `at`: text[at:] is a proper, non-empty prefix of it."""
    left = len(text) - at
    return 0 < left < len(tag) and tag.startswith(text[at:])


def is_cut_closer(text: str, at: int) -> bool:
    """Whether `text` ends inside a closing tag that begins at `at`."""
    return any(is_cut(tag, text, at) for tag in CLOSERS)


def sure_closer(fragment: str) -> str:
    """The closing tag that a fragment is the beginning of, or nothing where it may be that of another tag."""
    return next((tag for tag in CLOSERS if tag.startswith(fragment)), "") if len(fragment) >= len("</par") else ""


def closer(text: str, at: int) -> str:
    """The closing tag at `at`, or nothing."""
    return next((tag for tag in CLOSERS if text.startswith(tag, at)), "")


def call_header(text: str, at: int, declared: Names) -> int:
    """Match `<tool_call>`, newline, `<function=NAME>` with NAME declared, at `at`: the strict form.

    Returns the position after the header, NO, or MORE when the text ends before that can be told. Whether `at` begins
    a line is the caller's to know.
    """
    if not declared.names:
        return NO
    if not text.startswith(CALL_HEADER, at):
        return MORE if is_cut(CALL_HEADER, text, at) else NO
    return _declared_name(text, at + len(CALL_HEADER), declared)


def strict_header(text: str, at: int, declared: Names) -> Header | int:
    """What `call_header` matches, as a header."""
    end = call_header(text, at, declared)
    return Header(text[at + len(CALL_HEADER) : end - 1], "", end) if end > 0 else end


def loose_header(text: str, at: int, declared: Names) -> Header | int:
    """Match a call that is not written as the template writes it, at `at`: a declared function behind `<tool_call>` and
    blanks or one line of words, or a declared function alone; then, blanks aside, a parameter or the function's end.

    Returns the header, NO, or MORE when the text ends before that can be told.
    """
    if not declared.names:
        return NO
    function, words = at, ""
    if text.startswith(CALL_OPEN, at):
        behind = at + len(CALL_OPEN)
        function = _function_behind(text, behind)
        if function <= 0:
            return function
        words = text[behind:function].strip(SPACE)
    elif not text.startswith(FUNCTION_OPEN, at):
        return MORE if is_cut(CALL_OPEN, text, at) or is_cut(FUNCTION_OPEN, text, at) else NO
    start = function + len(FUNCTION_OPEN)
    end = _declared_name(text, start, declared)
    if end <= 0:
        return end
    committed = _has_body(text, end)
    return Header(text[start : end - 1], words, end) if committed > 0 else committed


def any_call(text: str, at: int, declared: Names) -> int:
    """Match a call in the strict form or a loose one, at `at`; returns a position, NO or MORE."""
    strict = call_header(text, at, declared)
    if strict > 0:
        return strict
    loose = loose_header(text, at, declared)
    if isinstance(loose, Header):
        return loose.end
    return MORE if MORE in (strict, loose) else NO


def quotation(text: str, at: int, begins_line: bool) -> int:
    """Match a whole call's beginning inside a value, with any name: the strict form at a line start, or `<tool_call>`,
    blanks, `<function=NAME>`, blanks, and a parameter or the function's end. Returns a position, NO or MORE."""
    strict = named_tag(text, at, CALL_HEADER) if begins_line else NO
    if strict > 0:
        return strict
    if not text.startswith(CALL_OPEN, at):
        return MORE if is_cut(CALL_OPEN, text, at) else NO
    function = after_space(text, at + len(CALL_OPEN))
    end = named_tag(text, function, FUNCTION_OPEN) if function < len(text) else MORE
    loose = _has_body(text, end) if end > 0 else end
    return loose if loose > 0 else MORE if MORE in (strict, loose) else NO


def _declared_name(text: str, start: int, declared: Names) -> int:
    """Match a declared name and `>` at `start`."""
    end = text.find(">", start, start + declared.longest + 1)
    if end >= 0:
        return end + 1 if text[start:end] in declared.names else NO
    if len(text) - start > declared.longest:
        return NO
    tail = text[start:]
    return MORE if any(name.startswith(tail) for name in declared.names) else NO


def _function_behind(text: str, start: int) -> int:
    """The position of the `<function=` that belongs to a `<tool_call>` which ends at `start`, or NO, or MORE."""
    limit = start + 2 * MAX_SPACE + MAX_WORDS
    at = text.find(FUNCTION_OPEN, start, limit + len(FUNCTION_OPEN))
    if at >= 0:
        return at if _is_line(text[start:at]) else NO
    between = text[start : limit + 1]
    cut = between.rfind("<")
    if cut >= 0 and is_cut(FUNCTION_OPEN, text, start + cut) and _is_line(between[:cut]):
        return MORE
    return MORE if _begins_one(between) else NO


def _is_line(between: str) -> bool:
    """Whether no more than blanks and one line of words stands between two tags."""
    words = between.strip(SPACE)
    before = len(between) - len(between.lstrip(SPACE))
    if not words:
        return before <= MAX_SPACE
    behind = len(between) - before - len(words)
    return (
        len(words) <= MAX_WORDS
        and before <= MAX_SPACE
        and behind <= MAX_SPACE
        and "\n" not in words
        and CALL_OPEN not in words
    )


def _begins_one(between: str) -> bool:
    """Whether text behind a tag may still become what `_is_line` wants."""
    if _is_line(between):
        return True
    # spaces behind the words may come to stand between words
    line = between.lstrip(SPACE)
    return (
        len(between) - len(line) <= MAX_SPACE and len(line) < MAX_WORDS and "\n" not in line and CALL_OPEN not in line
    )


def _has_body(text: str, end: int) -> int:
    """Whether a parameter or the function's end follows a header that ends at `end`: `end`, NO or MORE."""
    at = after_space(text, end)
    parameter = named_tag(text, at, PARAMETER_OPEN)
    if parameter > 0 or text.startswith(FUNCTION_CLOSE, at):
        return end
    return MORE if at == len(text) or parameter == MORE or is_cut(FUNCTION_CLOSE, text, at) else NO


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


def parameter_tag(text: str, at: int, missing: Set[str], final: bool) -> Parameter | int:
    """Match the tag that begins a parameter, at `at`: `<parameter=NAME>` with any name; or, with a name that is
    `missing`, declared and not given yet, one that holds its value, `<parameter=NAME=VALUE>` at the end of a line or
    `<parameter=NAME=VALUE` and `</parameter>`.

    Returns the parameter, NO, or MORE when the text ends before that can be told.
    """
    end = named_tag(text, at, PARAMETER_OPEN)
    start = at + len(PARAMETER_OPEN)
    if end == MORE and not final:
        return MORE
    tag = text[start : end - 1] if end > 0 else ""
    name = assigned_name(text, at, missing) if tag not in missing else ""
    if not name:
        return Parameter(tag, "", end) if end > 0 else end
    value = start + len(name) + 1
    if end > 0 and end == len(text) and not final:
        return MORE
    if end > 0 and (end == len(text) or text[end] == "\n"):
        return Parameter(name, text[value : end - 1], end)
    # a `>` in the middle of the line is the value's
    return Parameter(name, "", value)


def assigned_name(text: str, at: int, missing: Set[str]) -> str:
    """The one of `missing` whose value stands within the tag of its parameter at `at`, or nothing."""
    if not text.startswith(PARAMETER_OPEN, at):
        return ""
    start = at + len(PARAMETER_OPEN)
    name = text[start : start + MAX_NAME + 1].partition("=")[0]
    return name if name in missing and text.startswith("=", start + len(name)) else ""


def line_of_words(text: str, at: int, final: bool) -> Line | int:
    """Match one line of 1 to MAX_WORDS characters without `<` at `at`, which is no whitespace, and the space behind it.

    Returns the line, NO, or MORE when the text ends before that can be told; `final`: its end ends the line.
    """
    last = at + MAX_WORDS + 1
    ends = [end for end in (text.find("<", at, last), text.find("\n", at, last)) if end >= 0]
    end = min(ends, default=len(text))
    if end == at or end - at > MAX_WORDS:
        return NO
    behind = after_space(text, end)
    if behind == len(text) and not final:
        return MORE
    return Line(text[at:end].rstrip(SPACE), behind)


def after_space(text: str, at: int) -> int:
    """The position after at most MAX_SPACE whitespace characters from `at`."""
    last = min(len(text), at + MAX_SPACE)
    while at < last and text[at] in SPACE:
        at += 1
    return at


def before_newline(text: str, start: int, at: int) -> int:
    """`at`, or the position of the newline right before it, not before `start`."""
    return at - 1 if at > start and text[at - 1] == "\n" else at


def margin(text: str, start: int, at: int, begins_line: bool) -> int:
    """Where the line break and the indentation before `at` begin, if nothing else stands before it on its line; else
    `at`. `begins_line`: text[start] begins a line."""
    first = at
    while first > start and at - first < MAX_SPACE and text[first - 1] in BLANK:
        first -= 1
    if first == start:
        return first if begins_line else at
    return first - 1 if text[first - 1] == "\n" else at
