"""Random inputs for the whole decode step of a mixer, where our Triton kernels run or on another device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sglang_nemotron.ops.step import StepWeights, StochasticRounding
from support.ops_cases import NAN
from support.triton_cases import DEVICE


@dataclass(frozen=True)
class Step:
    """One call; states are copied by every run and come back beside the result."""

    conv_in_BC: torch.Tensor
    gate_BI: torch.Tensor
    dt_BH: torch.Tensor
    conv_SCW: torch.Tensor
    ssm_SHPN: torch.Tensor
    weights: StepWeights
    slots_B: torch.Tensor
    rounding: StochasticRounding | None = None
    dt_limit: tuple[float, float] = (0.0, float("inf"))

    def run(self, module: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        conv_SCW = self.conv_SCW.clone(memory_format=torch.preserve_format)
        # one layer's view into a pool of two
        pool = torch.full((2, *self.ssm_SHPN.shape), NAN, dtype=self.ssm_SHPN.dtype, device=self.ssm_SHPN.device)
        pool = pool.transpose(0, 1)
        ssm_SHPN = pool[:, 1]
        ssm_SHPN.copy_(self.ssm_SHPN)
        y_BI = module.mamba_step(
            *(self.conv_in_BC, self.gate_BI, self.dt_BH, conv_SCW, ssm_SHPN, self.weights),
            slots_B=self.slots_B,
            eps=1e-5,
            dt_limit=self.dt_limit,
            rounding=self.rounding,
        )
        assert pool[:, 0].isnan().all()
        return y_BI, conv_SCW, ssm_SHPN.contiguous()


def case(
    slots: list[int],
    heads: int = 8,
    head_dim: int = 4,
    groups: int = 2,
    state: int = 16,
    width: int = 4,
    bias: bool = True,
    norm: bool = True,
    dtype: torch.dtype = torch.float32,
    state_dtype: torch.dtype = torch.float32,
    num_slots: int = 12,
    device: torch.device = DEVICE,
) -> Step:
    """Views of one projection; rows of padding are NaN, and so is every slot that is not named."""
    inner, num_rows = heads * head_dim, len(slots)
    channels = inner + 2 * groups * state
    projected = torch.randn(num_rows, inner + channels + heads + 3).to(dtype)
    projected[[slot < 0 for slot in slots]] = NAN
    gate, conv_in, dt, _ = projected.to(device).split([inner, channels, heads, 3], dim=1)
    conv_SCW = torch.randn(2, num_slots, width - 1, channels).to(dtype)[1].transpose(1, 2)
    ssm_SHPN = torch.randn(num_slots, heads, head_dim, state).to(state_dtype)
    for slot in set(range(num_slots)) - set(slots):
        conv_SCW[slot], ssm_SHPN[slot] = NAN, NAN
    weights = StepWeights(
        conv_CK=(torch.randn(channels, width).to(dtype) * 0.5).to(device),
        conv_bias_C=torch.randn(channels).to(device, dtype) if bias else None,
        A_H=-torch.exp(torch.rand(heads) * 4 - 2).to(device),
        D_H=torch.randn(heads).to(device),
        dt_bias_H=torch.randn(heads).to(device),
        norm_I=(torch.rand(inner).to(dtype) + 0.5).to(device) if norm else None,
    )
    slots_B = torch.tensor(slots, dtype=torch.int64, device=device)
    return Step(conv_in, gate, dt, conv_SCW.to(device), ssm_SHPN.to(device), weights, slots_B)
