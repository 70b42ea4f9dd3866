"""The reply grammar as a whole: the model's text goes in, reasoning, content and tool calls come out.

The parser is the reasoning stage followed by the tool stage, so running the two apart, as a server does that has a
reasoning parser and a tool parser, gives the same reply by construction. A whole parse is one `feed` and a `finish`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .events import CallArguments, CallStarted, ContentDelta, Event, ReasoningDelta
from .reasoning import ReasoningStage
from .schema import ToolSpec
from .tools import ToolStage


@dataclass(frozen=True)
class Call:
    """A whole tool call; `arguments` is the text of a JSON object."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Reply:
    """A whole reply. `calls` in the order of the text; `content` without them."""

    reasoning: str = ""
    content: str = ""
    calls: tuple[Call, ...] = ()


class ReplyParser:
    """Parses one reply as it comes.

    `tools` are the declared tools (`schema.check_tools`). `thinking` and `line_start` say how the reply begins
    (`reasoning.opening`). `reasoning=False` leaves the think block in the content, `tools_enabled=False` leaves calls
    there; a declared call still ends the think block then. The rest is `reasoning.ReasoningStage`'s and
    `tools.ToolStage`'s.
    """

    __slots__ = ("_reasoning", "_tools")

    def __init__(
        self,
        tools: Sequence[ToolSpec] = (),
        *,
        thinking: bool = True,
        reasoning: bool = True,
        tools_enabled: bool = True,
        force_nonempty_content: bool = False,
        stream_reasoning: bool = True,
        line_start: bool = True,
        max_calls: int | None = None,
        answers: bool = False,
    ) -> None:
        self._reasoning = None
        if reasoning:
            self._reasoning = ReasoningStage(
                (spec.name for spec in tools),
                thinking=thinking,
                line_start=line_start,
                stream_reasoning=stream_reasoning,
                force_nonempty_content=force_nonempty_content,
            )
        # behind a think block, content begins a line
        content_begins_line = line_start or (reasoning and thinking)
        self._tools = None
        if tools_enabled and tools:
            self._tools = ToolStage(
                tools,
                line_start=content_begins_line,
                thinking=thinking and not reasoning,
                max_calls=max_calls,
                answers=answers,
            )

    def feed(self, text: str) -> list[Event]:
        """Take the next piece of the reply; returns what it settles, in order."""
        if self._reasoning is None:
            return self._content(text)
        reasoning, rest = self._reasoning.feed(text)
        if not rest:
            return [ReasoningDelta(reasoning)] if reasoning else []
        events = self._content(rest)
        return [ReasoningDelta(reasoning), *events] if reasoning else events

    def finish(self, *, cut: bool = False, stop: str = "") -> list[Event]:
        """The reply has ended; returns what was held back. Every call is complete JSON then, except one that was `cut`
        inside a value (`tools.ToolStage.finish`)."""
        events: list[Event] = []
        if self._reasoning is not None:
            reasoning, rest = self._reasoning.finish()
            if reasoning:
                events.append(ReasoningDelta(reasoning))
            if rest:
                events.extend(self._content(rest))
        if self._tools is not None:
            events.extend(self._tools.finish(cut=cut, stop=stop))
        return events

    def _content(self, text: str) -> list[Event]:
        if self._tools is not None:
            return self._tools.feed(text)
        return [ContentDelta(text)] if text else []


def collect(events: Iterable[Event]) -> Reply:
    """Join the events of one reply."""
    reasoning: list[str] = []
    content: list[str] = []
    names: list[str] = []
    fragments: list[list[str]] = []
    for event in events:
        match event:
            case ReasoningDelta(text):
                reasoning.append(text)
            case ContentDelta(text):
                content.append(text)
            case CallStarted(index, name):
                assert index == len(names), "calls start in order"
                names.append(name)
                fragments.append([])
            case CallArguments(index, fragment):
                fragments[index].append(fragment)
    calls = tuple(Call(name, "".join(parts)) for name, parts in zip(names, fragments, strict=True))
    return Reply("".join(reasoning), "".join(content), calls)


def parse_reply(
    text: str,
    tools: Sequence[ToolSpec] = (),
    *,
    thinking: bool = True,
    reasoning: bool = True,
    tools_enabled: bool = True,
    force_nonempty_content: bool = False,
    line_start: bool = True,
    max_calls: int | None = None,
    answers: bool = False,
    cut: bool = False,
    stop: str = "",
) -> Reply:
    """Parse a whole reply; the options are `ReplyParser`'s and its `finish`'s."""
    parser = ReplyParser(
        tools,
        thinking=thinking,
        reasoning=reasoning,
        tools_enabled=tools_enabled,
        force_nonempty_content=force_nonempty_content,
        line_start=line_start,
        max_calls=max_calls,
        answers=answers,
    )
    return collect([*parser.feed(text), *parser.finish(cut=cut, stop=stop)])
