"""Second half of the reply grammar: content with tool calls in it goes in, content and calls come out as events.

Takes what `reasoning.ReasoningStage` hands on, or a whole reply where no reasoning is parsed. Knows where a call, its
parameters and their values begin and end; what a value means is `values`', where it ends is `endings`'.

A call
------
The strict form begins a call at once: `<tool_call>`, newline, `<function=NAME>` at a line start, NAME declared. "Line
start" is behind a newline, at the start of the content, or directly behind a call. A looser form
(`markup.loose_header`: `<tool_call>` anywhere, blanks or one line of words, `<function=NAME>`; or `<function=NAME>`
alone, first on its line) begins one as soon as a parameter or the function's end follows, unless Markdown quotes it
(`markdown`) or it stands in an open think block. Every other tag outside a call is text.

Then parameters, then `</function>`, then `</tool_call>`, with at most `markup.MAX_SPACE` whitespace characters between
them. A closing tag written twice is one. One line of words between two tags is content, also between a `</function>`
and a bare call on the same line, unless Markdown quotes it (`between`). Any other text between the tags, or more
whitespace, ends the call as if its missing tags stood there, and is content. A call that has begun is never taken back:
the text may end anywhere and its arguments are still one whole JSON object, unless the reply was cut inside a value
(`finish`).

A value is the text between `<parameter=NAME>` and its end, less one newline at either side. Values that can only be
strings come out as they arrive; others in one piece, when they end. A value that is not of its declared type stays a
string. A name is never written twice: of two values in a row the last counts, one that comes behind a written one is
content.

Whitespace. The line break and the indentation before the header of a call, one newline after `</tool_call>`, and all
whitespace between the tags of a call are markup. All other whitespace is kept. `output.Joint` keeps the text before a
call apart from the text behind it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .answer import AnswerQuotes
from .between import behind_function, within
from .endings import Known, Verdict, ending
from .events import Event
from .markdown import Markdown
from .markup import (
    BLANK,
    CALL_CLOSE,
    CALL_OPEN,
    CLOSERS,
    FUNCTION_CLOSE,
    FUNCTION_OPEN,
    MAX_SPACE,
    MORE,
    NO,
    PARAMETER_CLOSE,
    SPACE,
    THINK_CLOSE,
    Header,
    Line,
    Names,
    Parameter,
    after_space,
    before_newline,
    closer,
    is_cut,
    is_cut_closer,
    line_of_words,
    loose_header,
    margin,
    parameter_tag,
    strict_header,
    sure_closer,
)
from .output import Output
from .schema import ToolSpec

_TEXT, _BODY, _VALUE, _TAIL, _BEHIND = range(5)
# what may begin a call, or end a think block that nobody took away
_MARKS = (CALL_OPEN, FUNCTION_OPEN, THINK_CLOSE)
_MARK = re.compile("|".join(_MARKS))
# a stop string that is closing tags, as far apart as the tags of a call may be
_CLOSING = re.compile(rf"(?:[{SPACE}]{{0,{MAX_SPACE}}}(?:{'|'.join(CLOSERS)}))+")
_MARGIN = " \t\n"


class ToolStage:
    """Splits content and calls, in time linear in the text; memory is the longest value that may not be a string.

    `feed` and `finish` return events in the order of the text, words between the tags of a call behind it; joined over
    any cutting of the same text they are equal.
    """

    __slots__ = (
        "_answers",
        "_buffer",
        "_cut",
        "_declared",
        "_known",
        "_line_start",
        "_markdown",
        "_out",
        "_seen",
        "_skip_newline",
        "_specs",
        "_state",
        "_thinking",
    )

    def __init__(
        self,
        tools: Sequence[ToolSpec],
        *,
        line_start: bool = True,
        thinking: bool = False,
        max_calls: int | None = None,
        answers: bool = False,
    ) -> None:
        """`line_start`: the first character begins a line (`reasoning.opening`; always so behind a think block).
        `thinking`: the text begins inside a think block that nobody takes away. Calls behind the first `max_calls` are
        read and dropped. `answers`: the text is calls or JSON (`answer`), in which a tag is never one; a grammar keeps
        closing tags out of values and text away from calls."""
        self._specs = {spec.name: spec for spec in tools}
        self._declared = Names(self._specs)
        self._cut = False
        self._state = _TEXT
        # text that waits for more, and whether its first character begins a line (in a value, blanks before it aside)
        # when no newline in it says so
        self._buffer = ""
        self._line_start = line_start
        # a newline that comes next is markup
        self._skip_newline = False
        self._thinking = thinking
        self._answers = answers
        self._markdown = AnswerQuotes(thinking=thinking) if answers else Markdown()
        # how much of the text at hand `_markdown` has seen
        self._seen = 0
        self._out = Output(self._specs, max_calls, keep_left_over=not answers)
        # of the value that is open
        self._known = Known(self._declared, frozenset(), frozenset())

    def feed(self, text: str) -> list[Event]:
        """Take the next piece of content."""
        if self._buffer:
            text = self._buffer + text
        elif not text:
            return []
        # most pieces hold no tag
        if "<" in text or self._skip_newline or self._state not in (_TEXT, _VALUE):
            return self._run(text, final=False)
        self._hold(text, 0, len(text))
        return self._out.take()

    def finish(self, *, cut: bool = False, stop: str = "") -> list[Event]:
        """The text has ended: give back what was held and close what is open.

        `cut`: a stop string or a limit of tokens ended it, so that a value that is open stays unfinished. `stop`: that
        string, which the text lacks; one that is the next closing tags of a call counts as if it stood there.
        """
        self._cut = cut
        self._known = self._known._replace(cut=cut)
        # blanks behind the tags would be content
        stop = stop.rstrip(SPACE)
        events = self._run(self._buffer + stop, final=False) if self._closes(stop) else []
        return events + self._run(self._buffer, final=True)

    @property
    def unfinished(self) -> int | None:
        """Behind `finish`: the index of a call that the end of the reply cut inside a value."""
        return self._out.unfinished

    def _run(self, text: str, final: bool) -> list[Event]:
        """Work through `text`, which begins where the buffer began, and keep in the buffer what waits for more."""
        self._buffer = ""
        steps = {_TEXT: self._text, _BODY: self._body, _VALUE: self._in_value, _TAIL: self._tail, _BEHIND: self._tail}
        at: int | None = 0
        while at is not None:
            if self._skip_newline and at < len(text):
                self._skip_newline = False
                self._line_start = True
                at += text[at] == "\n"
            at = steps[self._state](text, at, final)
        if final:
            self._out.finish()
        return self._out.take()

    # each step works from `at` and returns where the next one begins, or None when the text is used up

    def _text(self, text: str, start: int, final: bool) -> int | None:
        """Outside of calls."""
        hold = -1
        for mark in _MARK.finditer(text, start):
            if mark[0] == THINK_CLOSE:
                self._thinking = False
                continue
            header = self._header(text, start, mark.start())
            if isinstance(header, Header):
                self._begin(text, start, mark.start(), header)
                return header.end
            if header == MORE and not final:
                hold = mark.start()
                break
        else:
            hold = text.rfind("<", max(start, len(text) - len(CALL_OPEN)))
            if hold >= 0 and not any(is_cut(mark, text, hold) for mark in _MARKS):
                hold = -1
        self._hold(text, start, hold if hold >= 0 else len(text))
        if final:
            self._out.content(self._buffer)
            self._buffer = ""
        return None

    def _header(self, text: str, start: int, at: int) -> Header | int:
        """The call that begins at `at` in content, or NO, or MORE."""
        begins_line = self._begins_line(text, start, at)
        strict = strict_header(text, at, self._declared) if begins_line else NO
        if isinstance(strict, Header) or self._thinking:
            return strict
        self._read_markdown(text, start, at)
        if self._markdown.quotes:
            return strict
        if text.startswith(FUNCTION_OPEN, at) and not begins_line and margin(text, start, at, self._line_start) == at:
            return NO
        loose = loose_header(text, at, self._declared)
        return MORE if loose == NO and strict == MORE else loose

    def _read_markdown(self, text: str, start: int, at: int) -> None:
        """Show the content before `at` to `_markdown`, each character once."""
        seen = max(self._seen, start)
        if at > seen:
            self._markdown.feed(text[seen:at])
        self._seen = max(seen, at)

    def _begin(self, text: str, start: int, at: int, header: Header) -> None:
        """Pass on the content before a call, and the words in its header, and begin it."""
        self._out.content(text[start : margin(text, start, at, self._line_start)])
        self._out.aside(header.words)
        self._read_markdown(text, start, at)
        self._markdown.end_line()
        self._seen = 0
        self._start(header.name)

    def _body(self, text: str, start: int, final: bool) -> int | None:
        """Inside a call, where a parameter or the end of the function may come."""
        at = after_space(text, start)
        arguments = self._out.arguments
        parameter = parameter_tag(text, at, arguments.declared - arguments.given, final)
        if isinstance(parameter, Parameter):
            arguments.open(parameter.name)
            arguments.add(parameter.begun)
            plain = arguments.plain or self._answers
            self._known = Known(self._declared, arguments.declared, arguments.given, plain, self._cut)
            self._state, self._skip_newline = _VALUE, not parameter.begun
            return parameter.end
        tag = closer(text, at)
        if tag:
            self._skip_newline = True
            if tag != PARAMETER_CLOSE:
                self._close(_TAIL if tag == FUNCTION_CLOSE else _BEHIND)
            return at + len(tag)
        if at == len(text) or parameter == MORE or is_cut_closer(text, at):
            self._wait(text, start, final)
            return None
        strict = strict_header(text, at, self._declared)
        header = strict if isinstance(strict, Header) else loose_header(text, at, self._declared)
        if isinstance(header, Header):
            self._close(_TEXT)
            self._out.aside(header.words)
            self._start(header.name)
            return header.end
        line = line_of_words(text, at, final) if text[at] not in SPACE else NO
        follows = within(text, line, self._declared) if isinstance(line, Line) else line
        if MORE in (strict, header, follows) and not final:
            self._wait(text, start, final)
            return None
        if isinstance(line, Line) and follows != NO:
            self._out.within(line.words)
            return line.end
        self._close(_TEXT)
        self._skip_newline = False
        return start

    def _wait(self, text: str, start: int, final: bool) -> None:
        """Nothing more to read in a call for now."""
        if final:
            self._close(_TEXT)
        else:
            self._buffer = text[start:]

    def _tail(self, text: str, start: int, final: bool) -> int | None:
        """Behind `</function>`, where `</tool_call>` may come, or behind that, where it may come again. The call is
        complete already."""
        in_block = self._state == _TAIL
        at = after_space(text, start)
        tag = closer(text, at)
        if tag:
            self._go(_TAIL if in_block and tag != CALL_CLOSE else _BEHIND)
            return at + len(tag)
        if (at == len(text) or is_cut_closer(text, at)) and (in_block or not final):
            self._buffer = "" if final else text[start:]
            return None
        line = line_of_words(text, at, final) if in_block and text[at] not in SPACE else NO
        follows = behind_function(text, at, line, self._declared) if isinstance(line, Line) else line
        if isinstance(line, Line) and follows > 0:
            self._out.aside(line.words)
            return line.end
        if follows == MORE and not final:
            self._buffer = text[start:]
            return None
        self._state = _TEXT
        return start

    def _in_value(self, text: str, start: int, final: bool) -> int | None:
        """Inside a parameter's value."""
        verdict, at, self._known = self._next_end(text, start, final)
        if verdict is Verdict.END:
            self._out.arguments.add(text[start : before_newline(text, start, at)])
            self._out.end_value()
            self._state, self._line_start = _BODY, True
            return at
        if not final:
            self._hold(text, start, at)
            return None
        self._last_value(text, start)
        return None

    def _next_end(self, text: str, start: int, final: bool) -> tuple[Verdict, int, Known]:
        """Where the value ends (END), waits for more (MORE) or goes on to (TEXT), and what is known there."""
        known = self._known
        at = text.find("<", start)
        while at >= 0:
            verdict, behind = ending(text, at, self._begins_line(text, start, at), known, final)
            if verdict in (Verdict.END, Verdict.MORE):
                return verdict, at, known
            # where a grammar keeps closing tags out of values, what a value opens would never be closed
            known = known if self._answers else known.behind(verdict)
            at = text.find("<", behind)
        return Verdict.TEXT, len(text), known

    def _last_value(self, text: str, start: int) -> None:
        """Close a value that the text ends in; one that was cut off stays unfinished."""
        at = text.rfind("<", max(start, len(text) - len(PARAMETER_CLOSE)))
        fragment = text[at:] if at >= 0 and is_cut_closer(text, at) else ""
        tag = sure_closer(fragment)
        # what may be the end of a closing tag is one at a line start; in a line, only `</par` can be nothing else
        is_tag = bool(fragment) and (self._begins_line(text, start, at) or tag == PARAMETER_CLOSE)
        self._hold(text, start, at if fragment else len(text))
        rest = "" if is_tag else self._buffer
        self._buffer = ""
        if self._cut and (not is_tag or not tag or self._known.may_want(tag)):
            self._out.arguments.add(rest)
            self._out.abandon()
        else:
            self._out.end_value(rest)
            self._out.close()
        self._go(_TEXT)

    def _begins_line(self, text: str, start: int, at: int) -> bool:
        if self._state == _VALUE:
            # the tags behind a value may be indented
            while at > start and text[at - 1] in BLANK:
                at -= 1
        return text[at - 1] == "\n" if at > start else self._line_start

    def _closes(self, stop: str) -> bool:
        """Whether a stop string is closing tags that may come here; in a value, tags that end it."""
        if not _CLOSING.fullmatch(stop) or self._state not in (_BODY, _VALUE, _TAIL):
            return False
        if self._state != _VALUE:
            return True
        verdict, at, _ = self._next_end(self._buffer + stop, 0, True)
        # a value that takes some of the tags in goes on behind them, for all that is known
        return verdict is Verdict.END and at <= len(self._buffer) + len(stop) - len(stop.lstrip(SPACE))

    def _hold(self, text: str, start: int, at: int) -> None:
        """Pass on the text before `at`, and put the rest into the buffer with what before it may be markup: a newline,
        and in content the indentation."""
        if self._state == _TEXT:
            # a piece rarely ends in what margins are made of
            keep = margin(text, start, at, self._line_start) if at == start or text[at - 1] in _MARGIN else at
            self._read_markdown(text, start, keep)
            self._seen -= keep
            self._out.content(text[start:keep])
        else:
            keep = before_newline(text, start, at)
            self._out.arguments.add(text[start:keep])
        self._line_start = self._begins_line(text, start, keep)
        self._buffer = text[keep:]

    def _start(self, name: str) -> None:
        self._out.start(name)
        self._known = Known(self._declared, frozenset(), frozenset())
        self._go(_BODY)

    def _close(self, state: int) -> None:
        """Complete the arguments of the call and go on in `state`."""
        self._out.close()
        self._go(state)

    def _go(self, state: int) -> None:
        """Go on behind a tag, where a newline is markup and a line begins."""
        self._state, self._skip_newline, self._line_start = state, True, True
