"""Which words between two tags belong to a call: a line of words comes in, what follows it decides.

Positions go out, NO or MORE, as in `markup`. Knows nothing of values, events or SGLang.
"""

from __future__ import annotations

from .markdown import Markdown
from .markup import (
    FUNCTION_OPEN,
    MORE,
    NO,
    PARAMETER_OPEN,
    Line,
    Names,
    any_call,
    closer,
    is_cut,
    is_cut_closer,
    named_tag,
)


def within(text: str, line: Line, declared: Names) -> int:
    """Whether a tag that goes on with the call, or ends it, follows words inside a function; so does the end of the
    text."""
    at = line.end
    if closer(text, at):
        return at
    parameter = named_tag(text, at, PARAMETER_OPEN)
    call = any_call(text, at, declared)
    if parameter > 0 or call > 0:
        return at
    more = at == len(text) or is_cut_closer(text, at) or MORE in (parameter, call)
    return MORE if more else NO


def behind_function(text: str, start: int, line: Line, declared: Names) -> int:
    """Whether a closing tag follows the words at `start`, behind `</function>`; or, on their line, a bare call that no
    Markdown quotes: in content it would be prose, and lost."""
    at = line.end
    if closer(text, at):
        return at
    if is_cut_closer(text, at):
        return MORE
    is_bare = text.startswith(FUNCTION_OPEN, at) or is_cut(FUNCTION_OPEN, text, at)
    if not is_bare or "\n" in text[start:at]:
        return NO
    # a call was the end of a line, so these words are all that Markdown knows of this one
    markdown = Markdown()
    markdown.feed(line.words)
    return NO if markdown.quotes else any_call(text, at, declared)
