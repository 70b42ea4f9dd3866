"""Blocks and the loop over them: x <- x + mixer(norm(x)), one mixer a layer, of the kind that the config says.

SGLang's stage boundaries carry the residual, the norm and the sums over ranks; a block adds only its mixer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, cast

import torch
from torch import nn

from sglang_nemotron.config.decoder import DecoderSpec
from sglang_nemotron.decoder.few_rows import norm_of, on_one_rank, takes_few_rows
from sglang_nemotron.decoder.kinds import LayerKind, Place, Step, kind_of
from sglang_nemotron.decoder.mamba import MambaSlots
from sglang_nemotron.decoder.parallel import Ranks
from sglang_nemotron.sglang_api.engine import (
    ExitRows,
    ForwardBatch,
    NormQuantReadout,
    NormReadout,
    PPMissingLayer,
    PPProxyTensors,
    ProducerReduction,
    QuantizationConfig,
    RMSNorm,
    VocabParallelEmbedding,
    append_stages,
    declare_attn,
    declare_ffn,
    get_global_expert_distribution_recorder,
    get_parallel,
    is_dp_attention_enabled,
    make_pp_layers,
    residual_batch,
)
from sglang_nemotron.state.plan import StepPlan


def _declaration(kind: LayerKind):
    """How a layer joins the residual stream: mixers with memory run on attention rows, feed-forwards on all."""
    if kind.has_memory:
        return declare_attn(
            read=NormQuantReadout(reads_before_dp_gather=True),
            reduction=ProducerReduction.EXIT_SCOPED,
            gathers_attn_tp_input=False,
        )
    return declare_ffn(
        sparse=kind.sparse,
        read=NormReadout(reads_before_dp_gather=True),
        dense_tp_size=None if kind.sparse else get_parallel().tp_size,
        exit_rows=ExitRows.ATTENTION,
    )


class Block(nn.Module):
    """One layer: its norm, its mixer, its place in the residual stream."""

    def __init__(
        self, spec: DecoderSpec, ranks: Ranks, layer_id: int, quant_config: QuantizationConfig | None, prefix: str
    ) -> None:
        super().__init__()
        self.layer_id = layer_id
        self.kind = kind_of(spec, layer_id)
        self.mixer = self.kind.build(Place(spec, ranks, layer_id, quant_config, f"{prefix}.mixer"))
        self.norm = RMSNorm(spec.hidden_size, eps=spec.norm_eps)
        (self.boundary,) = append_stages((_declaration(self.kind), self.norm))

    def forward(self, x_TD: torch.Tensor, step: Step) -> Any:
        """Hidden states on the stream in, hidden states on the stream out (residual and norms are the boundary's)."""
        x_TD = self.boundary.prepare(x_TD, step.forward_batch)
        if self.kind.has_memory and step.forward_batch.forward_mode.is_idle():
            return x_TD
        x_TD = self.kind.call(self.mixer, x_TD, self.layer_id, step)
        return self.boundary.finish(x_TD, step.forward_batch)


class DecoderStack(nn.Module):
    """Embedding, this pipeline stage's blocks, and the final norm on the last stage."""

    def __init__(self, spec: DecoderSpec, ranks: Ranks, quant_config: QuantizationConfig | None, prefix: str) -> None:
        super().__init__()
        self.pp_group = get_parallel().pp_group
        self.embed_tokens = PPMissingLayer()
        # a tied head reads the embedding on the last stage too
        if self.pp_group.is_first_rank or (spec.tie_embeddings and self.pp_group.is_last_rank):
            self.embed_tokens = VocabParallelEmbedding(
                spec.vocab_size,
                spec.hidden_size,
                org_num_embeddings=spec.vocab_size,
                use_attn_tp_group=is_dp_attention_enabled(),
            )
        self.layers, self.start_layer, self.end_layer = make_pp_layers(
            spec.num_layers,
            lambda idx, prefix: Block(spec, ranks, idx, quant_config, prefix),
            prefix=f"{prefix}.layers",
            stage_facts=partial(_stage_facts, spec),
        )
        self.norm_f = (
            RMSNorm(spec.hidden_size, eps=spec.norm_eps)
            if self.pp_group.is_last_rank
            else PPMissingLayer(return_tuple=True)
        )

    def forward(
        self,
        input_ids: torch.Tensor,
        forward_batch: ForwardBatch,
        plan: StepPlan | None,
        slots_of: Callable[[int], MambaSlots],
        pp_proxy_tensors: PPProxyTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> Any:
        """Normed hidden states of the last stage, or the tensors for the next one."""
        x_TD = self._enter(input_ids, forward_batch, pp_proxy_tensors, inputs_embeds)
        step = Step(forward_batch, plan, slots_of)
        if self._has_few_rows and takes_few_rows(x_TD, plan):
            return self._few_rows(x_TD, step)
        for layer_id in self._stage:
            with get_global_expert_distribution_recorder().with_current_layer(layer_id):
                x_TD = self.block(layer_id)(x_TD, step)
        if not self.pp_group.is_last_rank:
            return residual_batch.to_pp(x_TD, forward_batch)
        x_TD = residual_batch.complete_output(x_TD, forward_batch)
        return residual_batch.final_norm(x_TD, forward_batch, self.norm_f)

    @cached_property
    def _has_few_rows(self) -> bool:
        """Asked once, at the first step: weights have their final place by then."""
        return on_one_rank() and all(block.mixer.has_few_rows for block in map(self.block, self._stage))

    def _few_rows(self, x_TD: torch.Tensor, step: Step) -> torch.Tensor:
        # the residual stream is moved on in place, and whoever made the embeddings keeps theirs
        h_TD = x_TD.clone()
        for block in map(self.block, self._stage):
            block.kind.few(block.mixer, h_TD, norm_of(block.norm), block.layer_id, step)
        residual_batch.clear(step.forward_batch)
        return self.norm_f(h_TD)

    @property
    def _stage(self) -> range:
        return range(self.start_layer, self.end_layer)

    def block(self, layer_id: int) -> Block:
        """A layer of this stage by its number in the model."""
        return cast(Block, cast(nn.ModuleList, self.layers)[layer_id])

    def _enter(
        self,
        input_ids: torch.Tensor,
        forward_batch: ForwardBatch,
        pp_proxy_tensors: PPProxyTensors | None,
        inputs_embeds: torch.Tensor | None,
    ) -> Any:
        if not self.pp_group.is_first_rank:
            assert pp_proxy_tensors is not None
            return self.block(self.start_layer).boundary.from_pp(pp_proxy_tensors, forward_batch)
        residual_batch.start(forward_batch)
        return self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds


def _stage_facts(spec: DecoderSpec, layer_id: int):
    return (_declaration(kind_of(spec, layer_id)),)
