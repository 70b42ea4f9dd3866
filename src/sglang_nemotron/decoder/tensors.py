"""The tensors of a checkpoint and where each goes in the model; the only file of the decoder that knows their names.

A spec and a TP size come in, (name, target) pairs of one layer's mixer go out. Reading and filling is `weights.py`'s
business; which layer has which mixer is in `kinds.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from sglang_nemotron.config.decoder import DecoderSpec
from sglang_nemotron.config.layers import MambaSpec
from sglang_nemotron.decoder import shards

HEAD = "lm_head.weight"
# tensors a checkpoint may carry that this model has no use for, and why
IGNORED = {
    r".*\.rotary_emb\..*": "the decoder has no positional embedding",
    r".*\.mixer\.(k_proj\.k|v_proj\.v)_scale": "scale of a quantised KV cache, used only where the cache is quantised",
    r".*\.input_scale": "scale of quantised activations, used only by quantised layers",
}


@dataclass(frozen=True)
class Target:
    """Where a checkpoint weight goes: a module (or a parameter prefix) of the model, the part of it, its full shape.

    `part` is the shard id of a merged linear, or (expert, projection); `leaf` the parameter's last name.
    `rewrite` turns the file's tensor into what the loader expects.
    """

    parameter: str
    shape: tuple[int, ...]
    part: Any = None
    linear: bool = False
    rewrite: Callable[[torch.Tensor], torch.Tensor] | None = None


# (name behind the mixer's prefix in the file, target)
Tensors = Iterator[tuple[str, Target]]


def outer_tensors(spec: DecoderSpec) -> Tensors:
    """What is no mixer's: embedding, head, and all norms of the residual stream. Names are whole."""
    table = (spec.vocab_size, spec.hidden_size)
    yield "backbone.embeddings.weight", Target("model.embed_tokens.weight", table)
    yield "backbone.norm_f.weight", Target("model.norm_f.weight", (spec.hidden_size,))
    yield HEAD, Target(HEAD, table, linear=True)
    for layer_id in range(spec.num_layers):
        norm = Target(f"model.layers.{layer_id}.norm.weight", (spec.hidden_size,))
        yield f"backbone.layers.{layer_id}.norm.weight", norm


def mixer_prefixes(layer_id: int) -> tuple[str, str]:
    """Where a layer's mixer stands in the file, and in the model."""
    return f"backbone.layers.{layer_id}.mixer", f"model.layers.{layer_id}.mixer"


def mamba_tensors(spec: DecoderSpec, tp_size: int, mixer: str) -> Tensors:
    mamba, hidden = spec.mamba, spec.hidden_size
    inner, heads = mamba.inner, mamba.num_heads
    in_rows = sum(shards.mamba_in_proj_sections(mamba, 1))
    rank = _RankSlices(mamba, tp_size)
    yield (
        "in_proj.weight",
        Target(f"{mixer}.in_proj.weight", (in_rows, hidden), linear=True, rewrite=rank.expand_in_proj),
    )
    yield "out_proj.weight", Target(f"{mixer}.out_proj.weight", (hidden, inner), linear=True)
    conv_shape = (mamba.conv_channels, 1, mamba.conv_width)
    yield "conv1d.weight", Target(f"{mixer}.conv1d.weight", conv_shape, rewrite=rank.conv_weight)
    if mamba.conv_bias:
        yield "conv1d.bias", Target(f"{mixer}.conv1d.bias", conv_shape[:1], rewrite=rank.conv)
    yield "A_log", Target(f"{mixer}.A", (heads,), rewrite=rank.decay)
    yield "D", Target(f"{mixer}.D", (heads,), rewrite=rank.heads)
    yield "dt_bias", Target(f"{mixer}.dt_bias", (heads,), rewrite=rank.heads)
    yield "norm.weight", Target(f"{mixer}.norm.weight", (inner,), rewrite=rank.inner)


def attention_tensors(spec: DecoderSpec, tp_size: int, mixer: str) -> Tensors:
    attention, hidden = spec.attention, spec.hidden_size
    q_rows, kv_rows = attention.num_heads * attention.head_dim, attention.num_kv_heads * attention.head_dim
    for part, rows in (("q", q_rows), ("k", kv_rows), ("v", kv_rows)):
        yield f"{part}_proj.weight", Target(f"{mixer}.qkv_proj.weight", (rows, hidden), part=part, linear=True)
    yield "o_proj.weight", Target(f"{mixer}.o_proj.weight", (hidden, q_rows), linear=True)


def moe_tensors(spec: DecoderSpec, tp_size: int, mixer: str) -> Tensors:
    moe, hidden, width = spec.moe, spec.hidden_size, spec.moe.expert_intermediate_size
    yield "gate.weight", Target(f"{mixer}.gate.weight", (moe.num_experts, hidden))
    yield "gate.e_score_correction_bias", Target(f"{mixer}.gate.e_score_correction_bias", (moe.num_experts,))
    for expert in range(moe.num_experts):
        # SGLang's fused layout: w13 the way in (no gate, so w1 alone), w2 the way out
        up, down = f"{mixer}.experts.w13_weight", f"{mixer}.experts.w2_weight"
        yield f"experts.{expert}.up_proj.weight", Target(up, (width, hidden), part=(expert, "w1"), linear=True)
        yield f"experts.{expert}.down_proj.weight", Target(down, (hidden, width), part=(expert, "w2"), linear=True)
    if shared := moe.shared_intermediate_size:
        for name, shape in (("up_proj", (shared, hidden)), ("down_proj", (hidden, shared))):
            yield (
                f"shared_experts.{name}.weight",
                Target(f"{mixer}.shared_experts.{name}.weight", shape, linear=True),
            )


def dense_tensors(spec: DecoderSpec, tp_size: int, mixer: str) -> Tensors:
    hidden, width = spec.hidden_size, spec.dense.intermediate_size
    yield "up_proj.weight", Target(f"{mixer}.up_proj.weight", (width, hidden), linear=True)
    yield "down_proj.weight", Target(f"{mixer}.down_proj.weight", (hidden, width), linear=True)


class _RankSlices:
    """Rewrites for Mamba tensors; which rank this is, is asked when a tensor arrives."""

    def __init__(self, spec: MambaSpec, tp_size: int) -> None:
        self.spec, self.tp_size = spec, tp_size

    @property
    def _rank(self) -> int:
        # only a loading process has a rank; a header check in the main process never gets here
        from sglang_nemotron.decoder.parallel import current_ranks

        return current_ranks().mixer_tp_rank

    def expand_in_proj(self, tensor: torch.Tensor) -> torch.Tensor:
        return shards.expand_groups_in_proj(tensor, self.spec, self.tp_size)

    def conv(self, tensor: torch.Tensor) -> torch.Tensor:
        return shards.shard_conv(tensor, self.spec, self._rank, self.tp_size)

    def conv_weight(self, tensor_C1K: torch.Tensor) -> torch.Tensor:
        return self.conv(tensor_C1K).squeeze(1)

    def heads(self, vector_H: torch.Tensor) -> torch.Tensor:
        return shards.shard_heads(vector_H, self.spec, self._rank, self.tp_size).float()

    def decay(self, log_H: torch.Tensor) -> torch.Tensor:
        return -torch.exp(self.heads(log_H))

    def inner(self, vector_I: torch.Tensor) -> torch.Tensor:
        return shards.shard_inner(vector_I, self.spec, self._rank, self.tp_size)
