"""Blocks and the loop over them: x <- x + mixer(norm(x)), one mixer a layer, by the letter of the config's pattern.

SGLang's stage boundaries carry the residual, the norm and the sums over ranks; a block adds only its mixer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from sglang_nemotron.config.decoder import DecoderSpec
from sglang_nemotron.decoder.attention import AttentionMixer
from sglang_nemotron.decoder.mamba import MambaMixer, MambaSlots
from sglang_nemotron.decoder.moe import DenseMLP, MoEMixer
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

MAMBA, MOE, ATTENTION, MLP = "M", "E", "*", "-"


def _declaration(spec: DecoderSpec, layer_id: int):
    """How a layer joins the residual stream: mixers with memory run on attention rows, feed-forwards on all."""
    letter = spec.pattern[layer_id]
    if letter in (MAMBA, ATTENTION):
        return declare_attn(
            read=NormQuantReadout(reads_before_dp_gather=True),
            reduction=ProducerReduction.EXIT_SCOPED,
            gathers_attn_tp_input=False,
        )
    return declare_ffn(
        sparse=letter == MOE,
        read=NormReadout(reads_before_dp_gather=True),
        dense_tp_size=get_parallel().tp_size if letter == MLP else None,
        exit_rows=ExitRows.ATTENTION,
    )


class Block(nn.Module):
    """One layer: its norm, its mixer, its place in the residual stream."""

    def __init__(
        self, spec: DecoderSpec, ranks: Ranks, layer_id: int, quant_config: QuantizationConfig | None, prefix: str
    ) -> None:
        super().__init__()
        self.layer_id = layer_id
        self.letter = spec.pattern[layer_id]
        prefix = f"{prefix}.mixer"
        if self.letter == MAMBA:
            self.mixer = MambaMixer(spec, ranks, quant_config, prefix)
        elif self.letter == ATTENTION:
            self.mixer = AttentionMixer(spec, ranks, layer_id, quant_config, prefix)
        elif self.letter == MOE:
            self.mixer = MoEMixer(spec, layer_id, quant_config, prefix)
        else:
            self.mixer = DenseMLP(spec, spec.intermediate_size, quant_config, prefix)
        self.norm = RMSNorm(spec.hidden_size, eps=spec.norm_eps)
        (self.boundary,) = append_stages((_declaration(spec, layer_id), self.norm))

    def forward(
        self,
        x_TD: torch.Tensor,
        forward_batch: ForwardBatch,
        plan: StepPlan | None,
        slots_of: Callable[[int], MambaSlots],
    ) -> Any:
        """Hidden states on the stream in, hidden states on the stream out (residual and norms are the boundary's)."""
        x_TD = self.boundary.prepare(x_TD, forward_batch)
        has_memory = self.letter in (MAMBA, ATTENTION)
        if has_memory and forward_batch.forward_mode.is_idle():
            return x_TD
        if self.letter == MAMBA:
            assert plan is not None
            x_TD = self.mixer(x_TD, slots_of(self.layer_id), plan)
        elif self.letter == ATTENTION:
            x_TD = self.mixer(x_TD, forward_batch)
        else:
            x_TD = self.mixer(x_TD)
        return self.boundary.finish(x_TD, forward_batch)


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
        for layer_id in range(self.start_layer, self.end_layer):
            with get_global_expert_distribution_recorder().with_current_layer(layer_id):
                x_TD = self.block(layer_id)(x_TD, forward_batch, plan, slots_of)
        if not self.pp_group.is_last_rank:
            return residual_batch.to_pp(x_TD, forward_batch)
        x_TD = residual_batch.complete_output(x_TD, forward_batch)
        return residual_batch.final_norm(x_TD, forward_batch, self.norm_f)

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
    return (_declaration(spec, layer_id),)
