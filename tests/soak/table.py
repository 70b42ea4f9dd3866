"""The JSON of two soaks comes in, the table of docs/reliability.md goes out, line by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def soaks() -> dict[str, dict[str, Any]]:
    """What is committed: by the word of its column."""
    return {name: json.loads((BENCHMARKS / f"soak_{name.lower()}.json").read_text()) for name in ("text", "Omni")}


def table(found: dict[str, dict[str, Any]]) -> list[str]:
    """Markdown."""
    rows: dict[str, list[str]] = {}
    for one in found.values():
        compared, slowest, chores = one["compared"], one["slowest"], one["chores"]
        flushed = sum(count for name, count in chores.items() if name.startswith("flush") and name.endswith("200"))
        loaded = sum(count for name, count in chores.items() if name.startswith("weights"))
        for name, value in {
            "minutes of traffic": f"{one['seconds'] / 60:.1f}",
            "requests": f"{one['requests']:,}",
            "of them at once, at most": f"{one['most at once']}",
            "bad ones, all refused": f"{_of_kinds(one, 'bad'):,}",
            "answers asked for again": f"{compared['asked again alone']} of {compared['served and greedy']:,}",
            "wrong answers": f"**{compared['wrong']}**",
            "ties": f"{compared['ties']}",
            "largest difference of a logprob": f"{compared['largest difference of a logprob']:.1e}",
            "caches flushed, weights loaded": f"{flushed}, {loaded}",
            "media workers killed": f"{one['killed workers']}",
            "requests that lost theirs, and got a 400": f"{one['requests lost with a killed worker']}",
            "slowest answer that was waited for": f"{slowest['seconds']:.1f} s; bound {slowest['bound']:g} s",
            "leaked slots, tokens, files, processes, sockets": f"**{len(_leaks(one))}**",
            "what did not pass": "nothing" if one["passed"] else f"{len(one['problems'])}, see below",
            **{f"memory of {role}, bytes a request": said for role, said in _slopes(one).items()},
        }.items():
            rows.setdefault(name, []).append(value)
    head = [f"| | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|"]
    return head + [f"| {name} | {' | '.join(values)} |" for name, values in rows.items()]


def _leaks(one: dict[str, Any]) -> list[str]:
    """Of what did not pass, what `judge.leaks` says."""
    return [problem for problem in one["problems"] if problem.endswith(" at the end") or " stays: " in problem]


def _of_kinds(one: dict[str, Any], word: str) -> int:
    return sum(kind["requests"] for name, kind in one["kinds"].items() if name.split()[0] == word)


def _slopes(one: dict[str, Any]) -> dict[str, str]:
    roles = one["memory"]["roles"]
    said = {}
    for role in ("http", "scheduler", "detokenizer", "media worker"):
        found = roles.get(role)
        said[role] = "none" if found is None else f"{found['slope']:+,} ± {found['error']:,}, {found['verdict']}"
    return said
