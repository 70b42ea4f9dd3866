"""Tokens a second that were measured: a GPU, a number format and a batch in, figures with their source out, or nothing.

`speeds.json` is made from the committed measurements by `python benchmarks/plan_speeds.py`; a test holds them together.
Between two measured batches a figure is interpolated, and comes with the error that this makes where a measured batch
is left out; outside them, and for anything else, nothing is said.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("speeds.json")


# batch -> tokens a second
Curve = Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Speed:
    """tokens a second over all requests. between: the measured batches it lies between; the same twice if it is one.

    steady: tokens of answers a second where as many requests come as go, each prefilled alone in its turn: by
    arithmetic from the two others. decode_off, prefill_off: share by which interpolation was off at most where a
    measured batch of this series was left out; 0 for a measured one. steady lies between both.
    """

    batch: int
    decode: float
    prefill: float
    steady: float
    between: tuple[int, int]
    decode_off: float
    prefill_off: float
    source: str
    measured_with: str

    @property
    def steady_off(self) -> float:
        return max(self.decode_off, self.prefill_off)


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
    # a prompt of another length fills a prefill otherwise, and a longer text reads more KV entries a step
    if prompt != series["prompt"]:
        return f"not measured with prompts of {prompt:,} tokens, only with {series['prompt']:,} (--input)"
    if answer > series["prompt"]:
        return f"not measured with answers of more than {series['prompt']:,} tokens (--output)"
    decode = {row["batch"]: row["decode"] for row in series["rows"]}
    prefill = {row["batch"]: row["prefill"] for row in series["rows"]}
    if not min(decode) <= batch <= max(decode):
        return f"not measured with {batch} requests at once, only with {min(decode)} to {max(decode)}"
    measured = batch in decode
    rates = decode_at(decode, batch), prefill_at(prefill, batch)
    return Speed(
        batch=batch,
        decode=rates[0],
        prefill=rates[1],
        steady=1 / (1 / rates[0] + prompt / answer / rates[1]),
        between=neighbours(decode, batch),
        decode_off=0.0 if measured else max(map(abs, left_out(decode, decode_at).values())),
        prefill_off=0.0 if measured else max(map(abs, left_out(prefill, prefill_at).values())),
        source=series["source"],
        measured_with=series["measured_with"],
    )


def decode_at(curve: Curve, batch: int) -> float:
    """Of a decode step: a power of the batch between two measured ones, a straight line on logarithms of both."""
    low, high = neighbours(curve, batch)
    if low == high:
        return curve[low]
    weight = math.log(batch / low) / math.log(high / low)
    return curve[low] ** (1 - weight) * curve[high] ** weight


def prefill_at(curve: Curve, batch: int) -> float:
    """Of prompts that come together: their time grows evenly between two measured batches, as work that fills a GPU."""
    low, high = neighbours(curve, batch)
    if low == high:
        return curve[low]
    weight = (batch - low) / (high - low)
    return batch / (low / curve[low] * (1 - weight) + high / curve[high] * weight)


def neighbours(curve: Curve, batch: int) -> tuple[int, int]:
    """The measured batches around one, which lies between the least and the greatest."""
    return max(size for size in curve if size <= batch), min(size for size in curve if size >= batch)


def left_out(curve: Curve, rule: Callable[[Curve, int], float]) -> dict[int, float]:
    """Measured batch -> share by which the rule is off there if it does not know it; both ends have no neighbours."""
    inner = sorted(curve)[1:-1]
    others = {batch: {size: rate for size, rate in curve.items() if size != batch} for batch in inner}
    return {batch: rule(others[batch], batch) / curve[batch] - 1 for batch in inner}
