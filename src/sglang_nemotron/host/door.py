"""One row of the table of doors: something that we register with SGLang or put around it, and how we prove that it is
ours. Each file that replaces or wraps something owns its row; `doors.py` collects and walks them.

A file with a row is imported in every process, before SGLang has parsed an argument: it imports nothing of SGLang's at
its top that is not there by then.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sglang_nemotron.host.refusal import REMEDY
from sglang_nemotron.host.wrapping import Wrap, first_unwrapped, wrap_once

Stage = Literal["args", "engine", "http"]


def nothing() -> None:
    """For a row that only wraps, or that SGLang opens by itself."""


def all_is_well() -> str | None:
    return None


def always() -> bool:
    return True


@dataclass(frozen=True)
class Door:
    """One registration. `open` does it (may be repeated), `is_ours` says None or why not; `stage`: when it is proved.

    args: while the main process parses arguments. engine: once SGLang's model registry is imported (the scheduler,
    and the main process when it resolves one of our architectures). http: the main process then, and HTTP workers.

    needs: SGLang's modules that it opens into; before they are there it is too early, unless `early`. wraps: what it
    puts ours around, and `without`, what is wrong if it is not there. wanted: whether this process has a use for it.
    """

    name: str
    stage: Stage
    what: str
    needs: tuple[str, ...] = ()
    opens: Callable[[], None] = nothing
    proof: Callable[[], str | None] = all_is_well
    wraps: tuple[Wrap, ...] = ()
    without: str = ""
    early: bool = False
    wanted: Callable[[], bool] = always
    remedy: str = REMEDY

    @property
    def mark(self) -> str:
        """By which a wrapper of this row is known."""
        return "nemotron_" + self.name.replace(" ", "_")

    def is_time(self) -> bool:
        return self.early or all(module in sys.modules for module in self.needs)

    def open(self) -> None:
        """Does it, if this process wants it and what it opens into is there; may be repeated."""
        if self.wanted() and self.is_time():
            wrap_once(self.wraps, self.mark)
            self.opens()

    def is_ours(self) -> str | None:
        """None, or what somebody else would serve."""
        if not self.wanted():
            return None
        if unwrapped := first_unwrapped(self.wraps, self.mark):
            return f"{unwrapped} {self.without}"
        return self.proof()
