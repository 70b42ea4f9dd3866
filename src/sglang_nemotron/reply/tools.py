"""Second half of the reply grammar: content with tool calls in it goes in, content and calls come out as events.

Takes what `reasoning.ReasoningStage` hands on, or a whole reply where no reasoning is parsed. Knows where a call, its
parameters and their values begin and end; what a value means is `schema`'s, where it ends is `endings`'.

A call
------
`<tool_call>`, newline, `<function=NAME>` at a line start, NAME declared, begins a call; every other tag outside a call
is text. "Line start" is behind a newline, at the start of the content, or directly behind a call. Then parameters, then
`</function>`, then `</tool_call>`, with at most `markup.MAX_SPACE` whitespace characters between them. Any other text
between the tags, or more whitespace, ends the call as if its missing tags stood there, and is content. A call that has
begun is never taken back: the text may end anywhere and its arguments are still one whole JSON object.

A value is the text between `<parameter=NAME>` and its end, less one newline at either side. Values that can only be
strings come out as they arrive; others in one piece, when they end. A value that is not of its declared type stays a
string. A name is never written twice: a second `<parameter=NAME>` is text of the value before it.

Whitespace. One newline before `<tool_call>` and one after `</tool_call>` are markup, as is all whitespace between the
tags of a call. All other whitespace is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .arguments import Arguments, inner
from .endings import Known, Verdict, ending
from .markup import (
    CALL_CLOSE,
    CALL_HEADER,
    CALL_OPEN,
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
from .schema import ToolSpec


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of the reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """More of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A tool call begins; `index` counts the calls of the reply from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments; all fragments of one call, joined, are one JSON object."""

    index: int
    json_fragment: str


Event = ReasoningDelta | ContentDelta | CallStarted | CallArguments

_TEXT, _BODY, _VALUE, _TAIL = range(4)


class ToolStage:
    """Splits content and calls, incrementally. Time is linear in the text.

    `feed` and `finish` return events in the order of the text; joined over any cutting of the same text they are equal.
    Memory is the longest value that cannot be told to be a string.
    """

    __slots__ = (
        "_arguments",
        "_buffer",
        "_declared",
        "_events",
        "_index",
        "_known",
        "_line_start",
        "_skip_newline",
        "_specs",
        "_state",
    )

    def __init__(self, tools: Sequence[ToolSpec], *, line_start: bool = True) -> None:
        """`line_start`: the first character begins a line (`reasoning.opening`; always so behind a think block)."""
        self._specs = {spec.name: spec for spec in tools}
        self._declared = Names(self._specs)
        self._state = _TEXT
        # text that waits for more, and whether its first character begins a line when no newline in it says so
        self._buffer = ""
        self._line_start = line_start
        # a newline that comes next is markup
        self._skip_newline = False
        self._index = -1
        self._events: list[Event] = []
        # of the call that is open, or was last
        self._arguments = Arguments(ToolSpec(""))
        self._known = Known(self._declared, frozenset(), frozenset(), 0)

    def feed(self, text: str) -> list[Event]:
        """Take the next piece of content."""
        if self._buffer:
            text = self._buffer + text
        elif not text:
            return []
        # most pieces hold no tag
        if "<" in text or self._skip_newline or self._state not in (_TEXT, _VALUE):
            return self._run(text, final=False)
        if text[-1] != "\n":
            self._buffer = ""
            self._line_start = False
        else:
            # the newline may belong to a tag
            self._buffer = "\n"
            text = text[:-1]
            if not text:
                return []
            self._line_start = text[-1] == "\n"
        if self._state == _TEXT:
            return [ContentDelta(text)]
        if self._arguments.streaming:
            return [CallArguments(self._index, inner(text))]
        self._arguments.add(text)
        fragment = self._arguments.take()
        return [CallArguments(self._index, fragment)] if fragment else []

    def finish(self) -> list[Event]:
        """The text has ended: give back what was held and close what is open."""
        return self._run(self._buffer, final=True)

    def _run(self, text: str, final: bool) -> list[Event]:
        """Work through `text`, which begins where the buffer began, and keep in the buffer what waits for more."""
        self._events = []
        self._buffer = ""
        steps = {_TEXT: self._text, _BODY: self._body, _VALUE: self._in_value, _TAIL: self._tail}
        at: int | None = 0
        while at is not None:
            if self._skip_newline and at < len(text):
                self._skip_newline = False
                self._line_start = True
                at += text[at] == "\n"
            at = steps[self._state](text, at, final)
        self._flush()
        return self._events

    # each step works from `at` and returns where the next one begins, or None when the text is used up

    def _text(self, text: str, start: int, final: bool) -> int | None:
        """Outside of calls."""
        at = text.find(CALL_OPEN, start)
        while at >= 0:
            header = call_header(text, at, self._declared) if self._begins_line(text, start, at) else NO
            if header > 0:
                self._content(text[start : _before_newline(text, start, at)])
                self._start(text[at + len(CALL_HEADER) : header - 1])
                return header
            if header == MORE and not final:
                break
            at = text.find(CALL_OPEN, at + 1)
        if at < 0 and not final:
            at = text.rfind("<", max(start, len(text) - len(CALL_OPEN)))
            if at >= 0 and not (is_cut(CALL_OPEN, text, at) and self._begins_line(text, start, at)):
                at = -1
        keep = len(text) if final else self._keep(text, start, at)
        self._content(text[start:keep])
        return None

    def _body(self, text: str, start: int, final: bool) -> int | None:
        """Inside a call, where a parameter or the end of the function may come."""
        at = after_space(text, start)
        parameter = named_tag(text, at, PARAMETER_OPEN)
        if parameter > 0:
            name = text[at + len(PARAMETER_OPEN) : parameter - 1]
            self._arguments.open(name)
            self._known = self._known._replace(quoted=0)
            self._state, self._skip_newline = _VALUE, True
            return parameter
        if text.startswith(FUNCTION_CLOSE, at):
            self._close(_TAIL)
            return at + len(FUNCTION_CLOSE)
        if text.startswith(CALL_CLOSE, at):
            self._close(_TEXT)
            return at + len(CALL_CLOSE)
        if at == len(text) or parameter == MORE or is_cut(FUNCTION_CLOSE, text, at) or is_cut(CALL_CLOSE, text, at):
            if final:
                self._close(_TEXT)
            else:
                self._buffer = text[start:]
            return None
        self._close(_TEXT)
        self._skip_newline = False
        return start

    def _tail(self, text: str, start: int, final: bool) -> int | None:
        """Behind `</function>`, where `</tool_call>` may come. The call is complete already."""
        at = after_space(text, start)
        if text.startswith(CALL_CLOSE, at):
            self._state, self._skip_newline = _TEXT, True
            return at + len(CALL_CLOSE)
        if at == len(text) or is_cut(CALL_CLOSE, text, at):
            self._buffer = "" if final else text[start:]
            return None
        self._state = _TEXT
        return start

    def _in_value(self, text: str, start: int, final: bool) -> int | None:
        """Inside a parameter's value."""
        at = text.find("<", start)
        while at >= 0:
            begins_line = self._begins_line(text, start, at)
            verdict, behind = ending(text, at, begins_line, self._known, final)
            if verdict is Verdict.MORE:
                break
            if verdict is Verdict.NEXT or verdict is Verdict.OVER:
                self._arguments.add(text[start : _before_newline(text, start, at)])
                self._arguments.end()
                self._line_start = True
                if verdict is Verdict.OVER:
                    self._close(_TEXT)
                else:
                    self._state = _BODY
                return behind
            if verdict is not Verdict.TEXT:
                step = 1 if verdict is Verdict.QUOTE else -1
                self._known = self._known._replace(quoted=self._known.quoted + step)
            at = text.find("<", behind)
        if final:
            at = _cut_closer(text, start)
        keep = self._keep(text, start, at)
        self._arguments.add(text[start:keep])
        if final:
            self._arguments.end(cut=self._buffer)
            self._buffer = ""
            self._close(_TEXT)
        return None

    def _begins_line(self, text: str, start: int, at: int) -> bool:
        return text[at - 1] == "\n" if at > start else self._line_start

    def _keep(self, text: str, start: int, at: int) -> int:
        """Put the text from `at` (-1: none) into the buffer, with a newline before it; returns where it begins."""
        keep = _before_newline(text, start, at if at >= 0 else len(text))
        if keep > start:
            self._line_start = text[keep - 1] == "\n"
        self._buffer = text[keep:]
        return keep

    def _content(self, text: str) -> None:
        if text:
            self._events.append(ContentDelta(text))

    def _start(self, name: str) -> None:
        self._index += 1
        self._events.append(CallStarted(self._index, name))
        self._arguments = Arguments(self._specs[name])
        self._known = Known(self._declared, self._arguments.declared, self._arguments.given, 0)
        self._state, self._skip_newline, self._line_start = _BODY, True, True

    def _close(self, state: int) -> None:
        """Complete the arguments of the call and go on in `state`."""
        self._arguments.close()
        self._flush()
        self._state, self._skip_newline, self._line_start = state, True, True

    def _flush(self) -> None:
        fragment = self._arguments.take()
        if fragment:
            self._events.append(CallArguments(self._index, fragment))


def _before_newline(text: str, start: int, at: int) -> int:
    """`at`, or the position of the newline right before it, not before `start`."""
    return at - 1 if at > start and text[at - 1] == "\n" else at


def _cut_closer(text: str, start: int) -> int:
    """Where the text ends inside a closing tag that it began (at a line start, or `</parameter>`), or -1."""
    at = text.rfind("<", max(start, len(text) - len(PARAMETER_CLOSE)))
    if at < 0:
        return -1
    begins_line = at == start or text[at - 1] == "\n"
    tags = (PARAMETER_CLOSE, FUNCTION_CLOSE, CALL_CLOSE) if begins_line else (PARAMETER_CLOSE,)
    return at if any(is_cut(tag, text, at) for tag in tags) else -1
