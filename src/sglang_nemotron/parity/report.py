"""Turns differences into what a person reads (headlines, tables, a verdict) and what a program reads (plain JSON)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sglang_nemotron.parity.compare import Difference, verdict

# `>`: numbers, to the right
COLUMNS = (">length", ">cached", ">prompt max|d|", ">output max|d|", ">greedy", ">unsure")
MEDIA_COLUMNS = ("about", *COLUMNS)


@dataclass(frozen=True)
class Part:
    """What was compared under one bound.

    bound: of |delta logprob| in float32; where `noise` is given, of the mean over what the server's dtype costs the
    reference itself.
    """

    name: str
    dtype: str
    differences: Sequence[Difference]
    bound: float
    noise: float | None = None

    @property
    def ratio(self) -> float | None:
        """Of the server's mean error and the reference's own in the same dtype; infinite where that has none."""
        if self.noise is None:
            return None
        return verdict(self.differences).mean / self.noise if self.noise else float("inf")

    @property
    def passed(self) -> bool:
        total = verdict(self.differences)
        if self.ratio is None:
            return total.passes(self.bound)
        # written so that a NaN fails
        return total.positions > 0 and total.problems == 0 and self.ratio <= self.bound

    def line(self) -> str:
        """The verdict as a sentence, with what it rests on."""
        total = verdict(self.differences)
        if self.noise is not None:
            return (
                f"mean |delta logprob| against transformers in float32: server in {self.dtype} {total.mean:.3e}, "
                f"transformers in {self.dtype} {self.noise:.3e}; ratio {self.ratio:.3f}, allowed {self.bound}"
                f"{_problems(total.problems)}"
            )
        return (
            f"max |delta logprob| {total.worst:.2e} over {total.positions} logprobs, allowed {self.bound:g}; "
            f"{total.disagreements} greedy tokens differ of {total.greedy_positions - total.excluded}; "
            f"{total.excluded} of {total.greedy_positions} excluded, allowed fewer than 1 %{_problems(total.problems)}"
        )

    def raw(self) -> dict[str, Any]:
        """Ready for json.dumps."""
        outcome: dict[str, Any] = {"passed": self.passed, "bound": self.bound, **asdict(verdict(self.differences))}
        return outcome if self.noise is None else outcome | {"reference_noise": self.noise, "ratio": self.ratio}


def _problems(number: int) -> str:
    return f"; {number} prompts differ" if number else ""


def headline(mode: str, differences: Sequence[Difference]) -> str:
    """One line about all prompts of a mode."""
    v = verdict(differences)
    return (
        f"{mode}: {v.answers} prompts, {v.positions} logprobs, max |delta| {v.worst:.1e}, mean {v.mean:.1e}; "
        f"greedy {v.greedy_positions - v.excluded - v.disagreements}/{v.greedy_positions - v.excluded} the same, "
        f"{v.excluded} excluded"
    )


def rows(differences: Sequence[Difference]) -> list[tuple[str, ...]]:
    """One row per prompt, for COLUMNS."""
    return [_row(difference) for difference in differences]


def media_rows(differences: Sequence[Difference]) -> list[tuple[str, ...]]:
    """One row per conversation, for MEDIA_COLUMNS."""
    return [(difference.about, *_row(difference)) for difference in differences]


def notes(differences: Sequence[Difference]) -> list[str]:
    """What numbers do not say: prompts that differ, ties that had to be turned."""
    said = [f"{d.about}: {d.problem}" for d in differences if d.problem]
    return said + [
        f"{d.about}: equal with a tie of the reference the other way ({'; '.join(d.turned)})"
        for d in differences
        if d.turned
    ]


def _row(d: Difference) -> tuple[str, ...]:
    sure = len(d.output) - d.excluded
    prompt = f"{max(d.prompt):.1e}" if d.prompt else "-"
    output = f"{max(d.output):.1e}" if d.output else "-"
    greedy = f"{sure - len(d.disagreements)}/{sure}"
    return (str(d.length), str(d.answer.cached), prompt, output, greedy, str(d.excluded))


def raw(differences: Sequence[Difference]) -> list[dict[str, Any]]:
    """Everything, ready for json.dumps."""
    return [asdict(d) for d in differences]
