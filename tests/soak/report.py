"""Everything that a soak saw comes in, its JSON goes out: verdicts, then figures, then the series of its plot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from soak.judge import ALLOWED, ERRORS, idle, leaks, memory
from soak.player import Record
from soak.run import Seen
from soak.statistics import quantile

# clients of these wait for nobody's sake, or for a limit
UNTIMED = (
    "endless",
    "read slowly",
    "hung up",
    "given up",
    "aborted",
    "half a body",
    "media, given up",
    "media, hung up",
)
# of all compared answers; more are a fault
MOST_TIES = 0.02
MB = 1 << 20


def report(seen: Seen, *, slowest_s: float) -> dict[str, Any]:
    """`passed` says whether nothing at all was wrong; `problems` says what was."""
    by_role = memory(seen.readings)
    timed = [record for record in seen.records if record.kind not in UNTIMED]
    slow = max(timed, key=lambda record: record.seconds, default=None)
    problems = _problems(seen, slow, slowest_s)
    problems += [memory.said for memory in by_role if memory.verdict != "flat"]
    wrong = [f"{kind}: {verdict.problem}" for kind, verdict in seen.verdicts if verdict.problem is not None]
    return {
        "passed": not problems,
        "problems": problems,
        "seconds": round(seen.seconds, 1),
        "requests": len(seen.records),
        "most at once": seen.most_at_once,
        "killed workers": seen.kills,
        "requests lost with a killed worker": sum(record.lost for record in seen.records),
        "chores": dict(sorted(seen.chores.items())),
        "compared": {
            "served and greedy": seen.num_checked,
            "asked again alone": len(seen.verdicts),
            "wrong": len(wrong),
            "ties": sum(verdict.tied for _, verdict in seen.verdicts),
            "largest difference of a logprob": max((verdict.apart for _, verdict in seen.verdicts), default=None),
        },
        "slowest": None if slow is None else {"kind": slow.kind, "seconds": round(slow.seconds, 2), "bound": slowest_s},
        "memory": {
            "unit": "bytes of private memory a request, at rest, from a third of all requests after its beginning on",
            "allowed": ALLOWED,
            "standard errors": ERRORS,
            "roles": {
                memory.role: {
                    "slope": None if memory.slope is None else round(memory.slope.per_unit),
                    "error": None if memory.slope is None else round(memory.slope.error),
                    "readings": 0 if memory.slope is None else memory.slope.points,
                    "verdict": memory.verdict,
                }
                for memory in by_role
            },
        },
        "kinds": _kinds(seen.records),
        "idle readings": len(idle(seen.readings)),
        "series": series(seen),
    }


def _problems(seen: Seen, slow: Record | None, slowest_s: float) -> list[str]:
    problems = [seen.ended] if seen.ended else []
    problems += leaks(seen.readings)
    problems += seen.faults
    problems += [f"{record.kind}: {record.fault}"[:400] for record in seen.records if record.fault is not None]
    problems += [f"wrong: {kind}: {verdict.problem}"[:400] for kind, verdict in seen.verdicts if verdict.problem]
    ties = sum(verdict.tied for _, verdict in seen.verdicts)
    if ties > max(1, MOST_TIES * len(seen.verdicts)):
        problems.append(f"{ties} of {len(seen.verdicts)} answers have a tie")
    if slow is not None and slow.seconds > slowest_s:
        problems.append(f"{slow.kind} took {slow.seconds:.1f} s, more than {slowest_s:g} s")
    if not seen.verdicts:
        problems.append("no answer was compared")
    return problems


def _kinds(records: Sequence[Record]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in sorted({record.kind for record in records}):
        of_kind = [record for record in records if record.kind == kind]
        seconds = [record.seconds for record in of_kind]
        statuses = Counter("left" if record.status is None else str(record.status) for record in of_kind)
        found[kind] = {
            "requests": len(of_kind),
            "statuses": dict(sorted(statuses.items())),
            "seconds": {name: round(quantile(seconds, share), 2) for name, share in QUANTILES.items()},
        }
    return found


QUANTILES = {"median": 0.5, "p99": 0.99, "most": 1.0}


def series(seen: Seen) -> dict[str, Any]:
    """Columns of all readings: seconds, requests, MB of private memory by role, gauges."""
    readings = sorted(seen.readings, key=lambda reading: reading.at)
    roles = sorted({process.role for reading in readings for process in reading.processes})
    gauges = sorted({name for reading in readings for name in reading.gauges})
    return {
        "seconds": [reading.at for reading in readings],
        "requests": [reading.requests for reading in readings],
        "idle": [int(reading.idle) for reading in readings],
        "private MB": {
            role: [
                round(sum(process.private for process in reading.processes if process.role == role) / MB, 2)
                for reading in readings
            ]
            for role in roles
        },
        "PSS MB": {
            role: [
                round(sum(process.share for process in reading.processes if process.role == role) / MB, 1)
                for reading in readings
            ]
            for role in roles
        },
        "gauges": {name: [int(reading.gauges.get(name, 0)) for reading in readings] for name in gauges},
        "sockets": [sum(process.sockets for process in reading.processes) for reading in readings],
        "files in shared memory": [reading.shared for reading in readings],
    }
