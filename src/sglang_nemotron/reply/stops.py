"""Where a reply ends at a stop string of its request: pieces of its text go in, the match or nothing comes out.

Stop strings are for the answer. Thoughts do not stop at one, and neither does what stands in them count later; from
the end of the think block on, all text counts, the markup of calls included. The first match to be complete wins, and
of several that end together the longest. A match may lie across any number of pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .reasoning import ReasoningStage


@dataclass(frozen=True)
class StopMatch:
    """The stop string, and how many characters of the reply, thoughts included, come before it."""

    stop: str
    at: int


class StopWatch:
    """Looks for the stop strings of one request in one reply; each piece is looked at once."""

    __slots__ = ("_num_read", "_stage", "_stops", "_tail", "_tail_size")

    def __init__(self, stops: Sequence[str], stage: ReasoningStage | None = None) -> None:
        """`stage` tells thoughts from the answer; without one all is answer. ValueError for an empty stop string."""
        check_stops(stops)
        self._stops = tuple(stops)
        self._stage = stage
        # what a match that is not complete yet can reach back to
        self._tail_size = max(map(len, stops), default=1) - 1
        self._tail = ""
        self._num_read = 0

    @property
    def holding(self) -> bool:
        """Whether the text so far ends with the beginning of a stop string, which nobody should be shown yet."""
        return any(
            self._tail.endswith(stop[:size])
            for stop in self._stops
            for size in range(1, min(len(stop) - 1, len(self._tail)) + 1)
        )

    def feed(self, text: str) -> StopMatch | None:
        """Take the next piece; after a match, the reply is over."""
        self._num_read += len(text)
        answer = text if self._stage is None else self._stage.feed(text)[1]
        if not answer:
            return None
        window = self._tail + answer
        self._tail = window[-self._tail_size :] if self._tail_size else ""
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := window.find(stop)) >= 0]
        if not found:
            return None
        _, at, stop = min(found)
        # an answer is the end of the reply as it stands, so places are counted from there
        return StopMatch(stop, self._num_read - (len(window) - at))


def check_stops(stops: Sequence[str]) -> None:
    """ValueError for a stop string of no characters, which every reply holds before it has begun."""
    for number, stop in enumerate(stops):
        if not stop:
            raise ValueError(f"stop string {number + 1} of {len(stops)} is empty; leave it out, or send some text")
