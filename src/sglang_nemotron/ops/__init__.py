"""Numbers without weights: the public functions of this room, each chosen once by device and said out loud.

Twins live beside this file: `x_reference.py` (plain fp32, sequential), `x_torch.py` (a CPU form quick enough to
serve) and device forms. Choosing is not falling back: a form that fails raises. Imports no Triton by itself.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable, Sequence
from types import ModuleType

import torch

from sglang_nemotron.ops.cargo import Float8Scales, GridSnapshots, KernelGrid, Ragged, Snapshots

logger = logging.getLogger(__name__)

__all__ = [
    "Float8Scales",
    "GridSnapshots",
    "KernelGrid",
    "Ragged",
    "Snapshots",
    "conv1d_prefill",
    "conv1d_step",
    "copy_states",
    "experts",
    "experts_fp8",
    "full_attention",
    "gated_norm",
    "route",
    "ssd_prefill",
    "ssm_step",
]

# which module serves an op on which device; CUDA borrows SGLang's kernels until ours replace them one by one
FORMS: dict[str, dict[str, str]] = {
    "conv1d": {"cpu": "conv1d_torch", "cuda": "conv1d_sglang"},
    "ssd": {"cpu": "ssd_torch", "cuda": "ssd_sglang"},
    "ssm_step": {"cpu": "ssm_step_torch", "cuda": "ssm_step_sglang"},
    "full_attention": {"cpu": "full_attention_torch", "cuda": "full_attention_sglang"},
    "gated_norm": {"cpu": "gated_norm_torch", "cuda": "gated_norm_sglang"},
    "router": {"cpu": "router_torch", "cuda": "router_torch"},
    "experts": {"cpu": "experts_torch", "cuda": "experts_triton"},
    "experts_fp8": {"cpu": "experts_fp8_reference", "cuda": "experts_fp8_triton"},
    "track": {"cpu": "track_torch", "cuda": "track_sglang"},
}


@functools.cache
def _form(op: str, device_type: str) -> ModuleType:
    forms = FORMS[op]
    if device_type not in forms:
        raise ValueError(f"op {op!r} has no form for device {device_type!r}; it has {sorted(forms)}")
    module = importlib.import_module(f"sglang_nemotron.ops.{forms[device_type]}")
    logger.info("op %s on %s: %s", op, device_type, forms[device_type])
    return module


def full_attention(
    q_THD: torch.Tensor, k_THD: torch.Tensor, v_THD: torch.Tensor, *, lengths: Sequence[int]
) -> torch.Tensor:
    """Attention inside sequences that lie back to back, without a mask; for towers, which keep no cache.

    Returns [T, H, D] in the dtype of q. `lengths` are the sequences' tokens and add up to T.
    """
    return _form("full_attention", q_THD.device.type).full_attention(q_THD, k_THD, v_THD, lengths=lengths)


def conv1d_prefill(
    x_TC: torch.Tensor,
    weight_CK: torch.Tensor,
    bias_C: torch.Tensor | None,
    state_SCW: torch.Tensor,
    *,
    batch: Ragged,
    snapshots: Snapshots | None,
) -> torch.Tensor:
    """Causal depthwise convolution and SiLU over each sequence; windows are read and written in place.

    Returns y_TC in the dtype of x. `state_SCW` keeps the last K-1 raw inputs of each slot.
    """
    form = _form("conv1d", x_TC.device.type)
    return form.conv1d_prefill(x_TC, weight_CK, bias_C, state_SCW, batch=batch, snapshots=snapshots)


def conv1d_step(
    x_BC: torch.Tensor,
    weight_CK: torch.Tensor,
    bias_C: torch.Tensor | None,
    state_SCW: torch.Tensor,
    *,
    slots_B: torch.Tensor,
) -> torch.Tensor:
    """One token of each row through the convolution; rows with a negative slot are padding."""
    return _form("conv1d", x_BC.device.type).conv1d_step(x_BC, weight_CK, bias_C, state_SCW, slots_B=slots_B)


def ssd_prefill(
    x_THP: torch.Tensor,
    dt_TH: torch.Tensor,
    A_H: torch.Tensor,
    B_TGN: torch.Tensor,
    C_TGN: torch.Tensor,
    D_H: torch.Tensor,
    dt_bias_H: torch.Tensor,
    state_SHPN: torch.Tensor,
    *,
    batch: Ragged,
    snapshots: Snapshots | None,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
) -> torch.Tensor:
    """The Mamba-2 recurrence over each sequence of a prefill; states are read and written in place.

    h <- exp(dt A) h + dt x (outer) B; y = C h + D x, with dt = softplus(dt + bias) clamped to `dt_limit`.
    """
    return _form("ssd", x_THP.device.type).ssd_prefill(
        x_THP,
        dt_TH,
        A_H,
        B_TGN,
        C_TGN,
        D_H,
        dt_bias_H,
        state_SHPN,
        batch=batch,
        snapshots=snapshots,
        dt_limit=dt_limit,
    )


def ssm_step(
    x_BHP: torch.Tensor,
    dt_BH: torch.Tensor,
    A_H: torch.Tensor,
    B_BGN: torch.Tensor,
    C_BGN: torch.Tensor,
    D_H: torch.Tensor,
    dt_bias_H: torch.Tensor,
    state_SHPN: torch.Tensor,
    *,
    slots_B: torch.Tensor,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
) -> torch.Tensor:
    """One token of each row through the recurrence of `ssd_prefill`; rows with a negative slot are padding."""
    return _form("ssm_step", x_BHP.device.type).ssm_step(
        x_BHP, dt_BH, A_H, B_BGN, C_BGN, D_H, dt_bias_H, state_SHPN, slots_B=slots_B, dt_limit=dt_limit
    )


def gated_norm(
    x_TI: torch.Tensor,
    gate_TI: torch.Tensor,
    weight_I: torch.Tensor,
    *,
    num_groups: int,
    eps: float,
    reduce_sum: Callable[[torch.Tensor], torch.Tensor] | None = None,
    group_size: int | None = None,
) -> torch.Tensor:
    """RMSNorm of x * silu(gate) in groups of channels, times the weight.

    With `reduce_sum` a group spans ranks: it sums the [T, num_groups] squares over them, and `group_size` is the
    number of channels of the whole group.
    """
    # a group that spans ranks needs its sum in the middle, which the device kernel cannot do
    form = _form("gated_norm", "cpu" if reduce_sum is not None else x_TI.device.type)
    return form.gated_norm(
        x_TI, gate_TI, weight_I, num_groups=num_groups, eps=eps, reduce_sum=reduce_sum, group_size=group_size
    )


def route(
    x_TD: torch.Tensor,
    weight_ED: torch.Tensor,
    bias_E: torch.Tensor,
    *,
    top_k: int,
    scale: float,
    renormalize: bool,
    num_groups: int = 1,
    top_groups: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sigmoid router: (weights_Tk fp32, ids_Tk int64); the bias moves the selection, never the weights."""
    return _form("router", x_TD.device.type).route(
        x_TD,
        weight_ED,
        bias_E,
        top_k=top_k,
        scale=scale,
        renormalize=renormalize,
        num_groups=num_groups,
        top_groups=top_groups,
    )


def experts(
    x_TD: torch.Tensor,
    up_EID: torch.Tensor,
    down_EDI: torch.Tensor,
    weights_Tk: torch.Tensor,
    ids_Tk: torch.Tensor,
) -> torch.Tensor:
    """Routed experts, non-gated: sum over k of weight * down(relu(up x)^2); ids < 0 belong to other ranks."""
    return _form("experts", x_TD.device.type).experts(x_TD, up_EID, down_EDI, weights_Tk, ids_Tk)


def experts_fp8(
    x_TD: torch.Tensor,
    up_EID: torch.Tensor,
    down_EDI: torch.Tensor,
    weights_Tk: torch.Tensor,
    ids_Tk: torch.Tensor,
    scales: Float8Scales,
) -> torch.Tensor:
    """`experts` with FP8 weights and activations, static scales per tensor; [T, D] in x's dtype."""
    form = _form("experts_fp8", x_TD.device.type)
    return form.experts_fp8(x_TD, up_EID, down_EDI, weights_Tk, ids_Tk, scales)


def copy_states(
    conv_LSCW: torch.Tensor,
    ssm_LSHPN: torch.Tensor,
    *,
    src_B: torch.Tensor,
    dst_B: torch.Tensor,
    mask_B: torch.Tensor,
) -> None:
    """Copy slot src to slot dst in every layer, for the rows whose mask is set (states kept for the prefix cache)."""
    _form("track", ssm_LSHPN.device.type).copy_states(conv_LSCW, ssm_LSHPN, src_B=src_B, dst_B=dst_B, mask_B=mask_B)
