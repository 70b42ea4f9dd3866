"""Small frozen records that `mamba_step` takes besides tensors. No SGLang, no Triton."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class StepWeights:
    """What one Mamba-2 mixer's decode step reads besides its projections; this rank's shards.

    `conv_CK`, `conv_bias_C`: taps (oldest first) and bias of the convolution. `A_H` (-exp(A_log)), `D_H`, `dt_bias_H`:
    one fp32 number per head. `norm_I`: weight of the gated norm, absent where a group spans ranks and the norm is
    taken elsewhere.
    """

    conv_CK: torch.Tensor
    conv_bias_C: torch.Tensor | None
    A_H: torch.Tensor
    D_H: torch.Tensor
    dt_bias_H: torch.Tensor
    norm_I: torch.Tensor | None


@dataclass(frozen=True)
class StochasticRounding:
    """How an fp16 state is rounded at random, but reproducibly: the draw belongs to (seed, stream, slot, element).

    `seed_1` (int64 [1], on the state's device) changes once a step, on the device, so that a captured graph draws
    anew at each replay; `stream` is the layer, so that layers do not share draws.
    """

    seed_1: torch.Tensor
    stream: int
