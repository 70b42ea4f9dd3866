"""First half of the reply grammar: the model's text goes in, reasoning and the rest (content and calls) come out.

Knows where the think block ends and nothing of what a call contains. It can run alone (a server without tool parsing)
or in front of `tools.ToolStage`; it hands a call on untouched, so both arrangements give the same reply.

What belongs to the block
-------------------------
=============================================  ========================================================================
the reply                                      result
=============================================  ========================================================================
thinking on: `r\\n</think>\\nc`                  reasoning `r`, content `c`
thinking on, no `</think>`                     all reasoning (`force_nonempty_content`: all content)
thinking on, text begins with `</think>`       an empty block: no reasoning
thinking on, text begins with `<think>`        the opener is repeated markup and is dropped, once
thinking on, a call (see `markup.call_header`)  the call ends the block; a later `</think>` is content
   starts a line                               (so it does when no tool parser runs: then its markup is content)
thinking off                                   all content, `</think>` included
thinking off, text begins with `<think>`       the model opened a block itself: as thinking on
any other `<think>`, `</think>`, `<tool_call>`  text, where it stands
=============================================  ========================================================================

The first `</think>` of an open block closes it wherever it stands, since clients and budgets force it mid-line.

Whitespace. The template writes `<think>\\n`, `\\n</think>\\n`, `\\n<tool_call>`; exactly these single newlines are
markup and dropped: one after a `<think>` of the reply, one before and one after the closing `</think>`, one before a
call that ends the block. All other whitespace is kept, so that a turn rendered again is the text that the model wrote.

Requests
--------
* `stream_reasoning=False`: reasoning comes out in one piece, when the block ends or the text does.
* `force_nonempty_content`: a reply whose rest is blank (and holds no call) gives its reasoning as content instead,
  never both. That can be told only at the first visible character of the rest, so reasoning is held until then.
  It is content in every respect then, so that a call in a loose form (`tools`) is a call.
* `separate_reasoning=False`: this stage is left out; the whole text is content and calls.
* `continue_final_message`, history, Omni's `/think` and `/no_think`: all of these show in the rendered prompt alone.
  Ask `opening(prompt)`, not the request, whether the reply begins in a think block. `reasoning_content` in the history
  and `truncate_history_thinking` are the template's; they change no rule here.
* `skip_special_tokens=False`: the think and call tags are ordinary text to a tokenizer and appear either way; special
  tokens that then show up (`<|im_end|>`) are text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from .markup import MORE, NO, THINK_CLOSE, THINK_OPEN, Names, call_header, is_cut

ASSISTANT_HEADER: Final = "<|im_start|>assistant"

# nothing read yet (a `<think>` may open a block), outside or inside a block of the prompt; in the block; behind it
_START, _START_THINKING, _THINK, _REST = range(4)


@dataclass(frozen=True)
class Opening:
    """How a reply begins, read from the end of its prompt."""

    # the prompt has opened a think block and not closed it
    thinking: bool
    # the first character of the reply begins a line (a call may begin there)
    line_start: bool


def opening(prompt: str) -> Opening:
    """Read off a rendered prompt whether its reply begins inside a think block, and at a line start.

    Looks only behind the last assistant header, so tags typed by a user do not count. The tail of a prompt is enough;
    for a detector that sees no prompt, `"<think>\\n" + prefix` or `"<think></think>" + prefix` stands in for it.
    """
    header = prompt.rfind(ASSISTANT_HEADER)
    turn = prompt[header + len(ASSISTANT_HEADER) :] if header >= 0 else prompt
    opened, closed = turn.rfind(THINK_OPEN), turn.rfind(THINK_CLOSE)
    ends_with_tag = turn.endswith((THINK_OPEN, THINK_CLOSE))
    return Opening(thinking=opened > closed, line_start=not turn or turn.endswith("\n") or ends_with_tag)


class ReasoningStage:
    """Splits one reply into reasoning and rest, incrementally.

    `feed` and `finish` return (reasoning, rest), in this order in the text. Concatenated over any cutting of the same
    text they are the same two strings. Time is linear in the text; memory is constant unless reasoning is held back.
    """

    __slots__ = (
        "_blank",
        "_buffer",
        "_declared",
        "_kept",
        "_line_start",
        "_nonempty",
        "_skip_newline",
        "_state",
        "_stream",
    )

    def __init__(
        self,
        names: Iterable[str] = (),
        *,
        thinking: bool = True,
        line_start: bool = True,
        stream_reasoning: bool = True,
        force_nonempty_content: bool = False,
    ) -> None:
        """`names` are the declared tools; `thinking` and `line_start` are those of `opening(prompt)`."""
        self._declared = Names(names)
        self._state = _START_THINKING if thinking else _START
        # whether the first character of the buffer begins a line, when no newline in the buffer says so
        self._line_start = line_start
        self._buffer = ""
        # a newline that comes next is markup
        self._skip_newline = False
        self._stream = stream_reasoning and not force_nonempty_content
        # true until visible content appears; then, and in other requests, nothing has to be held back
        self._nonempty = force_nonempty_content
        self._kept: list[str] = []
        self._blank: list[str] = []

    @property
    def thinking(self) -> bool:
        """Whether the text so far leaves the think block open."""
        return self._state in (_THINK, _START_THINKING)

    @property
    def at_line_end(self) -> bool:
        """Whether the text so far ends with a newline, and not inside what may become a call header."""
        return self._buffer == "\n" or (not self._buffer and self._line_start)

    def save(self) -> tuple[int, bool, str, bool]:
        """What `restore` needs to come back here; only for a stage that holds no reasoning back."""
        assert self._stream, "a stage that holds reasoning back cannot be rewound"
        return self._state, self._line_start, self._buffer, self._skip_newline

    def restore(self, saved: tuple[int, bool, str, bool]) -> None:
        self._state, self._line_start, self._buffer, self._skip_newline = saved

    def feed(self, text: str) -> tuple[str, str]:
        """Take the next piece of the reply."""
        if self._state == _REST:
            if self._stream and not self._skip_newline:
                return "", text
            return self._settle("", text)
        if self._buffer:
            text = self._buffer + text
        # most pieces hold no tag
        if "<" in text or not text or self._skip_newline or self._state != _THINK:
            return self._advance(text, final=False)
        if text[-1] != "\n":
            self._buffer = ""
            self._line_start = False
        else:
            # the newline may belong to a tag
            self._buffer = "\n"
            text = text[:-1]
            self._line_start = text[-1] == "\n" if text else self._line_start
        if self._stream:
            return text, ""
        self._kept.append(text)
        return "", ""

    def finish(self) -> tuple[str, str]:
        """The text has ended: give back what was held."""
        reasoning, rest = ("", "") if self._state == _REST else self._advance(self._buffer, final=True)
        kept = "".join(self._kept)
        self._kept.clear()
        if not self._nonempty:
            return kept + reasoning, rest
        assert not reasoning and not rest
        rest = kept + "".join(self._blank)
        self._blank.clear()
        return "", rest

    def _advance(self, text: str, final: bool) -> tuple[str, str]:
        if self._state in (_START, _START_THINKING):
            if not final and is_cut(THINK_OPEN, text, 0):
                self._buffer = text
                return "", ""
            opened = text.startswith(THINK_OPEN) and self._line_start
            if not opened and self._state == _START and (text or final):
                self._state, self._buffer = _REST, ""
                return self._settle("", text)
            if not text:
                return "", ""
            self._state = _THINK
            if opened:
                text, self._skip_newline = text[len(THINK_OPEN) :], True
        return self._think(text, final)

    def _think(self, text: str, final: bool) -> tuple[str, str]:
        """Look for the end of the block in `text`, which begins where the buffer began."""
        start = 0
        if self._skip_newline and text:
            start = 1 if text[0] == "\n" else 0
            self._skip_newline = False
        at = text.find("<", start)
        while at >= 0:
            if text.startswith(THINK_CLOSE, at):
                return self._end(text, start, at, at + len(THINK_CLOSE), skip_newline=True)
            begins_line = text[at - 1] == "\n" if at > 0 else self._line_start
            header = call_header(text, at, self._declared) if begins_line else NO
            if header > 0:
                return self._end(text, start, at, at, skip_newline=False)
            if not final and (header == MORE or is_cut(THINK_CLOSE, text, at)):
                break
            at = text.find("<", at + 1)
        keep = len(text) if at < 0 or final else at
        # the newline before a tag is markup if the tag is
        if not final and keep > start and text[keep - 1] == "\n":
            keep -= 1
        self._buffer = text[keep:]
        if keep > 0:
            self._line_start = text[keep - 1] == "\n"
        return self._settle(text[start:keep], "")

    def _end(self, text: str, start: int, at: int, rest: int, skip_newline: bool) -> tuple[str, str]:
        self._state, self._buffer, self._skip_newline = _REST, "", skip_newline
        if at > start and text[at - 1] == "\n":
            at -= 1
        return self._settle(text[start:at], text[rest:])

    def _settle(self, reasoning: str, rest: str) -> tuple[str, str]:
        """Hold back what the request wants held; drop the newline behind the block."""
        if self._state == _REST and self._skip_newline and rest:
            rest = rest.removeprefix("\n")
            self._skip_newline = False
        if not self._stream:
            if reasoning:
                self._kept.append(reasoning)
            if self._nonempty:
                if not rest or rest.isspace():
                    self._blank.append(rest)
                    return "", ""
                rest = "".join(self._blank) + rest
                self._blank.clear()
                self._nonempty = False
            if self._state != _REST:
                return "", ""
            reasoning = "".join(self._kept)
            self._kept.clear()
            self._stream = True
        return reasoning, rest
