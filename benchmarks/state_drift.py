"""How far a layer's state drifts from the fp32 one over many decode steps, by the dtype it is kept in.

    python benchmarks/state_drift.py --out benchmarks/state_drift.json --commit HASH [--steps 32768]
    python benchmarks/state_drift.py --plot benchmarks/state_drift.json docs/state_drift.png

One layer of Nemotron 3 Nano's size, the same inputs for fp32, bf16, fp16 and fp16 rounded at random. dt and A start as
Mamba-2 starts them (dt log-uniform in 0.001 to 0.1, A uniform in -1 to -16), which gives memories from one token to a
thousand. Reports ||state - fp32 state|| / ||fp32 state|| over all heads and over the eighth that forgets slowest, and
the same of the result. With random weights it says nothing about tasks. Needs torch and triton, the plot matplotlib.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from state_gpu import CHANNELS, INNER, KINDS, PROJECTED, H, K, N, P, check, error, machine, randn

from sglang_nemotron.ops import mamba_step_reference, mamba_step_triton
from sglang_nemotron.ops.cargo import StepWeights, StochasticRounding

ROWS = 2


def make_weights() -> StepWeights:
    dt_H = torch.exp(torch.rand(H, device="cuda") * math.log(100) + math.log(0.001))
    return StepWeights(
        conv_CK=randn(CHANNELS, K) * 0.5,
        conv_bias_C=randn(CHANNELS) * 0.1,
        A_H=-(torch.rand(H, device="cuda") * 15 + 1),
        D_H=torch.ones(H, device="cuda"),
        dt_bias_H=dt_H + torch.log(-torch.expm1(-dt_H)),
        norm_I=torch.ones(INNER, device="cuda", dtype=torch.bfloat16),
    )


class Side:
    """One state dtype, moved on by the same inputs as the others."""

    def __init__(self, kind: str, weights: StepWeights) -> None:
        dtype, stochastic = KINDS[kind]
        self.weights = weights
        self.ssm_SHPN = torch.zeros(ROWS, H, P, N, device="cuda", dtype=dtype)
        self.conv_SCW = torch.zeros(ROWS, CHANNELS, K - 1, device="cuda", dtype=torch.bfloat16)
        self.slots_B = torch.arange(ROWS, device="cuda")
        self.rounding = StochasticRounding(torch.tensor([0], device="cuda"), 0) if stochastic else None

    def step(self, projected_BJ: torch.Tensor, module: Any = mamba_step_triton) -> torch.Tensor:
        gate, conv_in, dt = projected_BJ.split([INNER, CHANNELS, H], dim=1)
        y_BI = module.mamba_step(
            *(conv_in, gate, dt, self.conv_SCW, self.ssm_SHPN, self.weights),
            slots_B=self.slots_B,
            eps=1e-5,
            rounding=self.rounding,
        )
        if self.rounding is not None:
            self.rounding.seed_1.add_(1)
        return y_BI


def inputs(steps: int) -> torch.Tensor:
    """Unit-size projections; dt moves by half a unit around its bias."""
    projected_LBJ = torch.randn(steps, ROWS, PROJECTED, device="cuda")
    projected_LBJ[..., -H:] *= 0.5
    return projected_LBJ.bfloat16()


def measure(num_steps: int) -> dict[str, Any]:
    torch.manual_seed(7)
    weights = make_weights()
    for kind in KINDS:
        ours, reference = Side(kind, weights), Side(kind, weights)
        for projected_BJ in inputs(8):
            y, expected = ours.step(projected_BJ), reference.step(projected_BJ, mamba_step_reference)
            check(error(y, expected), 5e-3)
        # bf16 after eight roundings
        check(error(ours.ssm_SHPN, reference.ssm_SHPN), 1e-2 if kind == "bf16" else 2e-3)
    sides = {kind: Side(kind, weights) for kind in KINDS}
    slow = (weights.A_H * torch.nn.functional.softplus(weights.dt_bias_H)).argsort(descending=True)[: H // 8]
    at, done = [], 0
    curves: dict[str, dict[str, list[float]]] = {k: {"all": [], "slow": [], "y": []} for k in KINDS if k != "fp32"}
    points = {round(2 ** (i / 4)) for i in range(1, 4 * int(math.log2(num_steps)) + 1)} | {num_steps}
    while done < num_steps:
        for projected_BJ in inputs(min(512, num_steps - done)):
            results = {kind: side.step(projected_BJ) for kind, side in sides.items()}
            done += 1
            if done not in points:
                continue
            at.append(done)
            exact = sides["fp32"].ssm_SHPN
            for kind, curve in curves.items():
                state = sides[kind].ssm_SHPN
                curve["all"].append(error(state, exact))
                curve["slow"].append(error(state[:, slow], exact[:, slow]))
                curve["y"].append(error(results[kind], results["fp32"]))
    return {"steps": at, "curves": curves}


def plot(source: Path, target: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    record = json.loads(source.read_text())
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), sharey=True, constrained_layout=True)
    titles = {"all": "state, all heads", "slow": "state, slowest eighth", "y": "result of the layer"}
    for axis, (part, title) in zip(axes, titles.items(), strict=True):
        for kind, curve in record["curves"].items():
            axis.loglog(record["steps"], curve[part], label=kind)
        axis.set(title=title, xlabel="decode steps")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("relative error against an fp32 state")
    axes[0].legend()
    figure.savefig(target, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where the raw JSON goes")
    parser.add_argument("--commit", default="", help="of the sources that are measured")
    parser.add_argument("--steps", type=int, default=32768)
    parser.add_argument("--plot", type=Path, nargs=2, metavar=("JSON", "PNG"), help="draw what was measured")
    args = parser.parse_args()
    if args.plot:
        plot(*args.plot)
        return
    record = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": args.commit,
        "machine": machine(),
        "argv": sys.argv[1:],
        **measure(args.steps),
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    for kind, curve in record["curves"].items():
        print(kind, {part: f"{values[-1]:.2e}" for part, values in curve.items()})


if __name__ == "__main__":
    main()
