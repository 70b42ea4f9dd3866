"""Tokens a second that were measured: a GPU, a number format and a batch in, figures with their source out, or nothing.

`speeds.json` is made from the committed measurements by `python benchmarks/plan_speeds.py`; a test holds them together.
Between two measured batches a figure is interpolated; outside them, and for anything else, nothing is said.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("speeds.json")


@dataclass(frozen=True, slots=True)
class Speed:
    """tokens a second over all requests. between: the measured batches it lies between; the same twice if it is one.

    steady: tokens of answers a second where as many requests come as go, each prefilled alone in its turn: by
    arithmetic from the two others.
    """

    batch: int
    decode: float
    prefill: float
    steady: float
    between: tuple[int, int]
    source: str
    measured_with: str


def table() -> list[dict[str, Any]]:
    """One row for each series of measurements."""
    return json.loads(FILE.read_text())["series"]


def expected(
    *, gpu: str, kind: str, quantization: str, tp_size: int, batch: int, prompt: int, answer: int
) -> Speed | str:
    """The figure for this load, or in a sentence why there is none. kind: text or omni. batch: requests at once."""
    series = next(
        (
            row
            for row in table()
            if (row["gpu"], row["kind"], row["quantization"], row["tp"]) == (gpu, kind, quantization, tp_size)
        ),
        None,
    )
    if series is None:
        return "not measured on this set-up"
    # a longer text reads more KV entries a step than the measured one did
    if prompt > series["prompt"] or answer > series["prompt"]:
        return f"not measured with prompts or answers of more than {series['prompt']:,} tokens"
    rows = {row["batch"]: row for row in series["rows"]}
    below = max((size for size in rows if size <= batch), default=None)
    above = min((size for size in rows if size >= batch), default=None)
    if below is None or above is None:
        return f"not measured with {batch} requests at once, only with {min(rows)} to {max(rows)}"
    weight = 0.0 if below == above else (batch - below) / (above - below)
    decode, prefill = (rows[below][name] * (1 - weight) + rows[above][name] * weight for name in ("decode", "prefill"))
    return Speed(
        batch=batch,
        decode=decode,
        prefill=prefill,
        steady=1 / (1 / decode + prompt / answer / prefill),
        between=(below, above),
        source=series["source"],
        measured_with=series["measured_with"],
    )
