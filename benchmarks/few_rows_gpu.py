"""Times a decode step's layers as `few_rows` runs them, 23 Mamba, 23 MoE and 6 attention layers' linears in one graph.

    python benchmarks/few_rows_gpu.py --out benchmarks/few_rows_gpu.json [--tune]

Needs torch and Triton alone, 60 GB of device memory in BF16. Weights are random and those of Nemotron 3 Nano in size,
each layer has its own; attention itself, embedding and head are left out. The floor counts each byte that a step must
read or write once, over the bandwidth of a large copy measured beside it. Refuses to report when layers differ from
their references, or a step from itself. `--tune` tries tiles launch by launch and prints the quickest for
`ops/few_rows_triton.py`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from experts_gpu import copy_bandwidth, machine, replays
from triton.runtime.errors import OutOfResources

from sglang_nemotron.ops import few_rows_reference, few_rows_triton
from sglang_nemotron.ops.batch import Float8Scales
from sglang_nemotron.ops.layers import Linear, MambaLayer, MoELayer, Norm, Router
from sglang_nemotron.ops.schedules import Tile
from sglang_nemotron.ops.step import StepWeights

# of Nemotron 3 Nano's config.json
PATTERN = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"
HIDDEN, HEADS, HEAD_DIM, GROUPS, STATE, TAPS = 2688, 64, 64, 8, 128, 4
EXPERTS, TOP_K, WIDTH, SHARED = 128, 6, 1856, 3712
QKV, ATTENTION = (32 + 2 + 2) * 128, 32 * 128
INNER, CHANNELS = HEADS * HEAD_DIM, HEADS * HEAD_DIM + 2 * GROUPS * STATE
EPS, SLOTS = 1e-5, 4
FLOAT8 = torch.float8_e4m3fn
DTYPES = {"bf16": torch.bfloat16, "fp8": FLOAT8}
# of the largest value, as in tests/ops/test_few_rows_triton.py
TOLERANCE = {"bf16": 4 * 2**-7, "fp8": 2e-2}
# (rows of a weight, numbers of a row at once, warps)
CANDIDATES = {
    "bf16": [
        *((2, 1024, 2), (2, 1024, 4), (4, 1024, 4), (4, 1024, 8), (8, 1024, 8), (8, 1024, 4), (4, 512, 2), (4, 512, 4)),
        *((8, 512, 4), (8, 512, 2), (16, 512, 8), (16, 256, 4), (8, 256, 2), (4, 256, 1), (2, 512, 1)),
    ],
    "fp8": [
        *((2, 1024, 2), (2, 1024, 1), (4, 1024, 4), (4, 1024, 2), (8, 1024, 4), (8, 1024, 8), (16, 1024, 8)),
        *((2, 2048, 4), (4, 2048, 4), (8, 2048, 8), (4, 512, 1), (8, 512, 2), (8, 512, 4), (16, 512, 4)),
    ],
}


@dataclass(frozen=True)
class Attention:
    """The linears of an attention layer."""

    norm: Norm
    qkv: Linear
    out: Linear


@dataclass(frozen=True)
class Mamba:
    """A mixer and the states of some slots."""

    layer: MambaLayer
    conv_SCW: torch.Tensor
    ssm_SHPN: torch.Tensor


Layer = Mamba | MoELayer | Attention


def normal(*shape: int, scale: float = 1.0, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16).mul_(scale).to(dtype)


def norm() -> Norm:
    return Norm(1 + normal(HIDDEN, scale=0.1), EPS)


def linear(num_out: int, num_in: int, dtype: torch.dtype) -> Linear:
    """Products of unit inputs are a quarter in size, so that 52 layers do not drown each other."""
    weight = normal(num_out, num_in, scale=num_in**-0.5 / 4)
    if dtype != FLOAT8:
        return Linear(weight)
    scale = weight.abs().max().float().reshape(1) / 448
    return Linear((weight / scale).to(dtype), torch.tensor([8 / 448], device="cuda"), scale)


def mamba(dtype: torch.dtype) -> Mamba:
    step = StepWeights(
        conv_CK=normal(CHANNELS, TAPS, scale=0.3),
        conv_bias_C=normal(CHANNELS, scale=0.1),
        A_H=-torch.rand(HEADS, device="cuda") * 8 - 0.5,
        D_H=torch.randn(HEADS, device="cuda"),
        dt_bias_H=torch.randn(HEADS, device="cuda") - 3,
        norm_I=1 + normal(INNER, scale=0.1),
    )
    layer = MambaLayer(norm(), linear(INNER + CHANNELS + HEADS, HIDDEN, dtype), step, linear(HIDDEN, INNER, dtype), EPS)
    ssm_SHPN = torch.randn(SLOTS, HEADS, HEAD_DIM, STATE, device="cuda")
    return Mamba(layer, normal(SLOTS, TAPS - 1, CHANNELS).transpose(1, 2), ssm_SHPN)


def moe(dtype: torch.dtype) -> MoELayer:
    up, down = normal(EXPERTS, WIDTH, HIDDEN, scale=HIDDEN**-0.5), normal(EXPERTS, HIDDEN, WIDTH, scale=WIDTH**-0.5 / 4)
    scales = None
    if dtype == FLOAT8:
        up_E, down_E = (w.abs().amax((1, 2)).float() / 448 for w in (up, down))
        scales = Float8Scales(torch.tensor(8 / 448, device="cuda"), up_E, torch.tensor(16 / 448, device="cuda"), down_E)
        up, down = (up / up_E[:, None, None]).to(dtype), (down / down_E[:, None, None]).to(dtype)
    router = Router(
        normal(EXPERTS, HIDDEN, scale=HIDDEN**-0.5), torch.rand(EXPERTS, device="cuda") / 8, TOP_K, 2.5, True
    )
    return MoELayer(norm(), router, up, down, scales, linear(SHARED, HIDDEN, dtype), linear(HIDDEN, SHARED, dtype))


def make(kind: str, letter: str) -> Layer:
    dtype = DTYPES[kind]
    if letter == "M":
        return mamba(dtype)
    if letter == "E":
        return moe(dtype)
    # SGLang serves attention of the FP8 checkpoint in BF16, as the checkpoint says
    return Attention(norm(), linear(QKV, HIDDEN, torch.bfloat16), linear(HIDDEN, ATTENTION, torch.bfloat16))


def run(form: Any, layer: Layer, h_TD: torch.Tensor, slots_B: torch.Tensor) -> None:
    """One layer of the step, in place."""
    if isinstance(layer, Mamba):
        form.mamba_layer(h_TD, layer.layer, layer.conv_SCW, layer.ssm_SHPN, slots_B=slots_B)
    elif isinstance(layer, MoELayer):
        form.moe_layer(h_TD, layer)
    else:
        form.linear_add(h_TD, form.norm_linear(h_TD, layer.norm, layer.qkv)[:, :ATTENTION], layer.out)


def differences(kind: str, rows: int) -> dict[str, float]:
    """Largest difference from the reference over its largest value, of one layer of each kind."""
    found = {}
    for letter in "ME*":
        layer, h_TD, slots_B = make(kind, letter), normal(rows, HIDDEN), torch.arange(rows, device="cuda")
        kept = [layer.conv_SCW.clone(), layer.ssm_SHPN.clone()] if isinstance(layer, Mamba) else []
        results = []
        for form in (few_rows_reference, few_rows_triton):
            if isinstance(layer, Mamba):
                layer.conv_SCW.copy_(kept[0])
                layer.ssm_SHPN.copy_(kept[1])
            h = h_TD.clone()
            run(form, layer, h, slots_B)
            results.append(h.double())
        found[letter] = ((results[0] - results[1]).abs().max() / results[0].abs().max()).item()
    found["M, carried"] = carried(kind, rows)
    return found


def carried(kind: str, rows: int, steps: int = 64) -> float:
    """As `differences`, of a Mamba layer whose states go on from step to step: the largest over all steps."""
    layer = mamba(DTYPES[kind])
    other = Mamba(layer.layer, layer.conv_SCW.clone(), layer.ssm_SHPN.clone())
    step, found = graph_of([layer], rows), 0.0
    layer.conv_SCW.copy_(other.conv_SCW)
    layer.ssm_SHPN.copy_(other.ssm_SHPN)
    for _ in range(steps):
        h_TD = normal(rows, HIDDEN)
        step.h_TD.copy_(h_TD)
        step.graph.replay()
        run(few_rows_reference, other, h_TD, step.slots_B)
        found = max(found, ((step.h_TD - h_TD).abs().max() / h_TD.abs().max()).item())
    return found if layer.ssm_SHPN.isfinite().all() else float("inf")


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors of a record."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [t for field in vars(value).values() for t in tensors(field)] if hasattr(value, "__dict__") else []


def floor_bytes(layer: Layer, rows: int) -> int:
    """What a step of `rows` rows must read and write of this layer; rows choose different experts at the worst."""
    if isinstance(layer, MoELayer):
        per_expert = (layer.up_EID[0].numel() + layer.down_EDI[0].numel()) * layer.up_EID.element_size()
        others = (layer.router, layer.shared_up, layer.shared_down)
        return rows * TOP_K * per_expert + sum(t.nbytes for other in others for t in tensors(other))
    if isinstance(layer, Mamba):
        states = 2 * rows * (layer.ssm_SHPN[0].nbytes + layer.conv_SCW[0].nbytes)
        return states + sum(t.nbytes for t in tensors(layer.layer))
    return sum(t.nbytes for t in tensors(layer))


@dataclass(frozen=True)
class Step:
    """All layers one after the other in a graph, the residual stream that they move on, and the slots it reads."""

    graph: torch.cuda.CUDAGraph
    h_TD: torch.Tensor
    slots_B: torch.Tensor


def graph_of(layers: list[Layer], rows: int) -> Step:
    h_TD, slots_B = normal(rows, HIDDEN), torch.arange(rows, device="cuda")
    for letter in {type(layer): layer for layer in layers}.values():
        run(few_rows_triton, letter, h_TD, slots_B)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for layer in layers:
            run(few_rows_triton, layer, h_TD, slots_B)
    return Step(graph, h_TD, slots_B)


def repeats(layers: list[Layer], rows: int, count: int = 100) -> bool:
    """Whether so many replays from one start end in one finite result, bit by bit."""
    step = graph_of(layers, rows)
    h_TD = step.h_TD
    states = [s for layer in layers if isinstance(layer, Mamba) for s in (layer.conv_SCW, layer.ssm_SHPN)]
    start, first = [s.clone() for s in (h_TD, *states)], None
    for _ in range(count):
        for tensor, kept in zip((h_TD, *states), start, strict=True):
            tensor.copy_(kept)
        step.graph.replay()
        first = h_TD.clone() if first is None else first
        if not (torch.equal(first, h_TD) and h_TD.isfinite().all()):
            return False
    return True


def step_us(layers: list[Layer], rows: int, count: int = 20) -> float:
    step = graph_of(layers, rows)
    return statistics.median(replays(step.graph.replay, count))


def measure(kind: str, rows: int, layers: list[Layer], bandwidth: float) -> dict[str, Any]:
    """The whole step, each kind of layer by itself, and their floors."""
    wrong = differences(kind, rows)
    if any(not value < TOLERANCE[kind] for value in wrong.values()):
        raise SystemExit(f"{kind}, {rows} rows: layers differ from their references by {wrong}; nothing is reported")
    if not repeats(layers, rows):
        raise SystemExit(f"{kind}, {rows} rows: replays of one step end otherwise; nothing is reported")
    found: dict[str, Any] = {"dtype": kind, "rows": rows, "differences": wrong}
    parts = {"step": layers, **{letter: layers_of(layers, letter) for letter in "ME*"}}
    for name, some in parts.items():
        time_us, floor_us = step_us(some, rows), sum(floor_bytes(one, rows) for one in some) / bandwidth * 1e6
        found[name] = {"layers": len(some), "us": time_us, "floor_us": floor_us, "share": floor_us / time_us}
    return found


def layers_of(layers: list[Layer], letter: str) -> list[Layer]:
    return [layer for layer, one in zip(layers, PATTERN, strict=True) if one == letter]


def with_tile(kind: str, name: str, tile: Tile) -> None:
    size = DTYPES[kind].itemsize
    few_rows_triton._TILES[size] = few_rows_triton._TILES[size]._replace(**{name: tile})


def compile_some(kind: str, tiles: list[Tile]) -> None:
    """Fill Triton's cache with every launch in each of these tiles."""
    layers = [make(kind, letter) for letter in "ME*"]
    for tile in tiles:
        for name in few_rows_triton.Tiles._fields:
            with_tile(kind, name, tile)
        for layer in layers:
            for rows in (1, 2):
                with suppress(OutOfResources):
                    run(few_rows_triton, layer, normal(rows, HIDDEN), torch.arange(rows, device="cuda"))
    torch.cuda.synchronize()


def compile_all(kind: str, tiles: list[Tile]) -> None:
    context = multiprocessing.get_context("spawn")
    workers = min(len(tiles), os.cpu_count() or 1)
    processes = [context.Process(target=compile_some, args=(kind, tiles[i::workers])) for i in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def tune(kind: str, layers: list[Layer], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Launch by launch, the quickest tile for one row, twice over as they share the card's attention."""
    tiles, rows = [Tile(*one, 1) for one in CANDIDATES[kind]], []
    compile_all(kind, tiles)
    for turn in range(2):
        for name in few_rows_triton.Tiles._fields:
            found: dict[Tile, float] = {}
            for tile in tiles:
                with_tile(kind, name, tile)
                with suppress(OutOfResources):
                    found[tile] = step_us(layers, 1, 10)
            best = min(found, key=lambda tile: found[tile])
            with_tile(kind, name, best)
            rows.append({"turn": turn, "launch": name, "us": [[*vars(t).values(), us] for t, us in found.items()]})
            ranked = sorted(found.items(), key=lambda item: item[1])
            say(f"{kind} {name}: " + ", ".join(f"{t.out}/{t.inner}/{t.warps} {us:.0f}" for t, us in ranked[:4]))
    return rows


def main() -> None:
    """Measure, write the raw numbers, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the raw JSON goes")
    parser.add_argument("--commit", default="unknown", help="the commit that is measured")
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--tune", action="store_true", help="try tiles first")
    options = parser.parse_args()
    torch.manual_seed(1)
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {line}", flush=True)

    bandwidth = copy_bandwidth()
    report: dict[str, Any] = {
        "machine": machine(options.commit),
        "copy_bytes_per_s": bandwidth,
        "rows": [],
        "tuned": {},
    }
    for kind in options.dtypes:
        layers = [make(kind, letter) for letter in PATTERN]
        if options.tune:
            report["tuned"][kind] = tune(kind, layers, say)
            say(f"{kind} {few_rows_triton._TILES[DTYPES[kind].itemsize]}")
        for rows in (1, 2):
            row = measure(kind, rows, layers, bandwidth)
            report["rows"].append({**row, "tiles": few_rows_triton._TILES[DTYPES[kind].itemsize]})
            parts = (f"{name} {row[name]['us']:.0f} us, {row[name]['share']:.0%}" for name in ("step", *"ME*"))
            say(f"{kind}, {rows} rows: " + "; ".join(parts) + f"; off by {row['differences']}")
            options.out.write_text(json.dumps(report, indent=1, default=vars) + "\n")
        del layers
        torch.cuda.empty_cache()
    say(f"copy bandwidth {bandwidth / 1e12:.2f} TB/s; raw numbers in {options.out}")


if __name__ == "__main__":
    main()
