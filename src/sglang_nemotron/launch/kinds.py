"""The rows of the launch table: what may be chosen, what is refused, which flags follow and why.

Plain frozen data that turns into JSON as it is, because two readers interpret it: `choose.py` and the page's script.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# choice -> the values of it that fit; all must hold, and nothing is asked of a choice that is not named
When = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Option:
    """One value of a choice, offered where `when` holds."""

    id: str
    label: str
    note: str = ""
    when: When = field(default_factory=dict)


@dataclass(frozen=True)
class Default:
    """What a choice is where nobody chose, as far as `when` holds."""

    value: str
    when: When = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """One question, answered by one of `options`, or where there are none by a text.

    defaults: the first that fits counts. pattern: what a text must match as a whole; nothing that a shell would read.
    least, most: bounds of a text that is a number. may_be_empty: an empty text means that its flag is left out.
    """

    id: str
    title: str
    flag: str
    help: str
    defaults: tuple[Default, ...]
    options: tuple[Option, ...] = ()
    pattern: str = ""
    expects: str = ""
    least: int | None = None
    most: int | None = None
    may_be_empty: bool = False


@dataclass(frozen=True)
class Refusal:
    """Choices that lead to no command; `reason` says who says so."""

    when: When
    reason: str
    remedy: str


@dataclass(frozen=True)
class Flag:
    """A flag of `sglang serve`. Of the rows of one flag the first that fits counts.

    value: `{choice}` in it stands for what was chosen; an empty one leaves the flag out.
    """

    flag: str
    value: str
    why: str
    when: When = field(default_factory=dict)


@dataclass(frozen=True)
class Note:
    """A sentence beside the command, where `when` holds."""

    text: str
    when: When = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Everything that the command and its page know.

    changed: what differs from the two published pages. evidence: what was tried of a choice; the first that fits
    counts.
    """

    program: str
    choices: tuple[Choice, ...]
    refusals: tuple[Refusal, ...]
    flags: tuple[Flag, ...]
    changed: tuple[Note, ...]
    evidence: tuple[Note, ...]
