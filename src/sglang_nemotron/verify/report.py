"""Turns comparisons into what a person reads (rows of a table, sentences) and what a program reads (plain JSON)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sglang_nemotron.verify.bound import FACTOR, Bound
from sglang_nemotron.verify.compare import REUSING, Comparison
from sglang_nemotron.verify.conversations import Conversation
from sglang_nemotron.verify.modes import COMPANY

NOTHING = "nothing was reused"
# `>`: numbers, to the right
COLUMNS = ("conversation", "mode", ">prompt", ">requests", ">reused", ">positions", ">max|d|", ">/bound", ">ties", "")


def rows(comparisons: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """One row per conversation and mode, for COLUMNS."""
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for one in comparisons:
        groups.setdefault((one.run.conversation, one.run.mode), []).append(one)
    names = list(dict.fromkeys(name for name, _ in groups))
    order = sorted(groups, key=lambda key: (names.index(key[0]), REUSING.index(key[1])))
    return [_row(name, mode, groups[name, mode]) for name, mode in order]


def _row(name: str, mode: str, group: Sequence[Comparison]) -> tuple[str, ...]:
    hits = sorted({one.hit for one in group})
    worst = max(group, key=lambda one: one.excess)
    return (
        name,
        mode,
        str(group[0].run.reply.prompt_tokens),
        str(len(group)),
        str(hits[0]) if len(hits) == 1 else f"{hits[0]}-{hits[-1]}",
        str(sum(one.positions for one in group)),
        f"{worst.worst:.1e}",
        f"{worst.excess:.2f}",
        str(sum(one.tie is not None for one in group)),
        _verdict(group),
    )


def _verdict(group: Sequence[Comparison]) -> str:
    wrong = sum(not one.agrees for one in group)
    if wrong:
        return f"DISAGREES ({wrong} of {len(group)})"
    return "agrees" if any(one.hit for one in group) else NOTHING.upper()


def how_bounded(bound: Bound, prompt_tokens: Sequence[int]) -> str:
    """How the bound was found, with its numbers."""
    floors = [bound.floor(0.0, count) for count in (min(prompt_tokens), max(prompt_tokens))]
    company = ", ".join(str(count) for count in COMPANY)
    return (
        f"the bound: each prompt was computed afresh alone and beside {company} others; of {bound.samples} logprobs "
        f"none moved by more than {bound.noise:.1e}, the server's own noise ({bound.noise / floors[1]:.2g} of what "
        f"rounding alone costs the longest prompt). A run may differ by {FACTOR:g} times "
        f"that, {FACTOR * bound.noise:.1e}, or by what rounding in {bound.dtype} costs, from {floors[0]:.1e} for the "
        f"shortest prompt to {floors[1]:.1e} for the longest, whichever is more"
    )


def sentence(comparisons: Sequence[Comparison]) -> str:
    """Everything in one line."""
    wrong = [one for one in comparisons if not one.agrees]
    ties = sum(one.tie is not None for one in comparisons)
    hits = [one.hit for one in comparisons if one.hit]
    worst = max(comparisons, key=lambda one: one.excess)
    tokens = sum(one.other is not None for one in comparisons)
    return (
        f"{len(comparisons)} requests, {len(hits)} of which reused {min(hits, default=0)} to {max(hits, default=0)} "
        f"tokens: {len(wrong)} disagree; {tokens} took another greedy token for sure, {ties} where the two likeliest "
        f"lay within the bound (either may win; positions after it are not compared); max |d| {worst.worst:.1e}, "
        f"{worst.excess:.2f} of its bound"
    )


def first_faults(comparisons: Sequence[Comparison], count: int = 8) -> list[str]:
    """The clearest disagreements, one line each."""
    wrong = sorted((one for one in comparisons if not one.agrees), key=lambda one: -one.excess)
    lines = [
        f"'{one.run.conversation}' after {one.run.about} ({one.run.mode}, {one.hit} of {one.run.reply.prompt_tokens} "
        f"tokens reused): |d| {one.worst:.1e}, allowed {one.bound:.1e}"
        + (f"; other token at position {one.other}" if one.other is not None else "")
        for one in wrong[:count]
    ]
    return [*lines, f"and {len(wrong) - count} more"] if len(wrong) > count else lines


def raw(comparisons: Sequence[Comparison], conversations: Sequence[Conversation], bound: Bound) -> dict[str, Any]:
    """Everything, ready for json.dumps; None for what is no number."""
    return {
        "bound": {"noise": _finite(bound.noise), "samples": bound.samples, "factor": FACTOR, "dtype": bound.dtype},
        "conversations": [one.name for one in conversations],
        "runs": [
            {
                "conversation": one.run.conversation,
                "mode": one.run.mode,
                "about": one.run.about,
                "prompt_tokens": one.run.reply.prompt_tokens,
                "reused": one.run.reply.cached,
                "positions": one.positions,
                "logprobs": one.logprobs,
                "worst": _finite(one.worst),
                "bound": _finite(one.bound),
                "excess": _finite(one.excess),
                "tie": one.tie,
                "other": one.other,
                "agrees": one.agrees,
            }
            for one in comparisons
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
