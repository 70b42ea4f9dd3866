"""How far a layer's state drifts from the fp32 one over many decode steps, by the dtype it is kept in.

    python benchmarks/state_drift.py --out benchmarks/state_drift.json --commit HASH [--steps 32768] [--heads 64]
    python benchmarks/state_drift.py --plot benchmarks/state_drift.json docs/state_drift.png

One layer with the head and state sizes of Nemotron 3 Nano, the same inputs for fp32, bf16, fp16 and fp16 rounded at
random. dt and A start as Mamba-2 starts them (dt log-uniform in 0.001 to 0.1, A uniform in -1 to -16), or A is such
that the heads' memories are spread evenly, by their logarithm, from 2 tokens to `--memory`. `--steady` is the share of
the inputs that never changes. Reports ||state - fp32 state|| / ||fp32 state|| over all heads and over the quarter that
forgets slowest, and the same of the result. On CUDA it steps with the kernel, elsewhere with the reference: what is
measured is the dtype. With random weights it says nothing about tasks. Needs torch, on CUDA triton, and the plot
matplotlib.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import math
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from sglang_nemotron.ops.step import StepWeights, StochasticRounding

P, N, K, HEADS_PER_GROUP = 64, 128, 4, 8
KINDS = {
    "fp32": (torch.float32, False),
    "bf16": (torch.bfloat16, False),
    "fp16": (torch.float16, False),
    "fp16-sr": (torch.float16, True),
}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FORM = "triton" if DEVICE.type == "cuda" else "reference"


def sections(heads: int) -> list[int]:
    """Widths of a projected row: gate, conv inputs, dt."""
    return [heads * P, heads * P + 2 * heads // HEADS_PER_GROUP * N, heads]


def make_weights(heads: int, memory: float) -> StepWeights:
    dt_H = torch.exp(torch.rand(heads) * math.log(100) + math.log(0.001))
    A_H = -(torch.rand(heads) * 15 + 1)
    if memory:
        A_H = -1 / (dt_H * torch.logspace(math.log10(2), math.log10(memory), heads))
    inner, channels, _ = sections(heads)
    weights = {
        "conv_CK": (torch.randn(channels, K) * 0.5).bfloat16(),
        "conv_bias_C": (torch.randn(channels) * 0.1).bfloat16(),
        "A_H": A_H,
        "D_H": torch.ones(heads),
        "dt_bias_H": dt_H + torch.log(-torch.expm1(-dt_H)),
        "norm_I": torch.ones(inner).bfloat16(),
    }
    return StepWeights(**{name: weight.to(DEVICE) for name, weight in weights.items()})


class Side:
    """One state dtype, moved on by the same inputs as the others."""

    def __init__(self, kind: str, heads: int, weights: StepWeights) -> None:
        dtype, stochastic = KINDS[kind]
        self.weights = weights
        self.sections = sections(heads)
        self.ssm_SHPN = torch.zeros(1, heads, P, N, device=DEVICE, dtype=dtype)
        self.conv_SCW = torch.zeros(1, self.sections[1], K - 1, device=DEVICE, dtype=torch.bfloat16)
        self.slots_B = torch.zeros(1, device=DEVICE, dtype=torch.int64)
        self.rounding = StochasticRounding(torch.tensor([0], device=DEVICE), 0) if stochastic else None

    def step(self, projected_BJ: torch.Tensor, module: Any) -> torch.Tensor:
        gate, conv_in, dt = projected_BJ.split(self.sections, dim=1)
        y_BI = module.mamba_step(
            *(conv_in, gate, dt, self.conv_SCW, self.ssm_SHPN, self.weights),
            slots_B=self.slots_B,
            eps=1e-5,
            rounding=self.rounding,
        )
        if self.rounding is not None:
            self.rounding.seed_1.add_(1)
        return y_BI


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


def inputs(steps: int, heads: int, steady_J: torch.Tensor, share: float) -> torch.Tensor:
    """Unit-size projections [steps, 1, J], of which `share` stays; dt, the last of them, moves by half a unit."""
    projected_LBJ = share * steady_J + (1 - share**2) ** 0.5 * torch.randn(steps, 1, len(steady_J))
    projected_LBJ[..., -heads:] *= 0.5
    return projected_LBJ.bfloat16().to(DEVICE)


def measure(num_steps: int, heads: int, share: float, memory: float) -> dict[str, Any]:
    torch.manual_seed(7)
    module = importlib.import_module(f"sglang_nemotron.ops.mamba_step_{FORM}")
    weights = make_weights(heads, memory)
    sides = {kind: Side(kind, heads, weights) for kind in KINDS}
    memory_H = weights.A_H * torch.nn.functional.softplus(weights.dt_bias_H)
    slow = memory_H.argsort(descending=True)[: max(heads // 4, 1)]
    points = {round(2 ** (i / 4)) for i in range(1, 4 * int(math.log2(num_steps)) + 1)} | {num_steps}
    steady_J = torch.randn(sum(sections(heads)))
    curves: dict[str, dict[str, list[float]]] = {k: {"all": [], "slow": [], "y": []} for k in KINDS if k != "fp32"}
    at, done = [], 0
    while done < num_steps:
        for projected_BJ in inputs(min(512, num_steps - done), heads, steady_J, share):
            results = {kind: side.step(projected_BJ, module) for kind, side in sides.items()}
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
    decay_H = torch.exp(memory_H)
    return {"steps": at, "curves": curves, "tokens_remembered": (-1 / torch.log(decay_H)).tolist()}


def plot(source: Path, target: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    record = json.loads(source.read_text())
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), sharey=True, constrained_layout=True)
    titles = {"all": "state, all heads", "slow": "state, slowest quarter", "y": "result of the layer"}
    for axis, (part, title) in zip(axes, titles.items(), strict=True):
        for kind, curve in record["curves"].items():
            axis.loglog(record["steps"], curve[part], label=kind)
        axis.set(title=title, xlabel="decode steps")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("relative error against an fp32 state")
    axes[0].legend()
    figure.savefig(target, dpi=120)


def machine() -> dict[str, Any]:
    name = platform.machine()
    if DEVICE.type == "cuda":
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        name = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    return {"device": name, "form": FORM, "python": sys.version.split()[0], "torch": torch.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where the raw JSON goes")
    parser.add_argument("--commit", default="", help="of the sources that are measured")
    parser.add_argument("--steps", type=int, default=32768)
    parser.add_argument("--heads", type=int, default=64, help=f"a multiple of {HEADS_PER_GROUP}")
    parser.add_argument("--steady", type=float, default=0.0, help="share of the inputs that is the same at every step")
    parser.add_argument("--memory", type=float, default=0.0, help="tokens that the slowest head remembers")
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
        **measure(args.steps, args.heads, args.steady, args.memory),
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    for kind, curve in record["curves"].items():
        print(kind, {part: f"{values[-1]:.2e}" for part, values in curve.items()})


if __name__ == "__main__":
    main()
