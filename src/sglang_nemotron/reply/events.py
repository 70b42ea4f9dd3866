"""What a reply comes out as, piece by piece: reasoning, content and calls. Knows nothing of text or tags."""

from __future__ import annotations

from dataclasses import dataclass


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
