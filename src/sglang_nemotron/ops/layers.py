"""Small frozen records that `few_rows` takes besides tensors: the weights of a layer as one token meets them.

No SGLang, no Triton. D hidden, N outputs and K inputs of a linear, E experts, S width of the shared expert.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sglang_nemotron.ops.batch import Float8Scales
from sglang_nemotron.ops.step import StepWeights

__all__ = ["Linear", "MambaLayer", "MoELayer", "Norm", "Router"]


@dataclass(frozen=True)
class Norm:
    """An RMSNorm over D: its weight and what is added to the mean square."""

    weight_D: torch.Tensor
    eps: float


@dataclass(frozen=True)
class Linear:
    """A linear without bias. FP8 weights come with two fp32 scales: of the input [1], of the weight [1] or [N]."""

    weight_NK: torch.Tensor
    x_scale_1: torch.Tensor | None = None
    weight_scale: torch.Tensor | None = None


@dataclass(frozen=True)
class MambaLayer:
    """A Mamba-2 mixer with its norm; `in_proj` gives gate, convolution inputs and dt, in that order."""

    norm: Norm
    in_proj: Linear
    step: StepWeights
    out_proj: Linear
    gated_norm_eps: float
    dt_limit: tuple[float, float] = (0.0, float("inf"))


@dataclass(frozen=True)
class Router:
    """What `ops.route` takes besides tokens; the choice is among all experts."""

    weight_ED: torch.Tensor
    bias_E: torch.Tensor
    top_k: int
    scale: float
    renormalize: bool


@dataclass(frozen=True)
class MoELayer:
    """Routed experts and the shared one, with their norm. `scales` come with FP8 experts."""

    norm: Norm
    router: Router
    up_EID: torch.Tensor
    down_EDI: torch.Tensor
    scales: Float8Scales | None
    shared_up: Linear
    shared_down: Linear
