"""Whole layers of a decode step with few rows on CUDA: three launches each, all of which stream weights.

In: the residual stream and a layer's weights; out: the stream moved on in place, or what attention reads. Each launch
fetches its first weights while the one before still works (programmatic dependent launch, from Hopper on). Rows of one
tile of weights run beside each other, so that the second finds them in the cache: made for one or two rows.

Shapes: T decode rows, D hidden, N outputs and K inputs of a linear.
"""

# what a kernel says is Triton's language, not Python's
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from sglang_nemotron.ops._experts_pairs_triton import experts_up_by_pair
from sglang_nemotron.ops._few_mamba_triton import mamba_in_kernel
from sglang_nemotron.ops._few_moe_triton import down_and_add_kernel, route_and_shared_up_kernel
from sglang_nemotron.ops._few_stream_triton import scaled, streamed
from sglang_nemotron.ops._launch_triton import check_device, launch_options
from sglang_nemotron.ops.layers import Linear, MambaLayer, MoELayer, Norm
from sglang_nemotron.ops.mamba_step_triton import _move_states_on
from sglang_nemotron.ops.router_triton import _counters
from sglang_nemotron.ops.schedules import Tile
from sglang_nemotron.ops.step import StochasticRounding

__all__ = ["linear_add", "mamba_layer", "moe_layer", "norm_linear"]


class Tiles(NamedTuple):
    """How each launch is cut: rows of a weight that a program takes, numbers of a row at once, warps."""

    mamba_in: Tile
    linear: Tile
    route: Tile
    up: Tile
    down: Tile


# by the bytes of a weight's number; from benchmarks/few_rows_gpu.py --tune on an H200
_TILES = {
    1: Tiles(
        mamba_in=Tile(8, 1024, 4, 1),
        linear=Tile(8, 1024, 8, 1),
        route=Tile(4, 2048, 4, 1),
        up=Tile(4, 1024, 4, 1),
        down=Tile(4, 1024, 2, 1),
    ),
    2: Tiles(
        mamba_in=Tile(4, 1024, 4, 1),
        linear=Tile(4, 256, 1, 1),
        route=Tile(2, 1024, 4, 1),
        up=Tile(8, 1024, 8, 1),
        down=Tile(4, 512, 2, 1),
    ),
}


@triton.jit
def _linear_kernel(
    x, norm_K, w_NK, x_scale, w_scale, y, eps, stride_x, stride_y,
    T: tl.constexpr, N: tl.constexpr, K: tl.constexpr, ROW: tl.constexpr, NORM: tl.constexpr, ADD: tl.constexpr,
    FLOAT8: tl.constexpr, PER_ROW: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, VECTOR: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """`BLOCK_N` outputs of one row: stored, or added to what is there."""
    t, first = (tl.program_id(0) % T).to(tl.int64), tl.program_id(0) // T * BLOCK_N
    ns = first + tl.arange(0, BLOCK_N)
    out = streamed(
        w_NK, x + t * stride_x, norm_K, x_scale, ns, eps, N, K, ROW, BLOCK_N, BLOCK_K, VECTOR, NORM, FLOAT8, PDL
    )
    if FLOAT8:
        out = scaled(out, x_scale, w_scale, ns, N, PER_ROW)
    place = y + t * stride_y + ns
    if ADD:
        out = out.to(y.dtype.element_ty).to(tl.float32) + tl.load(place, mask=ns < N, other=0.0).to(tl.float32)
    tl.store(place, out.to(y.dtype.element_ty), mask=ns < N)


def norm_linear(h_TD: torch.Tensor, norm: Norm, linear: Linear) -> torch.Tensor:
    """Same contract as `few_rows_reference.norm_linear`, in one launch."""
    y_TN = torch.empty(h_TD.shape[0], linear.weight_NK.shape[0], dtype=h_TD.dtype, device=h_TD.device)
    _launch_linear(h_TD, norm, linear, y_TN, add=False)
    return y_TN


def linear_add(h_TD: torch.Tensor, x_TK: torch.Tensor, linear: Linear) -> None:
    """Same contract as `few_rows_reference.linear_add`, in one launch."""
    _launch_linear(x_TK, None, linear, h_TD, add=True)


def mamba_layer(
    h_TD: torch.Tensor,
    layer: MambaLayer,
    conv_SCW: torch.Tensor,
    ssm_SHPN: torch.Tensor,
    *,
    slots_B: torch.Tensor,
    rounding: StochasticRounding | None = None,
) -> None:
    """Same contract as `few_rows_reference.mamba_layer`, in three launches: in, states, out."""
    T, D = h_TD.shape
    _, H, P, _ = ssm_SHPN.shape
    inner, channels, weights = H * P, conv_SCW.shape[1], layer.step
    _check(h_TD, layer.in_proj, D)
    tile = _tiles(layer.in_proj.weight_NK).mamba_in
    if inner % tile.out or channels % tile.out:
        raise ValueError(f"{inner} inner and {channels} conv channels are no multiples of {tile.out}")
    gate_BI = torch.empty(T, inner, dtype=h_TD.dtype, device=h_TD.device)
    mixed_BC = torch.empty(T, channels, dtype=h_TD.dtype, device=h_TD.device)
    steps_BH2 = torch.empty(T, H, 2, dtype=torch.float32, device=h_TD.device)
    mamba_in_kernel[(triton.cdiv(inner + channels + H, tile.out) * T,)](
        *(h_TD, layer.norm.weight_D, layer.in_proj.weight_NK, layer.in_proj.x_scale_1, layer.in_proj.weight_scale),
        *(conv_SCW, weights.conv_CK, weights.conv_bias_C, weights.A_H, weights.dt_bias_H, slots_B),
        *(gate_BI, mixed_BC, steps_BH2, layer.norm.eps, h_TD.stride(0)),
        *(*conv_SCW.stride(), *weights.conv_CK.stride(), *layer.dt_limit),
        **{
            "T": T,
            "D": D,
            "ROW": triton.next_power_of_2(D),
            "INNER": inner,
            "C": channels,
            "H": H,
            "K": weights.conv_CK.shape[1],
        },
        HAS_BIAS=weights.conv_bias_C is not None,
        **_linear_options(layer.in_proj),
        **_options(h_TD, tile),
    )
    y_BI = _move_states_on(
        mixed_BC, steps_BH2, gate_BI, ssm_SHPN, weights, slots_B=slots_B, eps=layer.gated_norm_eps, rounding=rounding
    )
    linear_add(h_TD, y_BI, layer.out_proj)


def moe_layer(h_TD: torch.Tensor, layer: MoELayer) -> None:
    """Same contract as `few_rows_reference.moe_layer`, in three launches: router and shared up, experts' up, down."""
    T, D = h_TD.shape
    E, width, _ = layer.up_EID.shape
    S, router, device = layer.shared_up.weight_NK.shape[0], layer.router, h_TD.device
    _check(h_TD, layer.shared_up, D)
    weights_Tk = torch.empty(T, router.top_k, dtype=torch.float32, device=device)
    ids_Tk = torch.empty(T, router.top_k, dtype=torch.int64, device=device)
    x_TD = torch.empty(T, D, dtype=h_TD.dtype, device=device)
    logits_TE = torch.empty(T, E, dtype=torch.float32, device=device)
    shared_float8 = layer.shared_down.x_scale_1 is not None
    kept = layer.shared_down.weight_NK.dtype if shared_float8 else h_TD.dtype
    hidden_TS = torch.empty(T, S, dtype=kept, device=device)
    if (layer.shared_up.x_scale_1 is not None) != shared_float8:
        raise ValueError("the shared expert's two linears are both FP8 or neither is")
    tile = _tiles(layer.shared_up.weight_NK).route
    route_and_shared_up_kernel[((triton.cdiv(E, tile.out) + triton.cdiv(S, tile.out)) * T,)](
        *(h_TD, layer.norm.weight_D, router.weight_ED, router.bias_E, layer.shared_up.weight_NK),
        *(layer.shared_up.x_scale_1, layer.shared_up.weight_scale, layer.shared_down.x_scale_1, _counters(device)),
        *(x_TD, logits_TE, weights_Tk, ids_Tk, hidden_TS, layer.norm.eps, router.scale, h_TD.stride(0)),
        **{
            "T": T,
            "D": D,
            "ROW": triton.next_power_of_2(D),
            "E": E,
            "S": S,
            "TOP_K": router.top_k,
            "RENORMALIZE": router.renormalize,
        },
        BLOCK_E=triton.next_power_of_2(E),
        BLOCK_TOP=triton.next_power_of_2(router.top_k),
        ROUTER_VECTOR=_vector(router.weight_ED),
        **_linear_options(layer.shared_up),
        **_options(h_TD, tile),
    )
    scales, tiles = layer.scales, _tiles(layer.up_EID)
    hidden_nI = experts_up_by_pair(x_TD, layer.up_EID, ids_Tk, scales, tiles.up)
    linear = _linear_options(layer.shared_down)
    down_and_add_kernel[(triton.cdiv(D, tiles.down.out) * T,)](
        *(hidden_TS, layer.shared_down.weight_NK, layer.shared_down.x_scale_1, layer.shared_down.weight_scale),
        *(hidden_nI, layer.down_EDI, *((None, None) if scales is None else (scales.hidden, scales.down_E))),
        *(weights_Tk, ids_Tk, h_TD, h_TD.stride(0)),
        **{"T": T, "D": D, "S": S, "WIDTH": width, "E": E, "TOP_K": router.top_k},
        FLOAT8=scales is not None,
        SHARED_FLOAT8=linear["FLOAT8"],
        PER_ROW=linear["PER_ROW"],
        VECTOR=_vector(layer.down_EDI),
        SHARED_VECTOR=linear["VECTOR"],
        **_options(h_TD, tiles.down),
    )


def _launch_linear(x_TK: torch.Tensor, norm: Norm | None, linear: Linear, y_TN: torch.Tensor, *, add: bool) -> None:
    (T, K), N = x_TK.shape, linear.weight_NK.shape[0]
    _check(x_TK, linear, K)
    if T == 0:
        return
    tile = _tiles(linear.weight_NK).linear
    _linear_kernel[(triton.cdiv(N, tile.out) * T,)](
        *(x_TK, norm.weight_D if norm is not None else None, linear.weight_NK, linear.x_scale_1, linear.weight_scale),
        *(y_TN, norm.eps if norm is not None else 0.0, x_TK.stride(0), y_TN.stride(0)),
        **{"T": T, "N": N, "K": K, "ROW": triton.next_power_of_2(K), "NORM": norm is not None, "ADD": add},
        **_linear_options(linear),
        **_options(x_TK, tile),
    )


def _tiles(weight: torch.Tensor) -> Tiles:
    return _TILES[min(weight.element_size(), 2)]


def _options(x: torch.Tensor, tile: Tile) -> dict[str, Any]:
    chained = launch_options(x.device, x.shape[0])
    return {"BLOCK_N": tile.out, "BLOCK_K": tile.inner, "num_warps": tile.warps, **chained}


def _linear_options(linear: Linear) -> dict[str, Any]:
    scale = linear.weight_scale
    return {
        "FLOAT8": linear.x_scale_1 is not None,
        "PER_ROW": scale is not None and scale.numel() > 1,
        "VECTOR": _vector(linear.weight_NK),
    }


def _vector(weight: torch.Tensor) -> int:
    """Numbers of a 16-byte load."""
    return 16 // weight.element_size()


def _check(x_TK: torch.Tensor, linear: Linear, num_inputs: int) -> None:
    check_device(x_TK)
    weight_NK = linear.weight_NK
    if weight_NK.shape[1] != num_inputs or x_TK.stride(1) != 1 or not weight_NK.is_contiguous():
        raise ValueError(
            f"a weight of shape {tuple(weight_NK.shape)} and strides {weight_NK.stride()} does not fit rows of shape "
            f"{tuple(x_TK.shape)} and strides {x_TK.stride()}: both lie row by row"
        )
    if (weight_NK.dtype == torch.float8_e4m3fn) != (linear.x_scale_1 is not None):
        raise ValueError(
            f"a weight of {weight_NK.dtype} comes {'with' if linear.x_scale_1 is None else 'without'} scales"
        )
