"""Where Markdown makes tags prose: content comes in, in pieces; whether a tag at its end would be quoted is known.

A fence is a line that begins, indentation aside, with three or more backticks or tildes; the same character, at least
as often and alone on its line, closes it. Knows nothing of tags.
"""

from __future__ import annotations

import re
from typing import Final

_FENCE: Final = re.compile(r"[ \t]*(`{3,}|~{3,})(.*)", re.DOTALL)
# as much of a line as can make it a fence
_MAX_HEAD: Final = 256
# pieces that are kept before they are read
_MOST_UNREAD: Final = 1000


class Markdown:
    """Follows the fences and backticks of one reply's content. Time is linear in the text, memory constant.

    Most replies are never asked about, so pieces are read when it is asked, or when many have come.
    """

    __slots__ = ("_fence", "_head", "_ticks", "_unread")

    def __init__(self) -> None:
        # the run that opened the fence that is open
        self._fence = ""
        # of the line that has begun: its first characters, and how many backticks it has
        self._head = ""
        self._ticks = 0
        self._unread: list[str] = []

    def feed(self, text: str) -> None:
        """Take more of the content."""
        self._unread.append(text)
        if len(self._unread) > _MOST_UNREAD:
            self._catch_up()

    def end_line(self) -> None:
        """The line that has begun is over: it may open or close a fence."""
        self._catch_up()
        self._end_line()

    @property
    def quotes(self) -> bool:
        """Whether a tag is prose here: in a fence, on a line that opens one, or behind an odd number of backticks."""
        self._catch_up()
        behind = self._behind()
        # what stands behind a closing fence on its line is outside
        return bool(behind) if self._fence or behind else self._ticks % 2 == 1

    def _catch_up(self) -> None:
        text = "".join(self._unread)
        self._unread.clear()
        end = text.find("\n")
        if end < 0:
            self._go_on(text)
            return
        self._go_on(text[:end])
        self._end_line()
        if "`" not in text and "~" not in text:
            # lines that cannot be fences
            end = text.rfind("\n")
            self._go_on(text[end + 1 :])
            return
        lines = text[end + 1 :].split("\n")
        for line in lines[:-1]:
            self._go_on(line)
            self._end_line()
        self._go_on(lines[-1])

    def _end_line(self) -> None:
        if self._head:
            self._fence = self._behind()
        self._head, self._ticks = "", 0

    def _go_on(self, text: str) -> None:
        if not text:
            return
        self._ticks += text.count("`")
        if len(self._head) < _MAX_HEAD:
            self._head += text[: _MAX_HEAD - len(self._head)]

    def _behind(self) -> str:
        """The fence that would be open behind the line that has begun, if it ended here."""
        line = _FENCE.match(self._head) if self._head.lstrip(" \t")[:3] in ("```", "~~~") else None
        if line is None:
            return self._fence
        run, rest = line.groups()
        if self._fence:
            closes = run[0] == self._fence[0] and len(run) >= len(self._fence) and not rest.strip()
            return "" if closes and len(self._head) < _MAX_HEAD else self._fence
        # backticks behind a run of backticks make it a code span
        return "" if run[0] == "`" and self._ticks > len(run) else run
