"""Where a parameter's value ends: the text at a `<` inside a value comes in, a verdict comes out.

A value may hold anything, the grammar's own tags included; only what follows a tag tells a real end from text. All
lookahead is bounded (`markup`). Knows nothing of types, events or SGLang.

Write P, F, T for `</parameter>`, `</function>`, `</tool_call>`; whitespace may stand between them. P counts in any
column (a model may write `<parameter=a>1</parameter>`), F and T as the first tag of an ending only at a line start
(F, within a quotation, in any column). A line starts behind its indentation: models indent whole calls. "Text ends"
includes a text that stops inside the next tag.

Strong ends
-----------
===========================================  ===========================================================================
P F T, P T, line start F T                   a missing tag is forgiven
P `<parameter=NAME>`                         NAME is not given yet, and declared or behind a value without an open
                                             parameter of its own
P `<parameter=NAME=`                         NAME is declared and not given yet
line start `<parameter=NAME>` newline        P is missing; NAME is declared and not given yet, and no function of the
                                             value's own is open
P, P F, line start F or T, the text ends     the rest is missing
the same, then a declared call               that call begins; in a loose form, only behind a value without an open
                                             parameter (F: function) of its own
P F F T, P F F, the text ends                the doubled tag is one; only behind a value without an open parameter
P F or P F F, then at most a line of words   the same
   without `<`, and a declared call
===========================================  ===========================================================================

Weak ends
---------
They count where P begins a line, or the type has no text in it, and no parameter of the value's own is open:

===========================================  ===========================================================================
P P                                          a doubled tag
P F                                          whatever follows
P `<parameter=NAME>`                         NAME was given before
P and a line of words without `<`, then      at most `markup.MAX_WORDS` characters; the words are no part of the value
   F, T, a declared parameter or call,
   or the text ends
===========================================  ===========================================================================

Anything else is text. `<parameter` or `<function`, followed by `=`, `>` or space and at last `>`, opens one of the
value's own unless it closes itself (`/>`); a P or F that ends nothing closes it.

Where a limit or a stop string cut the text off, more of the value may have been to come. "The text ends" is an end then
only behind a P that no parameter of the value's own may want, and behind an F or T if no tag of this markup was opened
in the value; no words are one.

Values that quote whole calls (`markup.quotation`): the header opens a quotation and its F T closes it. Within a
quotation only a strong end counts whose P closes none of the parameters that the quotation opened, and the last closing
tags of the reply. So a quoted call that is whole survives; one that breaks off inside a parameter takes in what follows
up to there.
"""

from __future__ import annotations

from collections.abc import Set
from enum import Enum
from typing import NamedTuple

from .markup import (
    CALL_CLOSE,
    CALL_OPEN,
    CLOSERS,
    FUNCTION_CLOSE,
    MAX_NAME,
    MORE,
    NO,
    PARAMETER_CLOSE,
    PARAMETER_OPEN,
    SPACE,
    Line,
    Names,
    after_space,
    any_call,
    assigned_name,
    call_header,
    is_cut,
    is_cut_closer,
    line_of_words,
    named_tag,
    quotation,
)

_OWN_PARAMETER = "<parameter"
_OWN_FUNCTION = "<function"
# what may follow the `<` of a tag that matters; the empty string is the end of the text
_SECOND = ("/", "p", "f", "t", "")


class Verdict(Enum):
    """What a tag inside a value is."""

    TEXT = "text"
    # cannot be told before more text comes
    MORE = "more"
    # the value ends before the tag
    END = "end"
    # a quoted call opens or closes; the tag is text
    QUOTE = "quote"
    UNQUOTE = "unquote"
    # a parameter or a function of the value's own opens or closes, or a call that is none opens; the tag is text
    PARAMETER = "parameter"
    PARAMETER_END = "parameter end"
    FUNCTION = "function"
    FUNCTION_END = "function end"
    CALL = "call"


class Ending(NamedTuple):
    """A verdict, and where the text behind what was judged goes on (for an end: at the tag itself)."""

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
    # the value's type has no text in it, so that no tag can be text
    plain: bool = False
    # something cut the reply off, so that more might have come behind its end
    cut: bool = False
    # quoted calls that are open, and their parameters; parameters and functions of the value's own that are open
    quoted: int = 0
    quoted_parameters: int = 0
    parameters: int = 0
    functions: int = 0
    # whether the value opened any of these, or a `<tool_call>`
    marked: bool = False

    def may_want(self, tag: str) -> bool:
        """Whether a closing tag at the end of a reply that was cut may be one of the value's own."""
        return bool(self.quoted or (self.parameters if tag == PARAMETER_CLOSE else self.marked))

    def behind(self, verdict: Verdict) -> Known:
        """What is known behind a tag that is text."""
        match verdict:
            case Verdict.QUOTE:
                return self._replace(quoted=self.quoted + 1, marked=True)
            case Verdict.UNQUOTE:
                inside = self.quoted_parameters if self.quoted > 1 else 0
                return self._replace(quoted=self.quoted - 1, quoted_parameters=inside)
            case Verdict.PARAMETER | Verdict.PARAMETER_END:
                step = 1 if verdict is Verdict.PARAMETER else -1
                if self.quoted:
                    return self._replace(quoted_parameters=self.quoted_parameters + step)
                return self._replace(parameters=self.parameters + step, marked=True)
            case Verdict.FUNCTION:
                return self._replace(functions=self.functions + 1, marked=True)
            case Verdict.FUNCTION_END:
                return self._replace(functions=self.functions - 1)
            case Verdict.CALL:
                return self._replace(marked=True)
        return self


def ending(text: str, at: int, begins_line: bool, known: Known, final: bool) -> Ending:
    """Judge the `<` at `at` inside a value; `final` says that no text comes after `text`."""
    if text[at + 1 : at + 2] not in _SECOND:
        return Ending(Verdict.TEXT, at + 1)
    if not final and (is_cut_closer(text, at) or is_cut(_OWN_PARAMETER, text, at) or is_cut(_OWN_FUNCTION, text, at)):
        return Ending(Verdict.MORE, at)
    if text.startswith("</", at):
        return _closing(text, at, begins_line, known, final)
    if text.startswith(_OWN_PARAMETER, at):
        return _opening(text, at, begins_line, known, final)
    if text.startswith(_OWN_FUNCTION, at):
        return _own(text, at, _OWN_FUNCTION, Verdict.FUNCTION, known, final)
    quoted = quotation(text, at, begins_line)
    if quoted > 0:
        return Ending(Verdict.QUOTE, quoted)
    if quoted == MORE and not final:
        return Ending(Verdict.MORE, at)
    own = text.startswith(CALL_OPEN, at) and not known.quoted
    return Ending(Verdict.CALL if own else Verdict.TEXT, at + 1)


def _closing(text: str, at: int, begins_line: bool, known: Known, final: bool) -> Ending:
    """Judge a closing tag."""
    is_parameter = text.startswith(PARAMETER_CLOSE, at)
    if known.quoted and (known.quoted_parameters or not is_parameter):
        judged = _quoted_closing(text, at, known, final)
        is_own = judged.verdict is Verdict.TEXT and is_parameter
        return Ending(Verdict.PARAMETER_END, judged.at) if is_own else judged
    if is_parameter:
        verdict = _parameter_end(text, at + len(PARAMETER_CLOSE), begins_line, known, final)
        if verdict is Verdict.TEXT and known.parameters and not known.quoted:
            verdict = Verdict.PARAMETER_END
    else:
        verdict = _alone(text, at, known, final) if begins_line else Verdict.TEXT
        if verdict is Verdict.TEXT and known.functions and text.startswith(FUNCTION_CLOSE, at):
            verdict = Verdict.FUNCTION_END
    return Ending(verdict, at if verdict in (Verdict.END, Verdict.MORE) else at + 1)


def _alone(text: str, at: int, known: Known, final: bool) -> Verdict:
    """Judge an F or T at a line start, without P before it."""
    tag = FUNCTION_CLOSE if text.startswith(FUNCTION_CLOSE, at) else CALL_CLOSE
    if not text.startswith(tag, at):
        return Verdict.TEXT
    wanted, loose = ((CALL_CLOSE,), not known.functions) if tag == FUNCTION_CLOSE else ((), True)
    # the end of a text that was cut tells nothing of a tag that may be the value's own
    told = final and not (known.cut and known.marked)
    verdict = _behind(text, after_space(text, at + len(tag)), wanted, known, loose, told)
    return Verdict.TEXT if verdict is Verdict.MORE and final else verdict


def _behind(text: str, at: int, wanted: tuple[str, ...], known: Known, loose: bool, final: bool) -> Verdict:
    """Judge closing tags by what follows at `at`: one of the `wanted` tags, the end of the text, or a call (in a loose
    form only if `loose`: nothing of the value's own may want them)."""
    if any(text.startswith(tag, at) for tag in wanted):
        return Verdict.END
    if at == len(text) or any(is_cut(tag, text, at) for tag in wanted):
        return _at_end(known, loose, final)
    call = any_call(text, at, known.tools) if loose else call_header(text, at, known.tools)
    if call == MORE:
        # a header that the end of the text cut never became a call
        return _at_end(known, loose, final)
    return Verdict.END if call > 0 else Verdict.TEXT


def _at_end(known: Known, loose: bool, final: bool) -> Verdict:
    """Judge closing tags that the text ends behind; `loose` as in `_behind`."""
    if not final:
        return Verdict.MORE
    # what was cut off may have been the rest of the value
    return Verdict.END if loose or not known.cut else Verdict.TEXT


def _parameter_end(text: str, end: int, begins_line: bool, known: Known, final: bool) -> Verdict:
    """Judge a P that ends at `end`."""
    at = after_space(text, end)
    outside = not known.parameters and not known.quoted
    weak = outside and (begins_line or known.plain)
    if text.startswith(FUNCTION_CLOSE, at):
        behind = after_space(text, at + len(FUNCTION_CLOSE))
        if weak:
            return Verdict.END
        verdict = _behind(text, behind, (CALL_CLOSE,), known, outside, final)
        return verdict if verdict is not Verdict.TEXT or not outside else _function_end(text, behind, known, final)
    if weak and text.startswith(PARAMETER_CLOSE, at):
        return Verdict.END
    if assigned_name(text, at, known.declared - known.given):
        return Verdict.END
    parameter = named_tag(text, at, PARAMETER_OPEN)
    if parameter > 0:
        name = text[at + len(PARAMETER_OPEN) : parameter - 1]
        strong = name not in known.given and (outside or name in known.declared)
        return Verdict.END if strong or weak else Verdict.TEXT
    if parameter == MORE:
        return _at_end(known, outside, final)
    wanted = CLOSERS if weak else (FUNCTION_CLOSE, CALL_CLOSE)
    verdict = _behind(text, at, wanted, known, outside, final)
    if verdict is not Verdict.TEXT or not weak or at == len(text) or text[at] in SPACE:
        return verdict
    # words that a limit cut may be the first of many
    verdict = _words_end(text, at, known, final and not known.cut)
    return Verdict.TEXT if verdict is Verdict.MORE and final else verdict


def _function_end(text: str, at: int, known: Known, final: bool) -> Verdict:
    """Judge P F in the middle of a line, which alone may be text, by what follows at `at`: F again, or a declared call,
    which an agent would lose, behind a line of words at most."""
    if is_cut(FUNCTION_CLOSE, text, at):
        return Verdict.END if final else Verdict.MORE
    if text.startswith(FUNCTION_CLOSE, at):
        at = after_space(text, at + len(FUNCTION_CLOSE))
        verdict = _behind(text, at, (CALL_CLOSE,), known, True, final)
        if verdict is not Verdict.TEXT:
            return verdict
    line = line_of_words(text, at, False) if text[at] not in SPACE else NO
    call = any_call(text, line.end, known.tools) if isinstance(line, Line) else line
    if call == MORE and not final:
        return Verdict.MORE
    return Verdict.END if call > 0 else Verdict.TEXT


def _words_end(text: str, at: int, known: Known, final: bool) -> Verdict:
    """Judge a P by the line of words at `at` behind it."""
    line = line_of_words(text, at, final)
    if not isinstance(line, Line):
        return Verdict.MORE if line == MORE else Verdict.TEXT
    verdict = _behind(text, line.end, (FUNCTION_CLOSE, CALL_CLOSE), known, True, final)
    parameter = named_tag(text, line.end, PARAMETER_OPEN)
    if parameter == MORE:
        return Verdict.END if final else Verdict.MORE
    declared = parameter > 0 and text[line.end + len(PARAMETER_OPEN) : parameter - 1] in known.declared
    return Verdict.END if declared else verdict


def _quoted_closing(text: str, at: int, known: Known, final: bool) -> Ending:
    """Judge a closing tag within a quoted call: its own, unless they are the last of the reply."""
    first = next((index for index, tag in enumerate(CLOSERS[:2]) if text.startswith(tag, at)), None)
    if first is None:
        return Ending(Verdict.TEXT, at + 1)
    seen, end = [], at
    for index in range(first, 3):
        start = after_space(text, end) if seen else end
        if text.startswith(CLOSERS[index], start):
            seen.append(CLOSERS[index])
            end = start + len(CLOSERS[index])
    behind = after_space(text, end)
    whole = CALL_CLOSE in seen
    if behind == len(text) or (not whole and any(is_cut(tag, text, behind) for tag in CLOSERS[first + len(seen) :])):
        if not final:
            return Ending(Verdict.MORE, at)
        # the last closing tags of a reply close the call itself, whatever it quotes
        if whole and not known.cut:
            return Ending(Verdict.END, at)
    if seen == [FUNCTION_CLOSE, CALL_CLOSE]:
        return Ending(Verdict.UNQUOTE, end)
    return Ending(Verdict.TEXT, at + 1)


def _opening(text: str, at: int, begins_line: bool, known: Known, final: bool) -> Ending:
    """Judge a `<parameter` inside a value."""
    outside = begins_line and not known.quoted and not known.functions
    end = named_tag(text, at, PARAMETER_OPEN) if outside else NO
    if end > 0 and text[at + len(PARAMETER_OPEN) : end - 1] in known.declared - known.given:
        # the tag of the value before it is missing
        if end == len(text) and not final:
            return Ending(Verdict.MORE, at)
        if end == len(text) or text[end] == "\n":
            return Ending(Verdict.END, at)
    return _own(text, at, _OWN_PARAMETER, Verdict.PARAMETER, known, final)


def _own(text: str, at: int, opening: str, verdict: Verdict, known: Known, final: bool) -> Ending:
    """Judge an opening tag that is text: `verdict` if it opens one of the value's own."""
    start = at + len(opening)
    if known.quoted and verdict is Verdict.FUNCTION:
        return Ending(Verdict.TEXT, at + 1)
    if start < len(text) and text[start] not in f"=>{SPACE}":
        return Ending(Verdict.TEXT, at + 1)
    # a name and the `=` before it
    longest = MAX_NAME + 1
    end = text.find(">", start, start + longest + 1)
    inside = text[start : end if end >= 0 else start + longest + 1]
    if "<" in inside or len(inside) > longest or inside.endswith("/"):
        return Ending(Verdict.TEXT, at + 1)
    if end < 0:
        return Ending(Verdict.TEXT, at + 1) if final else Ending(Verdict.MORE, at)
    return Ending(verdict, at + 1)
