"""How our Triton kernels are launched: behind one another without a gap where the card can, interpreted on a CPU.

Knows no op.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from triton import knobs
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

__all__ = [
    "INTERPRETED",
    "capability",
    "check_device",
    "device_wait",
    "float8_operand",
    "float8_values",
    "launch_options",
    "relu2_values",
]

_CHAINED_TOKENS = 256
# whether kernels run in Triton's interpreter, on the CPU; TRITON_INTERPRET is read when Triton is first imported
INTERPRETED = bool(knobs.runtime.interpret)


@triton.jit
def device_wait(PDL: tl.constexpr):
    """Wait for the kernels before this one, then let the next one's programs in, which wait here themselves.

    A kernel calls it before it reads or writes anything that another kernel writes or reads: then each kernel has
    finished before the next but one begins to store.
    """
    if PDL:
        gdc_wait()
        gdc_launch_dependents()


@triton.jit
def relu2_values(x):
    """max(x, 0) squared of fp32 values; NaN stays NaN."""
    x = tl.where(x < 0.0, 0.0, x)
    return x * x


@triton.jit
def float8_values(x, scale):
    """x times 1 / scale, clamped to what float8_e4m3fn holds, still fp32; NaN stays NaN."""
    x = x.to(tl.float32) * tl.div_rn(1.0, scale.to(tl.float32))
    x = tl.minimum(x, 448.0, propagate_nan=tl.PropagateNan.ALL)
    return tl.maximum(x, -448.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def float8_operand(x, scale, float8, inside):
    """x as an FP8 linear reads it, in fp32: times 1 / scale, clamped, rounded to FP8; 0 where it is not `inside`.

    The zero comes after the rounding. ptxas 12.9 (Triton 3.8's for Hopper; 13.3 is right) packs two equal pairs of FP8
    numbers into a word with a register that nothing has written, and pairs outside a row are equal.
    """
    return tl.where(inside, float8_values(x, scale).to(float8).to(tl.float32), 0.0)


@functools.cache
def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability of a CUDA device; (0, 0) in the interpreter."""
    return (0, 0) if INTERPRETED else torch.cuda.get_device_capability(device)


def launch_options(device: torch.device, num_tokens: int) -> dict[str, Any]:
    """Programmatic dependent launch, from Hopper on: `PDL` for the kernel, `launch_pdl` for the launch.

    It takes 1 or 2 us off a chain of launches; beyond some hundred tokens waiting programs only stand in the way.
    """
    chained = num_tokens <= _CHAINED_TOKENS and capability(device) >= (9, 0)
    return {"PDL": True, "launch_pdl": True} if chained else {"PDL": False}


def check_device(tensor: torch.Tensor) -> None:
    """ValueError unless a kernel of ours can run where this tensor is."""
    if not (tensor.is_cuda or (INTERPRETED and tensor.device.type == "cpu")):
        raise ValueError(
            f"this form runs on CUDA, not on {tensor.device}; set TRITON_INTERPRET=1 before Triton is imported to "
            "interpret it on a CPU"
        )
