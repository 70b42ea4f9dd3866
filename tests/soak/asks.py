"""One request of a soak: what is sent, how its client behaves, and what may come of it.

Data alone: who makes them is `traffic.py`, who sends them `player.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

CHAT, GENERATE, COMPLETION = "/v1/chat/completions", "/generate", "/v1/completions"

# what a client does with its answer: reads it all; reads a line and sleeps; hangs up after some lines; gives up after
# some seconds; has it aborted after some seconds by another request; sends half of its body and goes
Manner = Literal["reads", "slowly", "hangs up", "gives up", "aborts", "half a body"]
# served: 200 to its end. refused: a 4xx with a message. ended: as served, or ended by abort, limit or client
Fate = Literal["served", "refused", "ended"]


@dataclass(frozen=True, eq=False)
class Ask:
    """kind: a word for the report. body: JSON, or bytes as they are. after: lines or seconds, by `manner`.

    checked: the answer is greedy and carries logprobs, so that the same request alone must get the same.
    media: its items go through a media worker, which may be killed under it.
    """

    kind: str
    path: str
    body: Mapping[str, Any] | bytes
    manner: Manner = "reads"
    after: float = 0.0
    fate: Fate = "served"
    checked: bool = False
    media: bool = False

    @property
    def stream(self) -> bool:
        return isinstance(self.body, Mapping) and bool(self.body.get("stream"))


@dataclass(frozen=True)
class Chore:
    """What an operator does to the server meanwhile."""

    what: Literal["flush", "weights"]


@dataclass(frozen=True)
class Rest:
    """Waits until nothing runs, takes a reading of the idle server, then does the chores."""

    chores: tuple[Chore, ...] = ()


@dataclass(frozen=True)
class Step:
    """pause: seconds since the step before. A `Rest` ends a wave of the weather that `wave` names."""

    pause: float
    does: Ask | Chore | Rest
    wave: str


@dataclass(frozen=True)
class Place:
    """What a script must know of the server. context: in tokens. top_id: ids are below it. model: its name."""

    context: int
    top_id: int
    omni: bool
    model: str = "default"
    bad: Mapping[str, Ask] = field(default_factory=dict)
