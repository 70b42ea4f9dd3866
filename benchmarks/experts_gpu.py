"""Times the routed experts of Nemotron 3 Nano on one GPU beside their floor: bytes over measured copy bandwidth.

    python benchmarks/experts_gpu.py --out benchmarks/experts_gpu.json

Needs torch and Triton alone. Routing is uniformly random, ids distinct per token; calls are replayed as a CUDA graph
and rotate among weight sets that together exceed the cache many times. Refuses to report when a result differs from the
reference. The floor counts each weight of each expert that is hit once, plus hidden states in and out.

Shapes: T tokens, D hidden, I expert width, E experts, k experts per token.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton

from sglang_nemotron.ops import experts_fp8_reference, experts_reference, experts_triton
from sglang_nemotron.ops.batch import Float8Scales
from sglang_nemotron.ops.schedules import ExpertSchedule, expert_schedule

NUM_EXPERTS, TOP_K, HIDDEN, WIDTH = 128, 6, 2688, 1856
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 8192)
DTYPES = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
# (norm of the difference over that of the result, largest difference over the largest magnitude): a hidden value on a
# rounding tie may fall to either side, which in FP8 moves it by up to an eighth; more do where the matrix unit's own
# sums keep 14 bits (`promote` 0)
TOLERANCE = {"bf16": (2**-8, 2**-7), "fp8": (2**-7, 2**-6), "fp8 promote 0": (2**-6, 2**-5)}
# flashinfer_cutlass as published, microseconds per MoE layer at this shape; card and routing unlike ours
PUBLISHED = {
    "bf16": {1: 73, 32: 762, 128: 768, 512: 811, 8192: 2828},
    "fp8": {1: 81, 32: 438, 128: 449, 512: 482, 8192: 2166},
}
CALLS = 8


@dataclass(frozen=True)
class Weights:
    """One layer's experts."""

    up_EID: torch.Tensor
    down_EDI: torch.Tensor
    scales: Float8Scales | None


@dataclass(frozen=True)
class Call:
    """What changes from call to call."""

    x_TD: torch.Tensor
    weights_Tk: torch.Tensor
    ids_Tk: torch.Tensor


def make_weights(dtype: torch.dtype, width: int = WIDTH) -> Weights:
    """Random weights that keep the size of what goes through them."""
    up = torch.randn(NUM_EXPERTS, width, HIDDEN, device="cuda", dtype=torch.bfloat16) * HIDDEN**-0.5
    down = torch.randn(NUM_EXPERTS, HIDDEN, width, device="cuda", dtype=torch.bfloat16) * width**-0.5
    if dtype == torch.bfloat16:
        return Weights(up, down, None)
    up_E, down_E = (w.abs().amax((1, 2)).float() / 448 for w in (up, down))
    scales = Float8Scales(torch.tensor(5 / 448, device="cuda"), up_E, torch.tensor(16 / 448, device="cuda"), down_E)
    return Weights((up / up_E[:, None, None]).to(dtype), (down / down_E[:, None, None]).to(dtype), scales)


def make_call(tokens: int) -> Call:
    """Fresh hidden states and uniformly random routing."""
    x_TD = torch.randn(tokens, HIDDEN, device="cuda", dtype=torch.bfloat16)
    ids_Tk = torch.rand(tokens, NUM_EXPERTS, device="cuda").topk(TOP_K, dim=1)[1]
    return Call(x_TD, torch.rand(tokens, TOP_K, device="cuda"), ids_Tk)


def run(call: Call, weights: Weights, schedule: ExpertSchedule | None = None) -> torch.Tensor:
    """One layer's experts, with the table's schedule or this one."""
    given = (call.x_TD, weights.up_EID, weights.down_EDI, call.weights_Tk, call.ids_Tk)
    return experts_triton._run(*given, weights.scales, schedule)


@contextmanager
def born_nan() -> Iterator[None]:
    """What torch hands out uninitialised holds NaN meanwhile."""
    real = torch.empty

    def poisoned(*args: Any, **kwargs: Any) -> torch.Tensor:
        tensor = real(*args, **kwargs)
        return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor.fill_(-(2**30))

    torch.empty = poisoned
    try:
        yield
    finally:
        torch.empty = real


def errors(
    tokens: int, weights: Weights, schedule: ExpertSchedule | None = None, rows: int = 24
) -> tuple[float, float]:
    """Differences from the reference on some rows of a fresh call, as in TOLERANCE; infinite where NaN is left."""
    call = make_call(tokens)
    with born_nan():
        found = run(call, weights, schedule)
    if found.isnan().any():
        return float("inf"), float("inf")
    some = torch.randperm(tokens, device="cuda")[:rows]
    given = (call.x_TD[some], weights.up_EID, weights.down_EDI, call.weights_Tk[some], call.ids_Tk[some])
    if weights.scales is None:
        expected = experts_reference.experts(*given).double()
    else:
        expected = experts_fp8_reference.experts_fp8(*given, weights.scales).double()
    wrong = found[some].double() - expected
    return (wrong.norm() / expected.norm()).item(), (wrong.abs().max() / expected.abs().max()).item()


def right(found: tuple[float, float], kind: str, schedule: ExpertSchedule) -> bool:
    """Whether both errors are within their tolerance."""
    loose = kind == "fp8" and schedule.form == "blocks" and not schedule.promote
    limits = TOLERANCE["fp8 promote 0" if loose else kind]
    return all(one <= most for one, most in zip(found, limits, strict=True))


def copy_bandwidth(gib: int = 4) -> float:
    """Bytes read plus written per second by a large copy on the device."""
    source = torch.randn(gib * 2**28, device="cuda")
    target = torch.empty_like(source)
    times = replays(lambda: target.copy_(source), 12)
    return 2 * source.numel() * source.element_size() / (statistics.median(times) * 1e-6)


def replays(function: Callable[[], Any], count: int) -> list[float]:
    """Microseconds of each of `count` runs, after three that are not counted."""
    for _ in range(3):
        function()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
    for start, end in events:
        start.record()
        function()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) * 1e3 for start, end in events]


def graph_of(calls: list[Call], sets: list[Weights], schedule: ExpertSchedule | None) -> torch.cuda.CUDAGraph:
    """All calls one behind the other, each with the next weight set."""
    run(calls[0], sets[0], schedule)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for number, call in enumerate(calls):
            run(call, sets[number % len(sets)], schedule)
    return graph


def time_calls(
    calls: list[Call], sets: list[Weights], schedule: ExpertSchedule | None = None, budget_us: float = 4e4
) -> list[float]:
    """Microseconds per call, one number per replay of the graph."""
    graph = graph_of(calls, sets, schedule)
    first = replays(graph.replay, 1)[0]
    return [time / len(calls) for time in replays(graph.replay, max(5, min(60, int(budget_us / first))))]


def floor_bytes(call: Call, weights: Weights) -> int:
    """Each weight of each expert hit once, hidden states read and written once."""
    hit = int(call.ids_Tk.unique().numel())
    per_expert = weights.up_EID[0].numel() + weights.down_EDI[0].numel()
    return hit * per_expert * weights.up_EID.element_size() + 2 * call.x_TD.numel() * call.x_TD.element_size()


def machine(commit: str) -> dict[str, Any]:
    """What this was measured on."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    gpu = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "gpu": gpu,
        "versions": {"torch": torch.__version__, "triton": triton.__version__, "cuda": torch.version.cuda},
        "command": "python " + " ".join(sys.argv),
    }


def measure(kind: str, tokens: int, sets: list[Weights], bandwidth: float) -> dict[str, Any]:
    """One row: time, floor, share of it, rate, error and the schedule used."""
    weights, calls = sets[0], [make_call(tokens) for _ in range(CALLS if tokens <= 1024 else 2)]
    schedule = expert_schedule(
        weights.up_EID.device,
        weights.up_EID.dtype,
        num_experts=NUM_EXPERTS,
        top_k=TOP_K,
        hidden=HIDDEN,
        width=weights.up_EID.shape[1],
        num_tokens=tokens,
    )
    found = errors(tokens, weights)
    if not right(found, kind, schedule):
        raise SystemExit(f"{kind} at {tokens} tokens is wrong: errors {found}; nothing is reported")
    times = time_calls(calls, sets, budget_us=1e5)
    floor = statistics.mean(floor_bytes(call, weights) for call in calls) / bandwidth * 1e6
    time = statistics.median(times)
    return {
        "dtype": kind,
        "tokens": tokens,
        "us": time,
        "us_min_max": [min(times), max(times)],
        "experts_hit": statistics.mean(call.ids_Tk.unique().numel() for call in calls),
        "floor_us": floor,
        "share_of_copy_bandwidth": floor / time,
        "tflops": tokens * TOP_K * 4 * HIDDEN * weights.up_EID.shape[1] / time * 1e-6,
        "errors": found,
        "published_us": PUBLISHED[kind].get(tokens),
        "schedule": schedule.to_row(tokens),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """A short table for people."""
    lines = ["dtype  tokens  hit      us   floor  share  TFLOP/s  published  error"]
    for row in rows:
        lines.append(
            f"{row['dtype']:5} {row['tokens']:7} {row['experts_hit']:4.0f} {row['us']:7.1f} {row['floor_us']:7.1f} "
            f"{row['share_of_copy_bandwidth']:6.1%} {row['tflops']:8.1f} {row['published_us'] or '-':>10} "
            f"{row['errors'][0]:.1e}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, write the raw numbers, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the raw JSON goes")
    parser.add_argument("--commit", default="unknown", help="the commit that is measured")
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    options = parser.parse_args()
    torch.manual_seed(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    before, rows = copy_bandwidth(), []
    for kind in options.dtypes:
        sets = [make_weights(DTYPES[kind]) for _ in range(4)]
        rows += [measure(kind, tokens, sets, before) for tokens in options.tokens]
        del sets
    after = copy_bandwidth()
    report = {"machine": machine(options.commit), "copy_bytes_per_s": [before, after], "rows": rows}
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(table(rows))
    print(f"copy bandwidth {before / 1e12:.2f} TB/s before, {after / 1e12:.2f} after; raw numbers in {options.out}")


if __name__ == "__main__":
    main()
