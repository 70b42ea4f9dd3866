"""Numbers without weights: the public functions of this room, each served by one of its forms.

Forms live beside this file: `x_reference.py` (plain fp32, sequential), `x_torch.py` (a CPU form quick enough to
serve) and device forms. `forms.py` has the table that chooses, out loud. Imports no Triton by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType

import torch

from sglang_nemotron.ops.batch import Float8Scales, GridSnapshots, KernelGrid, RaggedBatch, Snapshots
from sglang_nemotron.ops.forms import Case, case, module_for
from sglang_nemotron.ops.layers import Linear, MambaLayer, MoELayer, Norm, Router
from sglang_nemotron.ops.step import StepWeights, StochasticRounding

__all__ = [
    "Float8Scales",
    "GridSnapshots",
    "KernelGrid",
    "Linear",
    "MambaLayer",
    "MoELayer",
    "Norm",
    "RaggedBatch",
    "Router",
    "Snapshots",
    "StepWeights",
    "StochasticRounding",
    "conv1d_prefill",
    "conv1d_step",
    "copy_states",
    "experts",
    "experts_case",
    "experts_fp8",
    "few_rows_case",
    "full_attention",
    "gated_norm",
    "linear_add",
    "mamba_layer",
    "mamba_step",
    "mamba_step_case",
    "moe_layer",
    "norm_linear",
    "route",
    "ssd_prefill",
    "ssm_step",
]


def full_attention(
    q_THD: torch.Tensor, k_THD: torch.Tensor, v_THD: torch.Tensor, *, lengths: Sequence[int]
) -> torch.Tensor:
    """Attention inside sequences that lie back to back, without a mask; for towers, which keep no cache.

    Returns [T, H, D] in the dtype of q. `lengths` are the sequences' tokens and add up to T.
    """
    form = module_for(case("full_attention", q_THD, None, {"H": q_THD.shape[1], "D": q_THD.shape[2]}))
    return form.full_attention(q_THD, k_THD, v_THD, lengths=lengths)


def conv1d_prefill(
    x_TC: torch.Tensor,
    weight_CK: torch.Tensor,
    bias_C: torch.Tensor | None,
    state_SCW: torch.Tensor,
    *,
    batch: RaggedBatch,
    snapshots: Snapshots | None,
) -> torch.Tensor:
    """Causal depthwise convolution and SiLU over each sequence; windows are read and written in place.

    Returns y_TC in the dtype of x. `state_SCW` keeps the last K-1 raw inputs of each slot.
    """
    sizes = {"C": weight_CK.shape[0], "K": weight_CK.shape[1]}
    form = module_for(case("conv1d", x_TC, state_SCW, sizes, ("prefill",)))
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
    sizes = {"C": weight_CK.shape[0], "K": weight_CK.shape[1]}
    form = module_for(case("conv1d", x_BC, state_SCW, sizes, ("step",)))
    return form.conv1d_step(x_BC, weight_CK, bias_C, state_SCW, slots_B=slots_B)


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
    batch: RaggedBatch,
    snapshots: Snapshots | None,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
) -> torch.Tensor:
    """The Mamba-2 recurrence over each sequence of a prefill; states are read and written in place.

    h <- exp(dt A) h + dt x (outer) B; y = C h + D x, with dt = softplus(dt + bias) clamped to `dt_limit`.
    """
    _, H, P, N = state_SHPN.shape
    form = module_for(
        case("ssd", x_THP, state_SHPN, {"H": H, "P": P, "G": B_TGN.shape[1], "N": N, "Q": batch.chunk_size})
    )
    return form.ssd_prefill(
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
    _, H, P, N = state_SHPN.shape
    form = module_for(case("ssm_step", x_BHP, state_SHPN, {"H": H, "P": P, "G": B_BGN.shape[1], "N": N}))
    return form.ssm_step(
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
    traits = ("spans_ranks",) if reduce_sum is not None else ()
    form = module_for(case("gated_norm", x_TI, weight_I, {"I": x_TI.shape[1], "Q": num_groups}, traits))
    return form.gated_norm(
        x_TI, gate_TI, weight_I, num_groups=num_groups, eps=eps, reduce_sum=reduce_sum, group_size=group_size
    )


def mamba_step(
    conv_in_BC: torch.Tensor,
    gate_BI: torch.Tensor,
    dt_BH: torch.Tensor,
    conv_SCW: torch.Tensor,
    ssm_SHPN: torch.Tensor,
    weights: StepWeights,
    *,
    slots_B: torch.Tensor,
    eps: float,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    rounding: StochasticRounding | None = None,
) -> torch.Tensor:
    """`conv1d_step`, `ssm_step` and `gated_norm` of one token a row at once; [B, I].

    Without `weights.norm_I` the norm is left to the caller. With `rounding` an fp16 state is rounded at random, so that
    its expectation is the fp32 one.
    """
    asked = mamba_step_case(conv_in_BC, ssm_SHPN, rounded_at_random=rounding is not None)
    form = module_for(asked._replace(traits=(*asked.traits, "called")))
    return form.mamba_step(
        *(conv_in_BC, gate_BI, dt_BH, conv_SCW, ssm_SHPN, weights),
        slots_B=slots_B,
        eps=eps,
        dt_limit=dt_limit,
        rounding=rounding,
    )


def mamba_step_case(conv_in_BC: torch.Tensor, ssm_SHPN: torch.Tensor, *, rounded_at_random: bool) -> Case:
    """What the choice of the step's form looks at; a mixer asks whether its parts are called apart."""
    _, H, P, N = ssm_SHPN.shape
    traits = ("rounded_at_random",) if rounded_at_random else ()
    return case("mamba_step", conv_in_BC, ssm_SHPN, {"H": H, "P": P, "N": N}, traits)


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
    E, D = weight_ED.shape
    form = module_for(case("router", x_TD, weight_ED, {"D": D, "E": E, "k": top_k, "Q": num_groups}))
    return form.route(
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
    asked = experts_case(x_TD, up_EID, top_k=ids_Tk.shape[1])
    form = module_for(asked._replace(traits=(*asked.traits, "called")))
    return form.experts(x_TD, up_EID, down_EDI, weights_Tk, ids_Tk)


def experts_case(x_TD: torch.Tensor, up_EID: torch.Tensor | None, *, top_k: int, managed: bool = False) -> Case:
    """What the choice of the experts' form looks at; `decoder/` asks before it routes, as a layer has its own router.

    Weights that lie in another order than [E, I, D], for SGLang's kernels alone, are "packed"; None stands for them.
    `managed`: SGLang moves the layer's experts, or wants to know what it routed.
    """
    traits = ("managed",) if managed else ()
    if up_EID is None or up_EID.dim() != 3 or up_EID.shape[2] != x_TD.shape[1]:
        return case("experts", x_TD, up_EID, {"k": top_k}, (*traits, "packed"))
    num_experts, width, hidden = up_EID.shape
    op = "experts_fp8" if up_EID.dtype == torch.float8_e4m3fn else "experts"
    return case(op, x_TD, up_EID, {"D": hidden, "I": width, "E": num_experts, "k": top_k}, traits)


def experts_fp8(
    x_TD: torch.Tensor,
    up_EID: torch.Tensor,
    down_EDI: torch.Tensor,
    weights_Tk: torch.Tensor,
    ids_Tk: torch.Tensor,
    scales: Float8Scales,
) -> torch.Tensor:
    """`experts` with FP8 weights and activations, static scales per tensor; [T, D] in x's dtype."""
    asked = experts_case(x_TD, up_EID, top_k=ids_Tk.shape[1])
    form = module_for(asked._replace(traits=(*asked.traits, "called")))
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
    L, _, H, P, N = ssm_LSHPN.shape
    form = module_for(case("track", ssm_LSHPN[0], conv_LSCW, {"L": L, "H": H, "P": P, "N": N}))
    form.copy_states(conv_LSCW, ssm_LSHPN, src_B=src_B, dst_B=dst_B, mask_B=mask_B)


def few_rows_case(h_TD: torch.Tensor) -> Case:
    """What the choice of whole layers for a few rows looks at; the stack asks whether layers go by their parts."""
    return case("few_rows", h_TD, None, {"D": h_TD.shape[1]})


def _few_rows(h_TD: torch.Tensor) -> ModuleType:
    asked = few_rows_case(h_TD)
    return module_for(asked._replace(traits=(*asked.traits, "called")))


def norm_linear(h_TD: torch.Tensor, norm: Norm, linear: Linear) -> torch.Tensor:
    """A linear behind an RMSNorm of the residual stream, for decode steps of a few rows; [T, N]."""
    return _few_rows(h_TD).norm_linear(h_TD, norm, linear)


def linear_add(h_TD: torch.Tensor, x_TK: torch.Tensor, linear: Linear) -> None:
    """h <- h + linear(x), in place, for decode steps of a few rows."""
    _few_rows(h_TD).linear_add(h_TD, x_TK, linear)


def mamba_layer(
    h_TD: torch.Tensor,
    layer: MambaLayer,
    conv_SCW: torch.Tensor,
    ssm_SHPN: torch.Tensor,
    *,
    slots_B: torch.Tensor,
    rounding: StochasticRounding | None = None,
) -> None:
    """h <- h + Mamba-2 mixer(norm(h)), in place, one token a row, for decode steps of a few rows."""
    _few_rows(h_TD).mamba_layer(h_TD, layer, conv_SCW, ssm_SHPN, slots_B=slots_B, rounding=rounding)


def moe_layer(h_TD: torch.Tensor, layer: MoELayer) -> None:
    """h <- h + routed and shared experts of norm(h), in place, for decode steps of a few rows."""
    _few_rows(h_TD).moe_layer(h_TD, layer)
