"""Fills the schedule table of the routed experts for the GPU it runs on.

    python benchmarks/tune_experts.py --out src/sglang_nemotron/ops/schedules.json

For each dtype and number of tokens it tries every form and tile of a short list, one product at a time, as replays of
CUDA graphs over several weight sets, and keeps the quickest schedule whose result is right. Rows of other devices stay.
Kernels are compiled beforehand in as many processes as there are cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from experts_gpu import (
    CALLS,
    DTYPES,
    HIDDEN,
    NUM_EXPERTS,
    TOP_K,
    WIDTH,
    Weights,
    errors,
    make_call,
    make_weights,
    right,
    run,
    time_calls,
)
from triton.runtime.errors import OutOfResources

from sglang_nemotron.ops.batch import Float8Scales
from sglang_nemotron.ops.schedules import TABLE, ExpertSchedule, Tile, shape_key

# a row of the table is tuned at its largest number of tokens; the last is for any number
BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, None)
LARGE = 8192
SHARED_MEMORY = 227 * 1024

PAIRS = {
    "bf16": [(2, 1024, 4), (4, 1024, 4), (8, 1024, 4), (2, 512, 2), (4, 512, 2), (8, 512, 2), (4, 256, 1)],
    "fp8": [(2, 2048, 4), (4, 2048, 4), (8, 2048, 4), (2, 1024, 2), (4, 1024, 2), (8, 1024, 2), (2, 512, 1)],
}
STREAM = {
    "bf16": [
        *((64, 128, 4, 3), (64, 128, 4, 4), (64, 64, 4, 4), (64, 64, 4, 6), (64, 256, 4, 3)),
        *((128, 64, 4, 3), (128, 64, 4, 4), (128, 64, 8, 4), (128, 128, 8, 3), (128, 128, 4, 3)),
    ],
    "fp8": [
        *((64, 256, 4, 3), (64, 256, 4, 4), (64, 128, 4, 4), (64, 128, 4, 6), (64, 512, 4, 3)),
        *((128, 128, 4, 3), (128, 128, 4, 4), (128, 128, 8, 4), (128, 256, 8, 3), (128, 256, 4, 3)),
    ],
}
# (rows, swap, tile)
MATRIX = {
    "bf16": [
        *((128, False, (128, 64, 8, 4)), (128, False, (256, 64, 8, 3)), (128, False, (256, 64, 8, 4))),
        *((128, False, (128, 64, 4, 4)), (128, False, (128, 128, 8, 3)), (128, True, (128, 64, 4, 4))),
        *((128, True, (256, 64, 8, 3)), (64, True, (128, 64, 4, 4)), (64, True, (256, 64, 8, 4))),
        *((64, False, (256, 64, 8, 4)), (64, False, (256, 64, 4, 4)), (64, False, (128, 64, 4, 4))),
    ],
    "fp8": [
        *((128, False, (128, 128, 8, 4)), (128, False, (256, 128, 8, 3)), (128, False, (256, 128, 8, 4))),
        *((128, False, (128, 128, 4, 4)), (128, True, (128, 128, 4, 4)), (128, True, (256, 128, 8, 3))),
        *((64, True, (128, 128, 4, 4)), (64, True, (256, 128, 8, 4)), (64, False, (256, 128, 8, 4))),
        *((64, False, (128, 128, 4, 4)), (64, False, (256, 64, 8, 4))),
    ],
}


def fits(kind: str, schedule: ExpertSchedule) -> bool:
    """Whether the tiles of every step in flight fit the shared memory."""
    size = 1 if kind == "fp8" else 2
    tiles = (schedule.up, schedule.down)
    return all((tile.out + schedule.rows) * tile.inner * tile.stages * size < SHARED_MEMORY for tile in tiles)


def candidates(kind: str, tokens: int) -> list[list[ExpertSchedule]]:
    """Groups of schedules that differ in their tiles alone; both products have the same tile."""
    groups = []
    if tokens <= 8:
        tiles = [Tile(*tile, 1) for tile in PAIRS[kind]]
        groups.append([ExpertSchedule("pairs", tile, tile) for tile in tiles])
    if tokens <= 2048:
        for rows in (16, 32, 64):
            # rows of an expert that need several blocks read its weights several times; too many rows are idle work
            if rows // 4 <= tokens * TOP_K / NUM_EXPERTS + 4 <= rows * 4:
                tiles = [Tile(*tile) for tile in STREAM[kind]]
                groups.append([ExpertSchedule("blocks", t, t, rows=rows, swap=True, tma=True) for t in tiles])
    if tokens >= 1024:
        for rows, swap in ((128, False), (128, True), (64, False), (64, True)):
            tiles = [Tile(*tile) for r, s, tile in MATRIX[kind] if (r, s) == (rows, swap)]
            # what waits for the matrix units leaves FP8 sums to them, as other servers do
            fixed = {"rows": rows, "swap": swap, "tma": True, "promote": 0}
            groups.append([ExpertSchedule("blocks", t, t, **fixed) for t in tiles])
    return [[one for one in group if one.form == "pairs" or fits(kind, one)] for group in groups]


def compile_some(kind: str, schedules: list[ExpertSchedule]) -> None:
    """Fill Triton's cache; no pair belongs to this rank, so nothing is computed."""
    dtype = DTYPES[kind]
    up = torch.empty(NUM_EXPERTS, WIDTH, HIDDEN, device="cuda", dtype=dtype)
    down = torch.empty(NUM_EXPERTS, HIDDEN, WIDTH, device="cuda", dtype=dtype)
    weights = Weights(up, down, make_scales() if kind == "fp8" else None)
    call = make_call(8)
    call.ids_Tk.fill_(-1)
    for schedule in schedules:
        with suppress(OutOfResources):
            run(call, weights, schedule)
    torch.cuda.synchronize()


def make_scales() -> Float8Scales:
    """Scales of ones."""
    ones = torch.ones(NUM_EXPERTS, device="cuda")
    return Float8Scales(ones[0].clone(), ones, ones[0].clone(), ones)


def compile_all(kinds: list[str], tokens: list[int]) -> None:
    """Every candidate once, spread over the cores."""
    processes = max(1, min(14, (os.cpu_count() or 2) - 2))
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        jobs = []
        for kind in kinds:
            every = {one for count in tokens for group in candidates(kind, count) for one in group}
            ordered = sorted(every, key=str)
            share = max(1, processes // len(kinds))
            jobs += [(kind, ordered[start::share]) for start in range(share)]
        pool.starmap(compile_some, jobs, chunksize=1)


def tune(kind: str, tokens: int, sets: list[Weights], log: list[dict[str, Any]]) -> ExpertSchedule:
    """The quickest schedule: in each group the best tile of the up product, then of the down product."""
    calls = [make_call(tokens) for _ in range(CALLS if tokens <= 1024 else 2)]

    def timed(schedule: ExpertSchedule) -> float:
        found = float("inf")
        with suppress(OutOfResources):
            found = statistics.median(time_calls(calls, sets, schedule, budget_us=1e4))
        log.append({"dtype": kind, "us": found, **schedule.to_row(tokens)})
        return found

    best: list[tuple[float, ExpertSchedule]] = []
    for group in candidates(kind, tokens):
        if not group:
            continue
        start = min(((timed(one), one) for one in group), key=lambda pair: pair[0])
        # the tile that is best for both is refined for one product after the other
        for side in ("up", "down"):
            others = [replace(start[1], **{side: getattr(one, side)}) for one in group]
            tried = [(timed(one), one) for one in others if one != start[1] and fits_side(kind, one)]
            start = min([start, *tried], key=lambda pair: pair[0])
        best.append(start)
    for time_us, schedule in sorted(best, key=lambda pair: pair[0]):
        if right(errors(tokens, sets[0], schedule), kind, schedule):
            print(f"{kind} {tokens}: {time_us:.1f} us {schedule}", flush=True)
            return schedule
    raise SystemExit(f"{kind} at {tokens} tokens: every schedule is wrong")


def fits_side(kind: str, schedule: ExpertSchedule) -> bool:
    """`fits`, for a schedule of any form."""
    return schedule.form == "pairs" or fits(kind, schedule)


def write_table(path: Path, device: str, rows: dict[str, list[dict[str, Any]]]) -> None:
    """This device's rows into the table, one row a line; those of others stay."""
    table = json.loads(TABLE.read_text())
    shape = shape_key(NUM_EXPERTS, TOP_K, HIDDEN, WIDTH)
    for dtype, found in rows.items():
        table["experts"].setdefault(device, {}).setdefault(dtype, {})[shape] = found
    path.write_text(spelt(table) + "\n")


def spelt(value: Any, indent: str = "") -> str:
    """JSON with one row of the table on a line."""
    inner = indent + "  "
    if isinstance(value, dict) and "form" not in value:
        items = [f"{inner}{json.dumps(key)}: {spelt(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + "\n" + indent + "}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(inner + json.dumps(item) for item in value) + "\n" + indent + "]"
    return json.dumps(value)


def main() -> None:
    """Compile, try, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TABLE, help="the table to write; the package's own by default")
    parser.add_argument("--log", type=Path, help="where every time goes, as JSON")
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    options = parser.parse_args()
    torch.manual_seed(2)
    began = time.monotonic()
    log: list[dict[str, Any]] = []
    rows: dict[str, list[dict[str, Any]]] = {}
    compile_all(options.dtypes, [bucket or LARGE for bucket in BUCKETS])
    print(f"compiled in {time.monotonic() - began:.0f} s", flush=True)
    for kind in options.dtypes:
        sets = [make_weights(DTYPES[kind]) for _ in range(4)]
        found = rows[str(DTYPES[kind]).removeprefix("torch.")] = []
        for bucket in BUCKETS:
            found.append(tune(kind, bucket or LARGE, sets, log).to_row(bucket))
            # a run that is cut short leaves a table that serves, its last row for any number of tokens
            shown = {dtype: [*some[:-1], {**some[-1], "tokens": None}] for dtype, some in rows.items()}
            write_table(options.out, torch.cuda.get_device_name(), shown)
            if options.log:
                options.log.write_text(json.dumps(log) + "\n")
        del sets
    print(f"tuned in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
