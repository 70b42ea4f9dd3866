"""Times the CPU forms of the ops, microseconds per call, for one layer's shapes of a toy or of the full-size model.

    python benchmarks/ops_cpu.py --threads 2                      # the toy: decode at batch 1 and 8, prefill of 3,000
    python benchmarks/ops_cpu.py --model full --dtype bfloat16    # Nemotron 3 Nano 30B-A3B

Prints the fastest and the median of the repeats per op, and the sums over the model's layers. Inputs are views of one
projection, as in the model. On a busy machine with several threads set OMP_WAIT_POLICY=PASSIVE: otherwise a thread that
waits spins through the time slice that its sibling needs, and every parallel call costs milliseconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from sglang_nemotron.ops import (
    conv1d_torch,
    experts_torch,
    gated_norm_torch,
    router_torch,
    ssd_torch,
    ssm_step_torch,
)
from sglang_nemotron.ops.batch import RaggedBatch


@dataclass(frozen=True)
class Shapes:
    """The sizes of one model; counts of its Mamba and MoE layers last."""

    hidden: int
    heads: int
    head_dim: int
    groups: int
    state: int
    experts: int
    top_k: int
    expert_width: int
    mamba_layers: int
    moe_layers: int


MODELS = {
    "toy": Shapes(64, 8, 16, 2, 16, 8, 3, 48, 3, 2),
    "full": Shapes(2688, 64, 64, 8, 128, 128, 6, 1856, 23, 23),
}


class Layer:
    """Random weights, states and projected inputs of one layer, and the calls that the model makes on them."""

    def __init__(self, shapes: Shapes, num_rows: int, dtype: torch.dtype) -> None:
        s = self.s = shapes
        self.inner = s.heads * s.head_dim
        self.channels = self.inner + 2 * s.groups * s.state
        num_slots = 16
        self.conv_SCW = torch.randn(num_slots, self.channels, 3, dtype=dtype)
        self.ssm_SHPN = torch.randn(num_slots, s.heads, s.head_dim, s.state)
        self.weight_CK = torch.randn(self.channels, 4, dtype=dtype)
        self.bias_C = torch.randn(self.channels, dtype=dtype)
        self.A_H, self.D_H, self.dt_bias_H = -torch.rand(s.heads) * 8 - 0.1, torch.ones(s.heads), torch.zeros(s.heads)
        self.norm_I = torch.ones(self.inner, dtype=dtype)
        projected = torch.randn(num_rows, self.inner + self.channels + s.heads, dtype=dtype)
        self.gate_TI, self.conv_in_TC, self.dt_TH = projected.split([self.inner, self.channels, s.heads], dim=-1)
        self.hidden_TD = torch.randn(num_rows, s.hidden, dtype=dtype)
        self.router_ED = torch.randn(s.experts, s.hidden, dtype=dtype) * 0.1
        self.router_bias_E = torch.randn(s.experts) * 0.1
        self.up_EID = torch.randn(s.experts, s.expert_width, s.hidden, dtype=dtype) * s.hidden**-0.5
        self.down_EDI = torch.randn(s.experts, s.hidden, s.expert_width, dtype=dtype) * s.expert_width**-0.5
        slots = torch.arange(1, 1 + min(num_rows, num_slots - 1))
        self.slots_B = slots
        self.batch = RaggedBatch(
            torch.tensor([0, num_rows], dtype=torch.int32),
            [num_rows],
            slots[:1],
            torch.ones(1, dtype=bool),
            [True],
            128,
        )
        self.mixed_TC = torch.randn(num_rows, self.channels, dtype=dtype)
        self.y_TI = torch.randn(num_rows, self.inner, dtype=dtype)
        self.weights_Tk, self.ids_Tk = self.route()

    def split(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        s, size = self.s, self.s.groups * self.s.state
        x, B, C = self.mixed_TC.split([self.inner, size, size], dim=-1)
        return x.unflatten(1, (s.heads, -1)), B.unflatten(1, (s.groups, -1)), C.unflatten(1, (s.groups, -1))

    def conv1d_step(self) -> object:
        return conv1d_torch.conv1d_step(
            self.conv_in_TC, self.weight_CK, self.bias_C, self.conv_SCW, slots_B=self.slots_B
        )

    def ssm_step(self) -> object:
        x, B, C = self.split()
        head = (self.D_H, self.dt_bias_H, self.ssm_SHPN)
        return ssm_step_torch.ssm_step(x, self.dt_TH, self.A_H, B, C, *head, slots_B=self.slots_B)

    def conv1d_prefill(self) -> object:
        return conv1d_torch.conv1d_prefill(
            self.conv_in_TC, self.weight_CK, self.bias_C, self.conv_SCW, batch=self.batch, snapshots=None
        )

    def ssd_prefill(self) -> object:
        x, B, C = self.split()
        head = (self.D_H, self.dt_bias_H, self.ssm_SHPN)
        return ssd_torch.ssd_prefill(x, self.dt_TH, self.A_H, B, C, *head, batch=self.batch, snapshots=None)

    def gated_norm(self) -> object:
        return gated_norm_torch.gated_norm(self.y_TI, self.gate_TI, self.norm_I, num_groups=self.s.groups, eps=1e-5)

    def route(self) -> tuple[torch.Tensor, torch.Tensor]:
        rule = {"top_k": self.s.top_k, "scale": 2.5, "renormalize": True}
        return router_torch.route(self.hidden_TD, self.router_ED, self.router_bias_E, **rule)

    def experts(self) -> object:
        return experts_torch.experts(self.hidden_TD, self.up_EID, self.down_EDI, self.weights_Tk, self.ids_Tk)


def measure(call: Callable[[], object], seconds: float) -> tuple[float, float]:
    """(fastest, median) microseconds of one call, repeated for about `seconds`, at least five times, after two."""
    call(), call()
    times = []
    stop = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < stop:
        begin = time.perf_counter()
        call()
        times.append((time.perf_counter() - begin) * 1e6)
    return min(times), statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(MODELS), default="toy")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--prefill", type=int, default=3000, help="tokens of the prefill")
    parser.add_argument("--seconds", type=float, default=0.5, help="time spent on each op")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    shapes, dtype = MODELS[args.model], getattr(torch, args.dtype)
    print(
        f"torch {torch.__version__}, {args.threads} threads, {args.model}, {args.dtype}; us per call: fastest, median"
    )
    decode = ("conv1d_step", "ssm_step", "gated_norm", "route", "experts")
    prefill = ("conv1d_prefill", "ssd_prefill", "gated_norm", "route", "experts")
    for title, num_rows, names in (
        ("decode, batch 1", 1, decode),
        ("decode, batch 8", 8, decode),
        (f"prefill, {args.prefill} tokens", args.prefill, prefill),
    ):
        layer = Layer(shapes, num_rows, dtype)
        sums = [0.0, 0.0]
        print(title)
        with torch.inference_mode():
            for name in names:
                layers = shapes.moe_layers if name in ("route", "experts") else shapes.mamba_layers
                times = measure(getattr(layer, name), args.seconds)
                sums = [total + layers * one for total, one in zip(sums, times, strict=True)]
                print(f"  {name:<16}{times[0]:>12.1f}{times[1]:>12.1f}")
        print(f"  {'all layers':<16}{sums[0]:>12.1f}{sums[1]:>12.1f}")


if __name__ == "__main__":
    main()
