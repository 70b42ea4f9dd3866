"""Which tiles a kernel of this room runs with: looked up by device, dtype, shape and number of tokens.

The rows are data (`schedules.json`), written by the tuners in `benchmarks/`. Knows no Triton.
"""

from __future__ import annotations

import functools
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)

__all__ = ["ExpertSchedule", "Tile", "expert_schedule", "shape_key"]

TABLE = Path(__file__).with_name("schedules.json")

# the same chip with other memory: H100 and GH200 run what was tuned on an H200 until somebody tunes them
_KIN = {(9, 0): "NVIDIA H200"}


@dataclass(frozen=True)
class Tile:
    """How one product is cut: output channels and summed channels per step, warps per program, steps in flight."""

    out: int
    inner: int
    warps: int
    stages: int


@dataclass(frozen=True)
class ExpertSchedule:
    """How the routed experts of one call run.

    `form` "pairs": each (token, expert) pair streams its expert's weights by itself, nothing is sorted. "blocks": pairs
    are sorted by expert and go in blocks of `rows`. `swap`: weights are the left operand, so that few rows waste no
    matrix units; `tma`: weights come through the bulk copy engine where their strides allow it. `promote`: FP8 sums go
    over to fp32 after so many channels; 0 leaves them to the matrix unit, which is quicker and keeps fewer bits.
    """

    form: str
    up: Tile
    down: Tile
    rows: int = 16
    swap: bool = False
    tma: bool = False
    promote: int = 128

    @staticmethod
    def from_row(row: dict[str, Any]) -> ExpertSchedule:
        """From a row of the table; `tokens` is not part of the schedule."""
        tiles = {name: Tile(*row[name]) for name in ("up", "down")}
        rest = {name: value for name, value in row.items() if name not in ("tokens", "up", "down")}
        return ExpertSchedule(**tiles, **rest)

    def to_row(self, tokens: int | None) -> dict[str, Any]:
        """A row of the table, for up to `tokens` tokens; None is for any number."""
        row = asdict(self)
        return {"tokens": tokens, **row, **{name: list(row[name].values()) for name in ("up", "down")}}


def shape_key(num_experts: int, top_k: int, hidden: int, width: int) -> str:
    """How the table spells a shape of routed experts."""
    return f"E{num_experts} k{top_k} D{hidden} I{width}"


def expert_schedule(
    device: torch.device, dtype: torch.dtype, *, num_experts: int, top_k: int, hidden: int, width: int, num_tokens: int
) -> ExpertSchedule:
    """The schedule for weights of this dtype and shape on this device."""
    name, kin = _names(device)
    shape = shape_key(num_experts, top_k, hidden, width)
    for tokens, schedule in _rows(name, kin, str(dtype).removeprefix("torch."), shape):
        if tokens is None or num_tokens <= tokens:
            return schedule
    raise AssertionError("the last row of every list is for any number of tokens")


@functools.cache
def _names(device: torch.device) -> tuple[str, str]:
    """What the table calls this device, and the device that stands in for it."""
    if device.type != "cuda":
        return device.type, device.type
    name = torch.cuda.get_device_name(device)
    return name, _KIN.get(torch.cuda.get_device_capability(device), name)


@functools.cache
def _rows(device: str, kin: str, dtype: str, shape: str) -> tuple[tuple[int | None, ExpertSchedule], ...]:
    """Rows of this device and shape; else of its kin; else of another shape; else what fits every device."""
    table = json.loads(TABLE.read_text())["experts"]
    # a 16-bit float is a 16-bit float
    dtype = "bfloat16" if dtype == "float16" else dtype
    source = device if device in table else kin
    shapes = table.get(source, {}).get(dtype)
    if shapes is None:
        logger.info("experts on %s in %s: not tuned for this device, using what fits any", device, dtype)
        rows = table["any device"][dtype]
    else:
        tuned = shape if shape in shapes else next(iter(shapes))
        if (source, tuned) != (device, shape):
            logger.info("experts on %s, %s in %s: using what %s runs for %s", device, shape, dtype, source, tuned)
        rows = shapes[tuned]
    return tuple((row["tokens"], ExpertSchedule.from_row(row)) for row in rows)
