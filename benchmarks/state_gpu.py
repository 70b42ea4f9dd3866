"""Times the kernels of a decode step that are no matrix products on one GPU, beside the bytes that they must move.

    python benchmarks/state_gpu.py --out benchmarks/state_gpu.json --commit HASH [--tune] [--rows 1,32]

The mixer's step for states of fp32, bf16, fp16 and fp16 rounded at random, the router, and the tracking copy, at the
sizes of Nemotron 3 Nano, as replays of a CUDA graph whose launches walk over more slots than the second-level cache
holds. The floor of each is the fewest bytes it can move over the bandwidth of a copy, measured in the same run.
`--tune` tries all schedules that make sense and prints the best. Where SGLang can be imported, its three kernels of the
step are timed beside ours. Nothing is reported unless every form equals its reference on fresh random inputs first.
Needs torch and triton only.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import datetime
import itertools
import json
import multiprocessing
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import triton

from sglang_nemotron.ops import (
    mamba_step_reference,
    mamba_step_triton,
    router_reference,
    router_triton,
    track_reference,
    track_triton,
)
from sglang_nemotron.ops.step import StepWeights, StochasticRounding

H, P, N, G, K, D, E, TOP_K, LAYERS = 64, 64, 128, 8, 4, 2688, 128, 6, 23
INNER, CHANNELS = H * P, H * P + 2 * G * N
PROJECTED = INNER + CHANNELS + H
KINDS = {
    "fp32": (torch.float32, False),
    "bf16": (torch.bfloat16, False),
    "fp16": (torch.float16, False),
    "fp16-sr": (torch.float16, True),
}
RULE = {"top_k": TOP_K, "scale": 2.5, "renormalize": True}
# a launch's slots come round again after so many bytes: several times the cache
ROTATE = 768 << 20


def randn(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.float32).to(dtype)


def make_weights() -> StepWeights:
    return StepWeights(
        conv_CK=randn(CHANNELS, K) * 0.5,
        conv_bias_C=randn(CHANNELS),
        A_H=-torch.exp(torch.rand(H, device="cuda") * 2.77),
        D_H=randn(H, dtype=torch.float32),
        dt_bias_H=randn(H, dtype=torch.float32) - 4,
        norm_I=randn(INNER),
    )


def _aligned(slots_nB: torch.Tensor) -> torch.Tensor:
    # each launch's slots start where a tensor of their own would
    padded = torch.zeros(len(slots_nB), -(-slots_nB.shape[1] // 64) * 64, device="cuda", dtype=slots_nB.dtype)
    padded[:, : slots_nB.shape[1]] = slots_nB
    return padded[:, : slots_nB.shape[1]]


@dataclass
class Steps:
    """Mixer steps of `rows` rows over `launches` disjoint sets of slots, in random order."""

    projected_BJ: torch.Tensor
    conv_SCW: torch.Tensor
    ssm_SHPN: torch.Tensor
    slots_nB: torch.Tensor
    weights: StepWeights
    rounding: StochasticRounding | None

    @classmethod
    def make(cls, rows: int, kind: str, launches: int | None = None) -> Steps:
        dtype, stochastic = KINDS[kind]
        launches = launches or max(4, ROTATE // (rows * H * P * N * dtype.itemsize))
        ssm_SHPN = torch.empty(launches * rows, H, P, N, device="cuda", dtype=dtype)
        for slot in range(0, len(ssm_SHPN), 64):
            ssm_SHPN[slot : slot + 64] = torch.randn(ssm_SHPN[slot : slot + 64].shape, device="cuda")
        return cls(
            randn(rows, PROJECTED),
            randn(launches * rows, CHANNELS, K - 1),
            ssm_SHPN,
            _aligned(torch.randperm(launches * rows, device="cuda").int().view(launches, rows)),
            make_weights(),
            StochasticRounding(torch.tensor([1], device="cuda"), 0) if stochastic else None,
        )

    def run(self, launch: int, module: Any = mamba_step_triton) -> torch.Tensor:
        gate, conv_in, dt = self.projected_BJ.split([INNER, CHANNELS, H], dim=1)
        return module.mamba_step(
            *(conv_in, gate, dt, self.conv_SCW, self.ssm_SHPN, self.weights),
            slots_B=self.slots_nB[launch],
            eps=1e-5,
            rounding=self.rounding,
        )

    @property
    def bytes_a_launch(self) -> int:
        rows, weights = self.projected_BJ.shape[0], self.weights
        states = self.ssm_SHPN[0].numel() * self.ssm_SHPN.element_size() + self.conv_SCW[0].numel() * 2
        fixed = sum(w.numel() * w.element_size() for w in vars(weights).values())
        return rows * (2 * states + (PROJECTED + INNER) * 2) + fixed


def in_tree() -> Callable[[Steps, int], torch.Tensor] | None:
    """The three launches of SGLang's own class; None where SGLang is not installed."""
    try:
        conv = import_module("sglang.kernels.ops.mamba.causal_conv1d_triton").causal_conv1d_update
        update = import_module("sglang.kernels.ops.mamba.triton_ops.mamba_ssm").selective_state_update
        norm = import_module("sglang.kernels.ops.attention.fla.layernorm_gated").rms_norm_gated
    except ImportError:
        return None

    def run(steps: Steps, launch: int) -> torch.Tensor:
        gate, conv_in, dt = steps.projected_BJ.split([INNER, CHANNELS, H], dim=1)
        weights, slots_B, rows = steps.weights, steps.slots_nB[launch], len(gate)
        mixed = conv(conv_in, steps.conv_SCW, weights.conv_CK, weights.conv_bias_C, "silu", conv_state_indices=slots_B)
        x, B, C = mixed.split([INNER, G * N, G * N], dim=1)
        y = torch.empty(rows, H, P, device="cuda", dtype=x.dtype)
        update(
            steps.ssm_SHPN,
            x.view(rows, H, P),
            dt[:, :, None].expand(-1, H, P),
            weights.A_H[:, None, None].expand(H, P, N),
            B.view(rows, G, N),
            C.view(rows, G, N),
            weights.D_H[:, None].expand(H, P),
            z=None,
            dt_bias=weights.dt_bias_H[:, None].expand(H, P),
            dt_softplus=True,
            state_batch_indices=slots_B,
            out=y,
        )
        return norm(
            x=y.view(rows, INNER),
            weight=weights.norm_I,
            bias=None,
            z=gate,
            eps=1e-5,
            group_size=INNER // G,
            norm_before_gate=False,
            is_rms_norm=True,
        )

    return run


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """||found - expected|| / ||expected||, chunk by chunk in fp64; infinite where either is no number."""
    difference = size = 0.0
    for a, b in zip(found.split(64), expected.split(64), strict=True):
        difference += (a.double() - b.double()).square().sum().item()
        size += b.double().square().sum().item()
    ratio = (difference / size) ** 0.5
    return ratio if ratio == ratio else float("inf")


def gate() -> dict[str, float]:
    """Errors of every form against the fp32 references; ends the run where one is too large."""
    found: dict[str, float] = {}
    # fp32: sums in another order, and bf16 values on the way that fall to the other side. 16 bit: one rounding, random
    # rounding two
    limits = {"fp32": 1e-3, "bf16": 4e-3, "fp16": 1e-3, "fp16-sr": 1e-3}
    for kind, rows in itertools.product(KINDS, (3, 32, 200)):
        steps = Steps.make(rows, kind, launches=1)
        steps.slots_nB[0, rows // 2] = -1
        twin = Steps(**{**vars(steps), "conv_SCW": steps.conv_SCW.clone(), "ssm_SHPN": steps.ssm_SHPN.clone()})
        y = steps.run(0)
        expected = twin.run(0, mamba_step_reference)
        padding = steps.slots_nB[0] < 0
        found[f"step {kind} {rows} y"] = check(error(y[~padding], expected[~padding]), 5e-3)
        found[f"step {kind} {rows} state"] = check(error(steps.ssm_SHPN, twin.ssm_SHPN), limits[kind])
        found[f"step {kind} {rows} conv"] = check(float(not torch.equal(steps.conv_SCW, twin.conv_SCW)), 0.0)
    for tokens, dtype in itertools.product((1, 7, 32, 200, 512), (torch.bfloat16, torch.float32)):
        x_TD, weight_ED = randn(tokens, D), randn(E, D, dtype=dtype) * 0.04
        bias_E = torch.rand(E, device="cuda") * 0.1
        rows = [module.route(x_TD, weight_ED, bias_E, **RULE) for module in (router_triton, router_reference)]
        dense = [torch.zeros(tokens, E, device="cuda").scatter_(1, ids, weights) for weights, ids in rows]
        # a tie within fp32's last bits may choose another expert in a row of many
        wrong_rows = ((dense[0] - dense[1]).abs().amax(1) > 1e-5).double().mean().item()
        found[f"router {tokens} {dtype}"] = check(wrong_rows, 0.002)
    pools = [randn(3, 40, CHANNELS, K - 1), randn(3, 40, H, P, N)]
    twins = [pool.clone() for pool in pools]
    order = torch.randperm(40, device="cuda")
    rows = {"src_B": order[:20], "dst_B": order[20:], "mask_B": torch.rand(20, device="cuda") < 0.3}
    track_triton.copy_states(*pools, **rows)
    track_reference.copy_states(*twins, **rows)
    found["track"] = check(float(not all(torch.equal(a, b) for a, b in zip(pools, twins, strict=True))), 0.0)
    return found


def check(value: float, limit: float) -> float:
    if not value <= limit:
        raise SystemExit(f"red gate: {value:.3g} > {limit:.3g}; nothing is reported")
    return value


def microseconds(run: Callable[[int], Any], launches: int, repeats: int = 9) -> float:
    """Median time of a launch, over replays of one graph of `launches` launches."""
    run(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for launch in range(launches):
            run(launch)
    times = []
    for repeat in range(repeats + 2):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        if repeat >= 2:
            times.append(start.elapsed_time(end) * 1e3 / launches)
    return statistics.median(times)


def copy_bandwidth() -> float:
    """Bytes per microsecond, read and written, of a large copy (not in a graph: there it is another, slower one)."""
    a = torch.randn(1 << 30, device="cuda", dtype=torch.bfloat16)
    b = torch.empty_like(a)
    times = []
    for _ in range(9):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        b.copy_(a)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3)
    return 2 * a.numel() * 2 / statistics.median(times)


@triton.jit
def _nothing(x):
    pass


def launch_floor() -> float:
    """What a launch that does nothing takes in a graph."""
    x = torch.zeros(1, device="cuda")
    return microseconds(lambda _: _nothing[(1,)](x, num_warps=1), 500)


# --- schedules -------------------------------------------------------------------------------------------------------


def step_schedules(kind: str, rows: int) -> list[Any]:
    """What can pay: 8 to 64 numbers a thread, and programs enough for the processors."""
    if rows <= 8:
        blocks = [(8, 1), (8, 2), (16, 1), (16, 2), (16, 4), (32, 4), (64, 4)]
        options = itertools.product((8, 16, 32, 64), blocks, (1,))
    else:
        blocks = [(8, 1), (8, 2), (16, 2), (16, 4), (32, 4)]
        options = itertools.product((1, 2, 4, 8), blocks, (1, 2, 3, 4))
    found = [mamba_step_triton._Schedule(splits, *block, stages) for splits, block, stages in options]
    return [s for s in found if s.block_p * s.splits <= INNER // G]


def router_schedules(rows: int) -> list[Any]:
    one = itertools.product((16,), (14, 21, 42), (64, 128), (4, 8), (0,), (True,))
    two = itertools.product((16, 32, 64, 128), (3, 7, 14, 21), (64, 128), (8,), (1, 4, 8), (True,))
    options = [*(one if rows <= 64 else ()), *two]
    found = [router_triton._Schedule(*option) for option in options]
    return [
        s for s in found if s.splits * s.block_d <= D and (rows > 16 or s.block_t == 16) and s.block_t <= 2 * rows + 15
    ]


def use_step(schedule: Any) -> None:
    mamba_step_triton._schedule = lambda *_: schedule


def use_route(schedule: Any) -> None:
    router_triton._SCHEDULES = ((1 << 30, schedule),)


def _compile(job: tuple[str, Any, int]) -> str | None:
    """In a process of its own: fills Triton's cache; says what went wrong."""
    what, schedule, rows = job
    try:
        if what == "router":
            use_route(schedule)
            router_triton.route(randn(rows, D), randn(E, D), torch.zeros(E, device="cuda"), **RULE)
        else:
            use_step(schedule)
            Steps.make(rows, what, launches=1).run(0)
        torch.cuda.synchronize()
    except Exception as problem:  # noqa: BLE001 a schedule that does not compile is reported and left out
        return f"{job}: {problem!r}"[:300]
    return None


def compile_all(jobs: list[tuple[str, Any, int]]) -> list[str]:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(14, mp_context=context) as pool:
        return [problem for problem in pool.map(_compile, jobs, chunksize=4) if problem]


# --- what is timed ---------------------------------------------------------------------------------------------------


def time_steps(rows: int, kind: str, bandwidth: float, schedules: list[Any]) -> list[dict[str, Any]]:
    steps = Steps.make(rows, kind)
    launches = len(steps.slots_nB)
    floor = steps.bytes_a_launch / bandwidth
    results = []
    own = mamba_step_triton._schedule
    baseline = in_tree()
    if baseline is not None and kind != "fp16-sr":
        time = microseconds(lambda launch: baseline(steps, launch), launches)
        results.append({"form": "in-tree's 3 launches", "us": time})
    results.append(
        {"form": "ours", "us": microseconds(steps.run, launches), "schedule": list(own_schedule(kind, rows))}
    )
    for schedule in schedules:
        use_step(schedule)
        try:
            time = microseconds(steps.run, launches, repeats=5)
        except Exception as problem:  # noqa: BLE001 reported with the others
            print(f"{schedule}: {problem!r}"[:200])
            continue
        results.append({"form": "tried", "us": time, "schedule": list(schedule)})
    mamba_step_triton._schedule = own
    for result in results:
        result.update(op="step", kind=kind, rows=rows, floor_us=floor, share=floor / result["us"])
    return results


def own_schedule(kind: str, rows: int) -> Any:
    dtype, stochastic = KINDS[kind]
    return mamba_step_triton._schedule(torch.cuda.get_device_name(), rows, dtype.itemsize, stochastic)


def time_router(rows: int, bandwidth: float, schedules: list[Any]) -> list[dict[str, Any]]:
    # as many layers' routers as a step has; together they are smaller than the cache, as they may be in a step
    weights, bias_E = [randn(E, D) * 0.04 for _ in range(LAYERS)], torch.rand(E, device="cuda") * 0.1
    x_TD = randn(rows, D)
    floor = (E * D * 2 + rows * (D * 2 + TOP_K * 12)) / bandwidth
    results = [
        {
            "form": "matrix product alone",
            "us": microseconds(lambda i: torch.mm(x_TD, weights[i].t(), out_dtype=torch.float32), LAYERS),
        },
        {"form": "ours", "us": microseconds(lambda i: router_triton.route(x_TD, weights[i], bias_E, **RULE), LAYERS)},
    ]
    own = router_triton._SCHEDULES
    for schedule in schedules:
        use_route(schedule)
        try:
            time = microseconds(lambda i: router_triton.route(x_TD, weights[i], bias_E, **RULE), LAYERS, repeats=5)
        except Exception as problem:  # noqa: BLE001 reported with the others
            print(f"{schedule}: {problem!r}"[:200])
            continue
        results.append({"form": "tried", "us": time, "schedule": list(schedule)})
    router_triton._SCHEDULES = own
    for result in results:
        result.update(op="router", kind="bf16", rows=rows, floor_us=floor, share=floor / result["us"])
    return results


def time_track(bandwidth: float) -> list[dict[str, Any]]:
    results = []
    pools = torch.zeros(LAYERS, 600, CHANNELS, K - 1, device="cuda", dtype=torch.bfloat16), None
    states = torch.zeros(LAYERS, 600, H, P, N, device="cuda", dtype=torch.float32)
    slots = torch.randperm(600, device="cuda")
    for rows, wanted in ((1, 0), (1, 1), (512, 0), (512, 2), (512, 8)):
        mask_B = torch.arange(rows, device="cuda") % max(rows // max(wanted, 1), 1) == 0
        mask_B &= wanted > 0
        dst_B = slots[rows:].repeat(8)[:rows].contiguous()
        time = microseconds(
            lambda _, r=rows, m=mask_B, d=dst_B: track_triton.copy_states(
                pools[0], states, src_B=slots[:r], dst_B=d, mask_B=m
            ),
            20,
        )
        moved = 2 * wanted * LAYERS * (H * P * N * 4 + CHANNELS * (K - 1) * 2)
        floor = moved / bandwidth
        results.append(
            {"op": "track", "form": "ours", "kind": f"{wanted} of them", "rows": rows, "us": time, "floor_us": floor}
        )
        results[-1]["share"] = floor / time
    return results


def machine() -> dict[str, Any]:
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    return {
        "gpu": subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip(),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "triton": triton.__version__,
    }


def table(results: list[dict[str, Any]]) -> None:
    print(f"{'op':7}{'kind':14}{'rows':>5}  {'form':22}{'us':>10}{'floor us':>10}{'of floor':>9}  schedule")
    for r in results:
        schedule = ",".join(str(x) for x in r.get("schedule", []))
        print(
            f"{r['op']:7}{r['kind']:14}{r['rows']:>5}  {r['form']:22}{r['us']:>10.2f}{r['floor_us']:>10.2f}"
            f"{r['share']:>9.1%}  {schedule}"
        )


def best(results: list[dict[str, Any]], count: int = 3) -> list[dict[str, Any]]:
    """All that was not merely tried, and the `count` fastest of what was, for each op, kind and number of rows."""
    kept = []
    key = lambda r: (r["op"], r["kind"], r["rows"])  # noqa: E731
    for _, group in itertools.groupby(results, key):
        rows = list(group)
        kept += [r for r in rows if r["form"] != "tried"]
        kept += sorted((r for r in rows if r["form"] == "tried"), key=lambda r: r["us"])[:count]
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the raw JSON goes")
    parser.add_argument("--commit", default="", help="of the sources that are measured")
    parser.add_argument("--rows", default="1,8,32,128,256,512", help="batch sizes")
    parser.add_argument("--kinds", default=",".join(KINDS), help="states")
    parser.add_argument("--tune", action="store_true", help="try all schedules")
    args = parser.parse_args()
    torch.manual_seed(int(datetime.datetime.now().timestamp()))
    batches, kinds = [int(rows) for rows in args.rows.split(",")], args.kinds.split(",")
    step_options = {(k, r): step_schedules(k, r) if args.tune else [] for k in kinds for r in batches}
    router_options = {r: router_schedules(r) if args.tune else [] for r in batches}
    jobs = {(k, s, 1) for (k, _), schedules in step_options.items() for s in schedules}
    jobs |= {("router", s, r if r <= 16 else 512) for r in batches for s in router_options[r]}
    # what will be timed is compiled first, side by side
    jobs |= {(k, own_schedule(k, r), 1) for k, r in step_options}
    problems = compile_all(sorted(jobs))
    errors = gate()
    bandwidth = copy_bandwidth()
    results = []
    for kind, rows in itertools.product(kinds, batches):
        results += time_steps(rows, kind, bandwidth, step_options[kind, rows])
        torch.cuda.empty_cache()
    for rows in batches:
        results += time_router(rows, bandwidth, router_options[rows])
    results += time_track(bandwidth)
    record = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": args.commit,
        "machine": machine(),
        "argv": sys.argv[1:],
        "copy_tb_s": bandwidth / 1e6,
        "empty_launch_us": launch_floor(),
        "gate": errors,
        "problems": problems,
        "results": results,
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(*problems, sep="\n")
    print(f"{record['machine']}; copy {record['copy_tb_s']:.2f} TB/s; empty launch {record['empty_launch_us']:.2f} us")
    table(best(results))


if __name__ == "__main__":
    main()
