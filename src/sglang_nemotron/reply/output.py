"""Makes events of what was read of a reply: content, names, values and words between tags come in, events go out.

Keeps what belongs together apart from where it stood: the text before a call and behind it, the words between the tags
of a call. Knows nothing of tags.
"""

from __future__ import annotations

from collections.abc import Mapping

from .arguments import Arguments
from .events import CallArguments, CallStarted, ContentDelta, Event
from .schema import ToolSpec


class Joint:
    """Keeps the text before a call apart from the text behind it: they are one content, and would run together.

    Where something visible precedes, something visible follows, and neither has a newline at the joint, one is put in
    with what follows.
    """

    __slots__ = ("_blank", "_ends_line", "_open", "_visible")

    def __init__(self) -> None:
        # whether anything visible came, and whether a newline came behind it
        self._visible = False
        self._ends_line = False
        # whether a call stands between what came and what comes, and blanks that came behind it
        self._open = False
        self._blank: list[str] = []

    def cut(self) -> None:
        """A call stands here."""
        self._open = self._open or (self._visible and not self._ends_line)

    def join(self, text: str) -> str:
        """The content to pass on for the next piece of it."""
        if self._open:
            visible = text.lstrip()
            ends_line = "\n" in text[: len(text) - len(visible)]
            if not visible and not ends_line:
                self._blank.append(text)
                return ""
            text = "".join((*self._blank, text)) if ends_line else "".join(("\n", *self._blank, text))
            self._open = False
            self._blank.clear()
        visible = text if not text[-1].isspace() else text.rstrip()
        if visible:
            self._visible, self._ends_line = True, False
        if len(visible) < len(text) and not self._ends_line:
            self._ends_line = "\n" in text[len(visible) :]
        return text

    def finish(self) -> str:
        """The content has ended: blanks that nothing visible followed."""
        blank = "".join(self._blank)
        self._blank.clear()
        return blank


class Output:
    """The events of one reply's content. Calls behind the first `max_calls` are dropped, their words are not."""

    __slots__ = (
        "_events",
        "_index",
        "_joint",
        "_keep_left_over",
        "_max_calls",
        "_open",
        "_specs",
        "_words",
        "arguments",
        "unfinished",
    )

    def __init__(self, specs: Mapping[str, ToolSpec], max_calls: int | None, *, keep_left_over: bool = True) -> None:
        """`keep_left_over`: a value whose name is written already is content, not dropped."""
        self._specs = specs
        self._max_calls = max_calls
        self._keep_left_over = keep_left_over
        self._index = -1
        self._joint = Joint()
        self._events: list[Event] = []
        # of the call that is open, or was last: whether it is open, its arguments, words between its tags
        self._open = False
        self.arguments = Arguments(ToolSpec(""))
        self._words: list[str] = []
        # the index of a call that was cut inside a value
        self.unfinished: int | None = None

    def content(self, text: str) -> None:
        """More content, as it comes."""
        if text:
            self._say(self._joint.join(text))

    def aside(self, words: str) -> None:
        """Words that tags of a call stand around: content of their own."""
        if words:
            self._joint.cut()
            self.content(words)
        self._joint.cut()

    def within(self, words: str) -> None:
        """Words within the call that is open; they come behind it, so that nothing stands between its fragments."""
        self._words.append(words)

    def start(self, name: str) -> None:
        """A call begins."""
        self._joint.cut()
        self._index += 1
        if not self._dropped:
            self._events.append(CallStarted(self._index, name))
        self.arguments = Arguments(self._specs[name])
        self._open = True

    def end_value(self, cut: str = "") -> None:
        """The value that is open is over (`arguments.Arguments.end`)."""
        self.arguments.end(cut)
        self._leave_over()

    def close(self) -> None:
        """The call that is open is over."""
        self.arguments.close()
        self._end_call()

    def abandon(self) -> None:
        """The reply was cut inside the value that is open."""
        self.arguments.abandon()
        if not self._dropped:
            self.unfinished = self._index
        self._leave_over()
        self._end_call()

    def finish(self) -> None:
        """The text has ended."""
        self._say(self._joint.finish())

    def take(self) -> list[Event]:
        """The events since this was asked last."""
        if self._open:
            self._flush()
        events, self._events = self._events, []
        return events

    @property
    def _dropped(self) -> bool:
        return self._max_calls is not None and self._index >= self._max_calls

    def _leave_over(self) -> None:
        left = self.arguments.left_over()
        if self._keep_left_over:
            self._words += left

    def _end_call(self) -> None:
        self._flush()
        for words in self._words:
            self.aside(words)
        self._words.clear()
        self._open = False

    def _say(self, text: str) -> None:
        if text:
            self._events.append(ContentDelta(text))

    def _flush(self) -> None:
        fragment = self.arguments.take()
        if fragment and not self._dropped:
            self._events.append(CallArguments(self._index, fragment))
