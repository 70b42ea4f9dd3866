"""Starts of servers in a test session: counted where they happen, told at the end."""

from __future__ import annotations

from dataclasses import dataclass, field

# a session without the matrix must stay quick: one start costs half a minute
MAX_STARTS = 12


@dataclass(frozen=True)
class Start:
    """One start of a server. seconds: until it was ready, None if it was refused."""

    test: str
    flags: str
    seconds: float | None


@dataclass
class Starts:
    """Of this process, and of workers that have told theirs."""

    made: list[Start] = field(default_factory=list)
    # whether a test of the matrix ran, which may start more
    matrix_ran: bool = False

    @property
    def too_many(self) -> bool:
        return len(self.made) > MAX_STARTS and not self.matrix_ran


STARTS = Starts()
