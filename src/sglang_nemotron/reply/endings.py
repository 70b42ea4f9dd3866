"""Where a parameter's value ends: the text at a `<` inside a value comes in, a verdict comes out.

A value may hold anything, the grammar's own tags included; only what follows a tag tells a real end from text. All
lookahead is bounded (`markup.MAX_NAME`, `markup.MAX_SPACE`). Knows nothing of types, events or SGLang.

Write P, F, T for `</parameter>`, `</function>`, `</tool_call>`; whitespace may stand between them. P counts in any
column (a model may write `<parameter=a>1</parameter>`), F and T as the first tag of an ending only at a line start
(F, within a quotation, in any column).

======================================  ================================================================================
at the tag                              the value
======================================  ================================================================================
P F T, P T, F T                         ends, and so does the call (a missing tag is forgiven)
P `<parameter=NAME>`                    ends; NAME is any name that this call has not given yet
line start `<parameter=NAME>` newline   ends (P is missing); NAME must be declared and not given yet
P, P F, F, T, then the text ends        ends (the rest is missing); a next tag that the text cuts off is dropped
P, P F, F, T, then a declared call      ends; that call begins
anything else                           goes on: the tag is text
======================================  ================================================================================

Values that quote whole calls: `<tool_call>`, newline, `<function=ANY>` at a line start inside a value opens a quotation
and its F T closes it. Within a quotation nothing ends the value but the last closing tags of the reply. So a quoted
call that is whole survives, and one that is not takes in the parameters and calls behind it up to there.
"""

from __future__ import annotations

from collections.abc import Set
from enum import Enum
from typing import NamedTuple

from .markup import (
    CALL_CLOSE,
    CALL_HEADER,
    FUNCTION_CLOSE,
    MORE,
    NO,
    PARAMETER_CLOSE,
    PARAMETER_OPEN,
    Names,
    after_space,
    call_header,
    is_cut,
    named_tag,
)

_CLOSERS = (PARAMETER_CLOSE, FUNCTION_CLOSE, CALL_CLOSE)
_P, _F, _T = 1, 2, 4
# what may follow the `<` of a tag that matters; the empty string is the end of the text
_SECOND = ("/", "p", "t", "")


class Verdict(Enum):
    """What a tag inside a value is."""

    TEXT = "text"
    # cannot be told before more text comes
    MORE = "more"
    # the value ends, the call goes on
    NEXT = "next"
    # the value and the call end
    OVER = "over"
    # a quoted call opens or closes; the tag is text
    QUOTE = "quote"
    UNQUOTE = "unquote"


class Ending(NamedTuple):
    """A verdict, and where the text behind what was judged goes on."""

    verdict: Verdict
    at: int


class Known(NamedTuple):
    """What the verdict depends on besides the text."""

    # tools that may be called
    tools: Names
    # parameters that this tool declares
    declared: Set[str]
    # parameters that this call has given, the present one included
    given: Set[str]
    # quoted calls that are open
    quoted: int


def ending(text: str, at: int, begins_line: bool, known: Known, final: bool) -> Ending:
    """Judge the `<` at `at` inside a value; `final` says that no text comes after `text`."""
    if text[at + 1 : at + 2] not in _SECOND:
        return Ending(Verdict.TEXT, at + 1)
    closers = _CLOSERS if begins_line else _CLOSERS[:2] if known.quoted else _CLOSERS[:1]
    for index, tag in enumerate(closers):
        if text.startswith(tag, at):
            return _closing(text, at, index, known, final)
    if not final and any(is_cut(tag, text, at) for tag in closers):
        return Ending(Verdict.MORE, at)
    if begins_line:
        if text.startswith(PARAMETER_OPEN, at) or is_cut(PARAMETER_OPEN, text, at):
            return _next_unclosed(text, at, known, final)
        quotation = named_tag(text, at, CALL_HEADER)
        if quotation > 0:
            return Ending(Verdict.QUOTE, quotation)
        if quotation == MORE and not final:
            return Ending(Verdict.MORE, at)
    return Ending(Verdict.TEXT, at + 1)


def _next_unclosed(text: str, at: int, known: Known, final: bool) -> Ending:
    """Judge a `<parameter=` at a line start, whose value before it was not closed."""
    end = NO if known.quoted else named_tag(text, at, PARAMETER_OPEN)
    if end == MORE and not final:
        tail = text[at + len(PARAMETER_OPEN) :]
        if any(name.startswith(tail) and name not in known.given for name in known.declared):
            return Ending(Verdict.MORE, at)
    if end > 0:
        name = text[at + len(PARAMETER_OPEN) : end - 1]
        if name in known.declared and name not in known.given:
            if end == len(text) and not final:
                return Ending(Verdict.MORE, at)
            if end == len(text) or text[end] == "\n":
                return Ending(Verdict.NEXT, at)
    return Ending(Verdict.TEXT, at + 1)


def _closing(text: str, at: int, first: int, known: Known, final: bool) -> Ending:
    """Judge a closing tag, which is `_CLOSERS[first]`, by what follows it."""
    seen, end = 0, at
    for index in range(first, 3):
        start = after_space(text, end) if seen else end
        if text.startswith(_CLOSERS[index], start):
            seen |= 1 << index
            end = start + len(_CLOSERS[index])
    behind = after_space(text, end)
    whole = bool(seen & _T) and seen != _T
    if whole and not known.quoted:
        return Ending(Verdict.OVER, end)
    if behind == len(text):
        if not final:
            return Ending(Verdict.MORE, at)
        # the last closing tags of a reply close the call itself, whatever it quotes
        return Ending(Verdict.OVER, behind) if whole or not known.quoted else Ending(Verdict.TEXT, at + 1)
    if whole:
        return Ending(Verdict.UNQUOTE, end) if seen == _F | _T else Ending(Verdict.TEXT, at + 1)
    cut = any(is_cut(tag, text, behind) for tag in _CLOSERS[seen.bit_length() :])
    if known.quoted:
        return Ending(Verdict.MORE, at) if cut and not final else Ending(Verdict.TEXT, at + 1)
    return _closed(text, at, behind, cut, seen == _P, known, final)


def _closed(text: str, at: int, behind: int, cut: bool, parameter: bool, known: Known, final: bool) -> Ending:
    """Judge closing tags that leave the call open, with text at `behind` that is not a further closing tag.

    `cut`: it may become one; `parameter`: the tags are P alone, so another parameter may follow.
    """
    header = call_header(text, behind, known.tools)
    if header > 0:
        return Ending(Verdict.OVER, behind)
    follows = named_tag(text, behind, PARAMETER_OPEN) if parameter else NO
    if follows > 0 and text[behind + len(PARAMETER_OPEN) : follows - 1] not in known.given:
        return Ending(Verdict.NEXT, behind)
    if not final:
        return Ending(Verdict.MORE, at) if cut or MORE in (header, follows) else Ending(Verdict.TEXT, at + 1)
    if cut or follows == MORE:
        return Ending(Verdict.OVER, len(text))
    # a header that was cut never became a call
    return Ending(Verdict.OVER, behind) if header == MORE else Ending(Verdict.TEXT, at + 1)
