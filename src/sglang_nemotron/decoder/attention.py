"""The attention mixer: grouped-query attention without any positional encoding, over SGLang's paged KV cache."""

from __future__ import annotations

import torch
from torch import nn

from sglang_nemotron import ops
from sglang_nemotron.config.decoder import DecoderSpec
from sglang_nemotron.decoder.few_rows import linear_of, linears_are_plain
from sglang_nemotron.decoder.parallel import Ranks
from sglang_nemotron.sglang_api.engine import (
    ForwardBatch,
    QKVParallelLinear,
    QuantizationConfig,
    RadixAttention,
    RowParallelLinear,
    add_prefix,
    is_dp_attention_enabled,
)


class AttentionMixer(nn.Module):
    """softmax(q k / sqrt(head_dim)) v with few KV heads, replicated when there are fewer than ranks.

    No RoPE: `rope_theta` and `partial_rotary_factor` in the config are dead fields. Source: HF NemotronHAttention.
    """

    def __init__(
        self, spec: DecoderSpec, ranks: Ranks, layer_id: int, quant_config: QuantizationConfig | None, prefix: str
    ) -> None:
        super().__init__()
        tp, sizes = ranks.attn_tp_size, spec.attention
        num_heads = sizes.num_heads // tp
        num_kv_heads = max(sizes.num_kv_heads // tp, 1)
        self.q_size, self.kv_size = num_heads * sizes.head_dim, num_kv_heads * sizes.head_dim
        self.qkv_proj = QKVParallelLinear(
            spec.hidden_size,
            sizes.head_dim,
            sizes.num_heads,
            sizes.num_kv_heads,
            bias=False,
            quant_config=quant_config,
            parallel_group="attn_tp",
            prefix=f"{prefix}.qkv_proj",
        )
        self.o_proj = RowParallelLinear(
            sizes.num_heads * sizes.head_dim,
            spec.hidden_size,
            bias=False,
            quant_config=quant_config,
            parallel_group="attn_tp",
            # the stage boundary sums the ranks' outputs together with the residual
            reduce_results=False,
            use_dp_attention_reduce=is_dp_attention_enabled(),
            prefix=f"{prefix}.o_proj",
        )
        self.attn = RadixAttention(
            num_heads,
            sizes.head_dim,
            sizes.head_dim**-0.5,
            num_kv_heads=num_kv_heads,
            layer_id=layer_id,
            quant_config=quant_config,
            prefix=add_prefix("attn", prefix),
        )

    def forward(self, x_TD: torch.Tensor, forward_batch: ForwardBatch) -> torch.Tensor:
        """x_TD -> y_TD, this rank's part of the sum; K and V go to the pages the batch names."""
        return self.o_proj(self._attend(self.qkv_proj(x_TD)[0], forward_batch))[0]

    @property
    def has_few_rows(self) -> bool:
        """Whether `few_rows` computes the same as `forward` between norm and residual."""
        return linears_are_plain((self.qkv_proj, self.o_proj))

    def few_rows(self, h_TD: torch.Tensor, norm: ops.Norm, forward_batch: ForwardBatch) -> None:
        """h <- h + mixer(norm(h)) in place; on one rank."""
        qkv = ops.norm_linear(h_TD, norm, linear_of(self.qkv_proj))
        ops.linear_add(h_TD, self._attend(qkv, forward_batch), linear_of(self.o_proj))

    def _attend(self, qkv: torch.Tensor, forward_batch: ForwardBatch) -> torch.Tensor:
        q, k, v = qkv.split([self.q_size, self.kv_size, self.kv_size], dim=-1)
        return self.attn(q, k, v, forward_batch)
