"""The routed experts of an MoE layer on CUDA: our own kernels, with 16-bit weights.

In: hidden states, stacked expert weights and the router's choice; out: the weighted sum of the chosen experts. Which
kernels with which tiles is a row of `schedules.json`.

Shapes: T tokens, D hidden, I expert width, E experts held here, k experts per token.
"""

# what a kernel says is Triton's language, not Python's
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAssignmentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglang_nemotron.ops._experts_blocks_triton import experts_in_blocks
from sglang_nemotron.ops._experts_pairs_triton import experts_by_pair
from sglang_nemotron.ops._launch_triton import check_device, device_wait, launch_options, relu2_values
from sglang_nemotron.ops.batch import Float8Scales
from sglang_nemotron.ops.schedules import ExpertSchedule, expert_schedule

__all__ = ["experts", "relu2"]

_RELU2_BLOCK = 2048


@triton.jit
def _relu2_kernel(x_ptr, y_ptr, num_values, BLOCK: tl.constexpr, PDL: tl.constexpr):
    device_wait(PDL)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < num_values, other=0.0).to(tl.float32)
    tl.store(y_ptr + at, relu2_values(x).to(y_ptr.dtype.element_ty), mask=at < num_values)


def relu2(x: torch.Tensor) -> torch.Tensor:
    """Same contract as `experts_reference.relu2`: max(x, 0) squared, in x's dtype and shape."""
    check_device(x)
    if not x.is_contiguous():
        raise ValueError(f"relu2 takes a contiguous tensor, not strides {x.stride()} of shape {tuple(x.shape)}")
    y = torch.empty_like(x)
    if x.numel():
        grid = (triton.cdiv(x.numel(), _RELU2_BLOCK),)
        _relu2_kernel[grid](x, y, x.numel(), BLOCK=_RELU2_BLOCK, num_warps=4, **launch_options(x.device, x.shape[0]))
    return y


def experts(
    x_TD: torch.Tensor,
    up_EID: torch.Tensor,
    down_EDI: torch.Tensor,
    weights_Tk: torch.Tensor,
    ids_Tk: torch.Tensor,
) -> torch.Tensor:
    """Same contract as `experts_reference.experts`, for bfloat16 and float16; the same inputs give the same bits."""
    if x_TD.dtype not in (torch.bfloat16, torch.float16):
        raise ValueError(f"hidden states are bfloat16 or float16, not {x_TD.dtype}")
    if up_EID.dtype != x_TD.dtype or down_EDI.dtype != x_TD.dtype:
        raise ValueError(f"weights are {up_EID.dtype} and {down_EDI.dtype}, hidden states {x_TD.dtype}")
    return _run(x_TD, up_EID, down_EDI, weights_Tk, ids_Tk, None)


def _run(
    x_TD: torch.Tensor,
    up_EID: torch.Tensor,
    down_EDI: torch.Tensor,
    weights_Tk: torch.Tensor,
    ids_Tk: torch.Tensor,
    scales: Float8Scales | None,
    schedule: ExpertSchedule | None = None,
) -> torch.Tensor:
    """Checks, then the form that the schedule names; `schedule` overrides the table, for tuners and tests."""
    check_device(x_TD)
    _check_shapes(x_TD, up_EID, down_EDI, weights_Tk, ids_Tk)
    num_tokens, hidden = x_TD.shape
    if num_tokens == 0:
        return torch.empty_like(x_TD)
    num_experts, width, _ = up_EID.shape
    if schedule is None:
        schedule = expert_schedule(
            x_TD.device,
            up_EID.dtype,
            num_experts=num_experts,
            top_k=ids_Tk.shape[1],
            hidden=hidden,
            width=width,
            num_tokens=num_tokens,
        )
    form = experts_by_pair if schedule.form == "pairs" else experts_in_blocks
    return form(x_TD, up_EID, down_EDI, weights_Tk, ids_Tk, scales, schedule)


def _check_shapes(
    x_TD: torch.Tensor,
    up_EID: torch.Tensor,
    down_EDI: torch.Tensor,
    weights_Tk: torch.Tensor,
    ids_Tk: torch.Tensor,
) -> None:
    num_tokens, hidden = x_TD.shape
    num_experts, width, _ = up_EID.shape
    if up_EID.shape != (num_experts, width, hidden) or down_EDI.shape != (num_experts, hidden, width):
        raise ValueError(
            f"weights of shapes {tuple(up_EID.shape)} and {tuple(down_EDI.shape)} do not fit hidden states "
            f"{tuple(x_TD.shape)}: they are [E, I, D] and [E, D, I]"
        )
    if ids_Tk.shape[0] != num_tokens or weights_Tk.shape != ids_Tk.shape:
        raise ValueError(
            f"ids {tuple(ids_Tk.shape)} and weights {tuple(weights_Tk.shape)} are not [{num_tokens}, k] both"
        )
    if ids_Tk.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"ids are int32 or int64, not {ids_Tk.dtype}")
    if weights_Tk.dtype != torch.float32:
        raise ValueError(f"routing weights are float32, not {weights_Tk.dtype}")
    for name, tensor in (
        *(("hidden states", x_TD), ("up weights", up_EID), ("down weights", down_EDI)),
        *(("routing weights", weights_Tk), ("ids", ids_Tk)),
    ):
        if not tensor.is_contiguous():
            raise ValueError(f"{name} of shape {tuple(tensor.shape)} and strides {tensor.stride()} are not contiguous")
        if tensor.device != x_TD.device:
            raise ValueError(f"{name} are on {tensor.device}, hidden states on {x_TD.device}")
