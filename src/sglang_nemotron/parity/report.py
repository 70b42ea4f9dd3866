"""Turns differences into what a person reads (a headline, rows of a table) and what a program reads (plain JSON)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sglang_nemotron.parity.compare import Difference, verdict

# `>`: numbers, to the right
COLUMNS = (">length", ">cached", ">prompt max|d|", ">output max|d|", ">greedy", ">unsure")


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


def _row(d: Difference) -> tuple[str, ...]:
    sure = len(d.output) - d.excluded
    prompt = f"{max(d.prompt):.1e}" if d.prompt else "-"
    greedy = f"{sure - len(d.disagreements)}/{sure}"
    return (str(d.length), str(d.answer.cached), prompt, f"{max(d.output, default=0.0):.1e}", greedy, str(d.excluded))


def raw(differences: Sequence[Difference]) -> list[dict[str, Any]]:
    """Everything, ready for json.dumps."""
    return [asdict(d) for d in differences]
