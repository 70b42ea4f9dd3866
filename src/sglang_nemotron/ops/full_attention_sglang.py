"""Attention inside sequences without a mask on CUDA: SGLang's FlashAttention 3, one launch for all lengths.

The table of `forms.py` says for which values and devices that kernel is built.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from sglang_nemotron.host.names.kernels import flash_attn_varlen_func

__all__ = ["full_attention"]


def full_attention(
    q_THD: torch.Tensor, k_THD: torch.Tensor, v_THD: torch.Tensor, *, lengths: Sequence[int]
) -> torch.Tensor:
    """Same contract as `full_attention_reference.full_attention`."""
    ends, longest = _ends(tuple(lengths), q_THD.device), max(lengths)
    out: Any = flash_attn_varlen_func(q_THD, k_THD, v_THD, ends, ends, max_seqlen_q=longest, max_seqlen_k=longest)
    return out


# every block of a tower asks for the same
@functools.lru_cache(maxsize=8)
def _ends(lengths: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)
