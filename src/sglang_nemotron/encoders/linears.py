"""How a tower gets its linear layers: plain ones by default, or tensor-parallel ones that the model hands in.

It must never know SGLang: whatever has this shape will do.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn


class Linears(Protocol):
    """Makes linear layers for one rank of `tp_size`. Layers return the tensor, or a tuple that begins with it.

    Checkpoint weights are whole; splitting them is the business of the `weight_loader` of the layers' parameters.
    prefix: the layer's name inside its tower, as in the checkpoint (quantisation and logs go by names).
    """

    tp_rank: int
    tp_size: int

    def qkv(self, hidden_size: int, head_dim: int, num_heads: int, *, bias: bool, prefix: str) -> nn.Module:
        """hidden -> this rank's q, k and v, one after the other, each [its heads * head_dim].

        The checkpoint's weight is [q; k; v] of all heads.
        """
        ...

    def column(self, in_size: int, out_size: int, *, bias: bool, prefix: str) -> nn.Module:
        """in_size -> this rank's out_size / tp_size outputs."""
        ...

    def row(self, in_size: int, out_size: int, *, bias: bool, prefix: str) -> nn.Module:
        """This rank's in_size / tp_size inputs -> out_size, summed over the ranks, the bias added once."""
        ...


class PlainLinears:
    """One rank; `nn.Linear`, uninitialised as `nn.Linear` initialises."""

    tp_rank = 0
    tp_size = 1

    def qkv(self, hidden_size: int, head_dim: int, num_heads: int, *, bias: bool, prefix: str) -> nn.Module:
        return nn.Linear(hidden_size, 3 * num_heads * head_dim, bias=bias)

    def column(self, in_size: int, out_size: int, *, bias: bool, prefix: str) -> nn.Module:
        return nn.Linear(in_size, out_size, bias=bias)

    def row(self, in_size: int, out_size: int, *, bias: bool, prefix: str) -> nn.Module:
        return nn.Linear(in_size, out_size, bias=bias)


PLAIN = PlainLinears()


def split_over(linears: Linears, units: int) -> Linears:
    """`linears` if `units` (heads, or ffn channels) divide over its ranks, else plain ones: every rank does it all."""
    return linears if units % linears.tp_size == 0 else PLAIN


def apply(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The output of a layer of either kind, without what SGLang's return beside it."""
    out = layer(x)
    return out[0] if isinstance(out, tuple) else out
