"""How a reply ended, on its way from the engine's output to the parsers, which SGLang does not tell."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, NamedTuple


class Ended(NamedTuple):
    """Whether something cut a reply off, and the stop string that did."""

    cut: bool = False
    stop: str = ""


# of the output that SGLang is about to hand to a parser, which it does in the task that took it from the engine
ended: ContextVar[Ended | None] = ContextVar("nemotron_ended", default=None)


def how_it_ended(finish_reason: Any) -> Ended:
    """What SGLang's finish reason says. A matched token is the model's own end."""
    reason = finish_reason if isinstance(finish_reason, dict) else {}
    matched = reason.get("matched")
    stop = matched if isinstance(matched, str) else ""
    return Ended(cut=reason.get("type") == "length" or bool(stop), stop=stop)
