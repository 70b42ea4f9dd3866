"""Turns differences into what a person reads (a table) and what a program reads (plain JSON)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sglang_nemotron.parity.compare import Difference, verdict

_HEAD = f"{'length':>7} {'cached':>7} {'prompt max|d|':>14} {'output max|d|':>14} {'greedy':>8} {'unsure':>7}"


def table(mode: str, differences: Sequence[Difference]) -> str:
    """One line per prompt, a headline above."""
    v = verdict(differences)
    lines = [
        f"{mode}: {v.answers} prompts, {v.positions} logprobs, max |delta| {v.worst:.1e}, mean {v.mean:.1e}; "
        f"greedy {v.greedy_positions - v.excluded - v.disagreements}/{v.greedy_positions - v.excluded} the same, "
        f"{v.excluded} excluded",
        _HEAD,
    ]
    lines.extend(_line(d) for d in differences)
    return "\n".join(lines)


def _line(d: Difference) -> str:
    sure = len(d.output) - d.excluded
    prompt = f"{max(d.prompt):.1e}" if d.prompt else "-"
    return (
        f"{d.length:>7} {d.answer.cached:>7} {prompt:>14} {max(d.output, default=0.0):>14.1e} "
        f"{sure - len(d.disagreements):>4}/{sure:<3} {d.excluded:>7}"
    )


def raw(differences: Sequence[Difference]) -> list[dict[str, Any]]:
    """Everything, ready for json.dumps."""
    return [asdict(d) for d in differences]
