"""The towers' linear layers as SGLang's tensor-parallel ones; only a model process may import this file."""

from __future__ import annotations

from torch import nn

from sglang_nemotron.sglang_api.engine import ColumnParallelLinear, QKVParallelLinear, RowParallelLinear, get_parallel


class ParallelLinears:
    """`Linears` over all ranks of tensor parallelism. Never quantised: published checkpoints keep towers in BF16."""

    def __init__(self) -> None:
        parallel = get_parallel()
        self.tp_rank, self.tp_size = parallel.tp_rank, parallel.tp_size

    def qkv(self, hidden_size: int, head_dim: int, num_heads: int, *, bias: bool, prefix: str) -> nn.Module:
        return QKVParallelLinear(hidden_size, head_dim, num_heads, bias=bias, prefix=prefix)

    def column(self, in_size: int, out_size: int, *, bias: bool, prefix: str) -> nn.Module:
        return ColumnParallelLinear(in_size, out_size, bias=bias, prefix=prefix)

    def row(self, in_size: int, out_size: int, *, bias: bool, prefix: str) -> nn.Module:
        return RowParallelLinear(in_size, out_size, bias=bias, prefix=prefix)
