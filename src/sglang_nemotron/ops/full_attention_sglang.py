"""Attention inside sequences without a mask on CUDA: SGLang's FlashAttention 3, one launch for all lengths.

Where that kernel has no build (Blackwell, or 32-bit values) torch's form serves, decided before anything runs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from sglang_nemotron.host.names.kernels import flash_attn_varlen_func
from sglang_nemotron.ops import full_attention_torch

__all__ = ["full_attention"]

# compute capabilities that the kernel is built for: Ampere, Ada and Hopper
_MAJORS = (8, 9)


def full_attention(
    q_THD: torch.Tensor, k_THD: torch.Tensor, v_THD: torch.Tensor, *, lengths: Sequence[int]
) -> torch.Tensor:
    """Same contract as `full_attention_reference.full_attention`."""
    if q_THD.dtype not in (torch.bfloat16, torch.float16) or not _is_built(q_THD.device):
        return full_attention_torch.full_attention(q_THD, k_THD, v_THD, lengths=lengths)
    ends, longest = _ends(tuple(lengths), q_THD.device), max(lengths)
    out: Any = flash_attn_varlen_func(q_THD, k_THD, v_THD, ends, ends, max_seqlen_q=longest, max_seqlen_k=longest)
    return out


@functools.cache
def _is_built(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device)[0] in _MAJORS


# every block of a tower asks for the same
@functools.lru_cache(maxsize=8)
def _ends(lengths: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)
