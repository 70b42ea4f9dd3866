"""SGLang's parser classes over the reply grammar: a reply's text goes in, in pieces or whole; SGLang's fields come out.

What SGLang does not hand a parser (the request's tools, its prompt) is given to ours behind its constructor, by
`parsers.py`, which also registers them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sglang_nemotron.host.http.reply_ends import Ended, ended
from sglang_nemotron.reply.events import CallArguments, CallStarted, ContentDelta, Event
from sglang_nemotron.reply.markup import CALL_HEADER, THINK_CLOSE, THINK_OPEN
from sglang_nemotron.reply.reasoning import Opening, ReasoningStage, opening
from sglang_nemotron.reply.schema import ToolSpec
from sglang_nemotron.reply.tools import ToolStage
from sglang_nemotron.sglang_api.replies import (
    BaseFormatDetector,
    BaseReasoningFormatDetector,
    ReasoningAndText,
    Tool,
    ToolCallItem,
)


class PromptTail(str):
    """The end of a prompt, as SGLang carries it from a request to its parsers; whether thoughts go apart, whether the
    request takes one call at most, and whether its reply is calls or an answer in JSON."""

    __slots__ = ("answers", "one_call", "reasoning_apart")
    reasoning_apart: bool
    one_call: bool
    answers: bool

    def __new__(cls, text: str, *, reasoning_apart: bool, one_call: bool = False, answers: bool = False) -> PromptTail:
        tail = super().__new__(cls, text)
        tail.reasoning_apart = reasoning_apart
        tail.one_call = one_call
        tail.answers = answers
        return tail

    @property
    def content_begins_line(self) -> bool:
        """Whether the first character of what the tool parser gets begins a line."""
        seen = opening(self)
        return seen.line_start or (seen.thinking and self.reasoning_apart)

    @property
    def content_thinks(self) -> bool:
        """Whether what the tool parser gets begins inside a think block."""
        return opening(self).thinking and not self.reasoning_apart


class NanoReasoning(BaseReasoningFormatDetector):
    """`reply.reasoning.ReasoningStage` as SGLang's reasoning detector; one object reads one reply."""

    def __init__(
        self,
        stream_reasoning: bool = True,
        force_reasoning: bool = False,
        continue_final_message: bool = False,
        previous_content: Any = "",
        force_nonempty_content: bool = False,
    ) -> None:
        # a message of parts has no text to look at; the prompt's end, if SGLang shows it, is better anyway
        previous = previous_content if isinstance(previous_content, str) else ""
        super().__init__(
            THINK_OPEN,
            THINK_CLOSE,
            force_reasoning=force_reasoning,
            stream_reasoning=stream_reasoning,
            continue_final_message=continue_final_message,
            previous_content=previous,
            reasoning_default="enable_thinking",
            force_nonempty_content=force_nonempty_content,
        )
        self._names: tuple[str, ...] = ()
        # without a prompt: what the template would have written, and the message that the reply goes on with
        prefix = f"{THINK_OPEN}\n" if force_reasoning else f"{THINK_OPEN}{THINK_CLOSE}"
        self._opening: Opening = opening(prefix + self.previous_content)
        self._stage: ReasoningStage | None = None

    def see(self, prompt: str, names: Iterable[str]) -> None:
        """Take what the request shows: the end of its prompt ("" if SGLang did not show it), the tools it declares."""
        assert self._stage is None, "the reply has begun"
        self._names = tuple(names)
        if prompt:
            self._opening = opening(prompt)

    def detect_and_parse(self, text: str) -> ReasoningAndText:
        """Parse a whole reply."""
        stage = self._new_stage()
        reasoning, rest = stage.feed(text)
        last_reasoning, last_rest = stage.finish()
        return ReasoningAndText(rest + last_rest, reasoning + last_reasoning)

    def parse_streaming_increment(self, new_text: str) -> ReasoningAndText:
        """Parse the next piece of a reply."""
        if self._stage is None:
            self._stage = self._new_stage()
        reasoning, rest = self._stage.feed(new_text)
        return ReasoningAndText(rest, reasoning)

    def finish(self) -> ReasoningAndText:
        """The reply has ended: give back what was held."""
        if self._stage is None:
            return ReasoningAndText()
        reasoning, rest = self._stage.finish()
        return ReasoningAndText(rest, reasoning)

    def _new_stage(self) -> ReasoningStage:
        return ReasoningStage(
            self._names,
            thinking=self._opening.thinking,
            line_start=self._opening.line_start,
            stream_reasoning=self.stream_reasoning,
            force_nonempty_content=self._force_nonempty_content,
        )


class CallsAndText(NamedTuple):
    """What SGLang reads of a tool-call detector's result, at a fifth of the price of its own checked class."""

    normal_text: str
    # a list: SGLang adds two of them up
    calls: list[ToolCallItem]


class NanoTools(BaseFormatDetector):
    """`reply.tools.ToolStage` as SGLang's tool-call detector; one object reads one reply.

    `prev_tool_call_arr` stays empty: SGLang completes unfinished arguments from it, and ours are finished, or must not
    be. Those it finds in `incomplete_tool_call_indices`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bot_token = CALL_HEADER
        # whether the first character that arrives begins a line, and a think block is open there
        self.line_start = True
        self.thinking = False
        self.max_calls: int | None = None
        self.answers = False
        self.incomplete_tool_call_indices: set[int] = set()
        self._stage: ToolStage | None = None

    def has_tool_call(self, text: str) -> bool:
        return bool(_MAY_CALL.search(text))

    def detect_and_parse(self, text: str, tools: Sequence[Tool]) -> CallsAndText:
        """Parse a whole reply: each call is one item."""
        stage = self._new_stage(tools)
        content, items = _collected([*stage.feed(text), *self._finished(stage)])
        whole: dict[int, ToolCallItem] = {}
        for item in items:
            call = whole.setdefault(item.tool_index, item)
            if call is not item:
                call.parameters += item.parameters
        return CallsAndText(content, list(whole.values()))

    def parse_streaming_increment(self, new_text: str, tools: Sequence[Tool]) -> CallsAndText:
        """Parse the next piece of a reply: an item with a name begins a call, one without goes on with it."""
        if self._stage is None:
            self._stage = self._new_stage(tools)
        events = self._stage.feed(new_text)
        return CallsAndText(*_collected(events)) if events else _NOTHING

    def finish(self, tools: Sequence[Tool]) -> CallsAndText:
        """The reply has ended: give back what was held, and close a call that is open."""
        return CallsAndText(*_collected(self._finished(self._stage) if self._stage is not None else []))

    def _finished(self, stage: ToolStage) -> list[Event]:
        how = ended.get() or Ended()
        events = stage.finish(cut=how.cut, stop=how.stop)
        if stage.unfinished is not None:
            self.incomplete_tool_call_indices.add(stage.unfinished)
        return events

    def structure_info(self) -> Any:
        """Only asked for where `get_structural_tag_name` names nothing."""
        raise NotImplementedError

    def get_structural_tag_name(self) -> str:
        """The name under which XGrammar knows this call format, for required, named and strict tools."""
        return "qwen_3_coder"

    def _new_stage(self, tools: Sequence[Tool]) -> ToolStage:
        # SGLang types the parameters as any object; `http/replies.py` has checked them
        functions: list[Any] = [tool.function for tool in tools]
        specs = [ToolSpec(function.name, function.parameters) for function in functions if function.name]
        return ToolStage(
            specs,
            line_start=self.line_start,
            thinking=self.thinking,
            max_calls=self.max_calls,
            answers=self.answers,
        )


# no call is without this; the parser knows whether it is one
_MAY_CALL = re.compile(r"<function=[^<>\n]+>")
_NOTHING = CallsAndText("", [])


def _collected(events: Sequence[Event]) -> tuple[str, list[ToolCallItem]]:
    """The content of some events, and their calls: fragments of one call that follow each other are one item."""
    if len(events) == 1 and type(events[0]) is ContentDelta:
        return events[0].text, []
    content: list[str] = []
    items: list[ToolCallItem] = []
    for event in events:
        match event:
            case ContentDelta(text):
                content.append(text)
            case CallStarted(index, name):
                items.append(ToolCallItem(tool_index=index, name=name, parameters=""))
            case CallArguments(index, fragment):
                if items and items[-1].tool_index == index and items[-1].name is None:
                    items[-1].parameters += fragment
                else:
                    items.append(ToolCallItem(tool_index=index, parameters=fragment))
    return "".join(content), items


def tool_names(request: Any) -> tuple[str, ...]:
    """The names that a reply to this request may call: none where the request forbids calls.

    `request` is a chat or a responses request of SGLang, or None.
    """
    if request is None or getattr(request, "tool_choice", None) == "none":
        return ()
    tools = list(getattr(request, "tools", None) or ())
    for message in getattr(request, "messages", None) or ():
        tools.extend(getattr(message, "tools", None) or ())
    names = (getattr(getattr(tool, "function", tool), "name", None) for tool in tools)
    return tuple(name for name in names if name)
