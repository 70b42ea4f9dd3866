"""What was chosen comes in, the command with the reason of each flag goes out, or a refusal.

Interprets the launch table; the page's script (`page.js`) does the same in a browser, and a test compares the two
for every combination and every mistake.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from sglang_nemotron.launch.kinds import Choice, Note, Option, Refusal, When
from sglang_nemotron.launch.table import TABLE

# between two words of a command on several lines
_NEW_LINE = " \\\n  "


class Refused(ValueError):
    """These choices lead to no command; the text is the reason and the remedy."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}\n  remedy: {remedy}")
        self.reason, self.remedy = reason, remedy


@dataclass(frozen=True)
class Chosen:
    """A flag as it stands in the command, with its reason."""

    flag: str
    value: str
    why: str


@dataclass(frozen=True)
class Launch:
    """values: an answer to every choice. changed: what the published page has otherwise. evidence: what was tried."""

    values: Mapping[str, str]
    flags: tuple[Chosen, ...]
    changed: tuple[str, ...]
    evidence: str

    @property
    def words(self) -> list[str]:
        """The command, word by word; no word needs a shell's quotes."""
        return [*TABLE.program.split(), *(word for one in self.flags for word in (one.flag, one.value))]

    @property
    def command(self) -> str:
        """The command as text, on one line or several."""
        between = " " if self.values["format"] == "line" else _NEW_LINE
        return between.join([TABLE.program, *(f"{one.flag} {one.value}" for one in self.flags)])


def launch(asked: Mapping[str, str]) -> Launch:
    """The command for the choices in `asked`, defaults elsewhere.

    Raises ValueError for a value that is not offered, naming it and what is; `Refused` for values that do not go
    together.
    """
    values = answers(asked)
    if (refusal := refusal_of(values)) is not None:
        raise Refused(refusal.reason, refusal.remedy)
    return Launch(values, tuple(_flags(values)), tuple(_fitting(TABLE.changed, values)), _evidence(values))


def refusal_of(values: Mapping[str, str]) -> Refusal | None:
    """The first row that refuses these answers; a row that asks for a choice that is not among them refuses nothing."""
    return next((refusal for refusal in TABLE.refusals if fits(refusal.when, values)), None)


def flag_of(name: str, values: Mapping[str, str]) -> Chosen | None:
    """One flag of the command for these answers, or None where it is left out."""
    row = next((row for row in TABLE.flags if row.flag == name and fits(row.when, values)), None)
    if row is None or not (value := _filled(row.value, values)):
        return None
    return Chosen(name, value, _filled(row.why, values))


def answers(asked: Mapping[str, str]) -> dict[str, str]:
    """An answer to every choice; ValueError for one that is not offered."""
    unknown = [name for name in asked if name not in {choice.id for choice in TABLE.choices}]
    if unknown:
        raise ValueError(f"there is no choice {unknown[0]!r}")
    values: dict[str, str] = {}
    for choice in TABLE.choices:
        value = asked.get(choice.id, default(choice, values))
        if wrong := _wrong(choice, value, values):
            raise ValueError(wrong)
        values[choice.id] = value
    return values


def fits(when: When, values: Mapping[str, str]) -> bool:
    return all(values.get(name) in allowed for name, allowed in when.items())


def default(choice: Choice, values: Mapping[str, str]) -> str:
    """A choice's answer where nobody chose, after the answers before it."""
    return next(one.value for one in choice.defaults if fits(one.when, values))


def offered(choice: Choice, values: Mapping[str, str]) -> list[Option]:
    """A choice's options, after the answers before it."""
    return [option for option in choice.options if fits(option.when, values)]


def fragment(values: Mapping[str, str]) -> str:
    """The end of the page's address that holds these choices."""
    return "#" + urlencode({name: value for name, value in values.items() if value})


def combinations() -> Iterator[dict[str, str]]:
    """Every combination of options that each model offers, refused ones too; texts stay as they are unasked."""
    choices = [choice for choice in TABLE.choices if choice.options and choice.id != "format"]
    for options in itertools.product(*(choice.options for choice in choices)):
        values = {choice.id: option.id for choice, option in zip(choices, options, strict=True)}
        if all(fits(option.when, values) for option in options):
            yield values


def _wrong(choice: Choice, value: str, values: Mapping[str, str]) -> str | None:
    """What is wrong with an answer, and what is right, or None."""
    if choice.options:
        known = [option.id for option in offered(choice, values)]
        return (
            None
            if value in known
            else f"{choice.flag} is {_quoted(value)}{_of(choice, value, values)}" + _instead(", ".join(known))
        )
    if value == "" and choice.may_be_empty:
        return None
    right = re.fullmatch(choice.pattern, value) is not None
    if right and choice.least is not None and choice.most is not None:
        right = choice.least <= int(value) <= choice.most
    return None if right else f"{choice.flag} is {_quoted(value)}" + _instead(choice.expects)


def _of(choice: Choice, value: str, values: Mapping[str, str]) -> str:
    """For an option that only the other model has."""
    elsewhere = any(option.id == value for option in choice.options)
    return f", which {values['model']} does not have" if elsewhere else ""


def _quoted(value: str) -> str:
    # a message is one line, whatever was typed
    return "'" + re.sub(r"\s+", " ", value) + "'"


def _instead(allowed: str) -> str:
    return f"\n  remedy: give {allowed}"


def _flags(values: Mapping[str, str]) -> Iterator[Chosen]:
    names = dict.fromkeys(row.flag for row in TABLE.flags)
    return (chosen for name in names if (chosen := flag_of(name, values)) is not None)


def _filled(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\{([a-z-]+)\}", lambda found: values[found[1]], text)


def _fitting(notes: tuple[Note, ...], values: Mapping[str, str]) -> Iterator[str]:
    return (note.text for note in notes if fits(note.when, values))


def _evidence(values: Mapping[str, str]) -> str:
    return next(_fitting(TABLE.evidence, values))
