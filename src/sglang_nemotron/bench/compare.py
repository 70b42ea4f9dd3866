"""Two sets of runs come in, a table of what differs goes out: per concurrency and number, with the rounds' own spread.

A difference within the spread of the rounds says nothing; with one round on either side the spread is not known.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from sglang_nemotron.bench.records import Run
from sglang_nemotron.bench.table import groups

COLUMNS = (">concurrency", "number", ">A", ">B", ">B/A", "")
# (name, field of Summary)
_NUMBERS = (
    ("output tok/s", "output_throughput"),
    ("requests/s", "request_throughput"),
    ("median TTFT, ms", "median_ttft_ms"),
    ("p99 TTFT, ms", "p99_ttft_ms"),
    ("median TPOT, ms", "median_tpot_ms"),
    ("p99 ITL, ms", "p99_itl_ms"),
    ("median E2E, ms", "median_e2e_latency_ms"),
    ("p99 E2E, ms", "p99_e2e_latency_ms"),
)


def rows(a: Sequence[Run], b: Sequence[Run]) -> list[tuple[str, ...]]:
    """Rows for COLUMNS, of each concurrency that both have. Raises ValueError if they share none."""
    ours, theirs = _by_concurrency(a), _by_concurrency(b)
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise ValueError(
            f"no concurrency was measured on both sides: A has {sorted(ours)}, B has {sorted(theirs)}"
            "\n  remedy: measure both with the same --concurrency"
        )
    return [_row(at, label, name, ours[at], theirs[at]) for at in shared for label, name in _NUMBERS]


def chance(a: Sequence[Run], b: Sequence[Run]) -> str:
    """How often ranges of so many rounds lie apart where nothing differs: 2 n! m! / (n + m)!, all orders alike."""
    ours, theirs = _by_concurrency(a), _by_concurrency(b)
    counts = [(len(ours[at]), len(theirs[at])) for at in ours.keys() & theirs.keys()]
    first, second = min(counts, key=lambda both: math.comb(sum(both), both[0]))
    if min(first, second) < 2:
        return "one round on a side tells no spread: --rounds 4 or more would"
    share = 2 / math.comb(first + second, first)
    return f"between two equal servers, ranges of {first} and {second} rounds lie apart for {share:.1%} of numbers"


def differences(a: object, b: object, names: Iterable[str]) -> list[str]:
    """What was asked differently of the two (`load` of their files): numbers of different questions compare badly."""
    ours, theirs = (one if isinstance(one, dict) else {} for one in (a, b))
    return [
        f"{name}: {ours.get(name)} against {theirs.get(name)}" for name in names if ours.get(name) != theirs.get(name)
    ]


def _by_concurrency(runs: Sequence[Run]) -> dict[int, list[Run]]:
    found: dict[int, list[Run]] = {}
    for (_, concurrency), rounds in groups(runs).items():
        found.setdefault(concurrency, []).extend(rounds)
    return found


def _row(at: int, label: str, name: str, a: Sequence[Run], b: Sequence[Run]) -> tuple[str, ...]:
    ours, theirs = ([getattr(run.summary, name) for run in runs] for runs in (a, b))
    first, second = statistics.median(ours), statistics.median(theirs)
    return (str(at), label, _with_range(ours), _with_range(theirs), _ratio(first, second), _verdict(ours, theirs))


def _with_range(values: Sequence[float]) -> str:
    middle = f"{statistics.median(values):,.2f}"
    return f"{middle} ({min(values):,.2f}-{max(values):,.2f})" if len(values) > 1 else middle


def _ratio(first: float, second: float) -> str:
    return f"{second / first:.3f}" if first else ""


def _verdict(ours: Sequence[float], theirs: Sequence[float]) -> str:
    if len(ours) < 2 or len(theirs) < 2:
        return "one round: spread unknown"
    if max(ours) < min(theirs) or max(theirs) < min(ours):
        return "B higher" if min(theirs) > max(ours) else "B lower"
    return "within the rounds' spread"
