"""NemotronHForCausalLM for SGLang: NVIDIA Nemotron 3 Nano, text. SGLang finds it by the checkpoint's own name."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from sglang_nemotron import ops
from sglang_nemotron.config.decoder import check_parallel, is_nano, spec_of
from sglang_nemotron.config.layers import MoESpec
from sglang_nemotron.decoder.mamba import MambaSlots
from sglang_nemotron.decoder.moe import MoEMixer
from sglang_nemotron.decoder.parallel import current_ranks
from sglang_nemotron.decoder.quantization import is_dequantised
from sglang_nemotron.decoder.stack import DecoderStack
from sglang_nemotron.decoder.weights import DecoderWeights
from sglang_nemotron.sglang_api.engine import (
    ForwardBatch,
    LazyValue,
    LogitsProcessor,
    ModelConfigForExpertLocation,
    ParallelLMHead,
    PPMissingLayer,
    PPProxyTensors,
    QuantizationConfig,
    WeightsMapper,
    add_prefix,
    get_attn_backend,
    get_parallel,
)
from sglang_nemotron.sglang_api.intree import intree_model
from sglang_nemotron.state.layout import state_layout
from sglang_nemotron.state.plan import StepPlan, make_plan
from sglang_nemotron.state.pool import PoolView
from sglang_nemotron.state.rounding import StateRounding, state_rounding

logger = logging.getLogger(__name__)


class NemotronHForCausalLM(nn.Module):
    """The Nano decoder with its head. Configs of other families that share this name go to SGLang's own class."""

    # what SGLang's loaders, LoRA and quantisation read from the class
    packed_modules_mapping = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}
    remap_prefix = {"backbone": "model"}
    hf_to_sglang_mapper = WeightsMapper(orig_to_new_prefix={"backbone.": "model."})
    supported_lora_modules = ["qkv_proj", "o_proj", "in_proj", "out_proj", "up_proj", "down_proj"]

    def __new__(cls, *, config: Any, quant_config: QuantizationConfig | None = None, prefix: str = "") -> Any:
        reason = is_nano(config)
        if reason is None:
            return super().__new__(cls)
        logger.warning("not a Nemotron 3 Nano config (%s): SGLang's own class serves it", reason)
        return intree_model("NemotronHForCausalLM")(config=config, quant_config=quant_config, prefix=prefix)

    def __init__(self, *, config: Any, quant_config: QuantizationConfig | None = None, prefix: str = "") -> None:
        super().__init__()
        self.config = config
        self.quant_config = quant_config
        self.spec = spec_of(config)
        parallel = get_parallel()
        self.pp_group = parallel.pp_group
        check_parallel(self.spec, parallel.attn_tp_size, ep_size=1, pp_size=self.pp_group.world_size)
        self.ranks = current_ranks()
        self.dequantise = is_dequantised(quant_config)
        layer_quant = None if self.dequantise else quant_config
        self.model = DecoderStack(self.spec, self.ranks, layer_quant, prefix=add_prefix("model", prefix))
        self.lm_head = self._head(layer_quant, prefix)
        self.logits_processor = LogitsProcessor(config)
        # inside another model, a checkpoint names this one's tensors behind the same prefix
        self.weights = DecoderWeights(
            self.spec, self.ranks.mixer_tp_size, dequantise=self.dequantise, prefix=add_prefix("", prefix)
        )
        self.routed_experts_weights_of_layer = LazyValue(self._expert_weights)
        self._pool: PoolView | None = None
        self._rounding: StateRounding | None = None

    def _head(self, quant_config: QuantizationConfig | None, prefix: str) -> nn.Module:
        if not self.pp_group.is_last_rank:
            return PPMissingLayer()
        if self.spec.tie_embeddings:
            return self.model.embed_tokens
        return ParallelLMHead(
            self.spec.vocab_size,
            self.spec.hidden_size,
            org_num_embeddings=self.spec.vocab_size,
            quant_config=quant_config,
            use_attn_tp_group=get_parallel().enable_dp_lm_head,
            prefix=add_prefix("lm_head", prefix),
        )

    @torch.no_grad()
    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        forward_batch: ForwardBatch,
        input_embeds: torch.Tensor | None = None,
        pp_proxy_tensors: PPProxyTensors | None = None,
    ) -> Any:
        """Logits of the batch on the last pipeline stage, the hidden states for the next one elsewhere."""
        plan, pool = self._plan(forward_batch)
        rounding = self._rounding
        if rounding is not None and plan is not None and plan.num_decodes > 0:
            rounding.next_step()
        hidden = self.model(
            input_ids,
            forward_batch,
            plan,
            lambda layer_id: MambaSlots(*pool.slots_of(layer_id), rounding and rounding.of_layer(layer_id)),
            pp_proxy_tensors,
            input_embeds,
        )
        self._track(plan, pool)
        if not self.pp_group.is_last_rank:
            return hidden
        return self.logits_processor(input_ids, hidden, self.lm_head, forward_batch)

    def _plan(self, forward_batch: ForwardBatch) -> tuple[StepPlan | None, PoolView]:
        linear = getattr(get_attn_backend(), "linear_attn_backend", None)
        if linear is None:
            raise RuntimeError(
                "SGLang did not build its hybrid attention backend for this model; the config class in use is "
                f"{type(self.config).__module__}.{type(self.config).__name__}"
            )
        if self._pool is None:
            self._pool = self._bind(linear.req_to_token_pool)
        if forward_batch.forward_mode.is_idle():
            return None, self._pool
        return make_plan(linear.forward_metadata, forward_batch), self._pool

    def _bind(self, req_to_token_pool: Any) -> PoolView:
        params = self.config.mamba2_cache_params
        kv_pool = getattr(get_attn_backend(), "token_to_kv_pool", None)
        kv_dtype = getattr(kv_pool, "dtype", torch.bfloat16)
        layout = state_layout(
            self.spec,
            layers=self.stage,
            tp_size=self.ranks.mixer_tp_size,
            conv_dtype=str(params.dtype.conv),
            ssm_dtype=str(params.dtype.temporal),
            kv_dtype=str(kv_dtype),
        )
        pool = PoolView(req_to_token_pool, layout, kv_pool)
        ranks = self.ranks
        self._rounding = state_rounding(pool.ssm_LSHPN, rank=ranks.mixer_tp_rank, num_ranks=ranks.mixer_tp_size)
        return pool

    def _track(self, plan: StepPlan | None, pool: PoolView) -> None:
        # every layer's state is final by now, so one copy serves all layers
        if plan is None or plan.decode_track is None:
            return
        assert plan.decode_slots_B is not None
        ops.copy_states(
            pool.conv_LSCW,
            pool.ssm_LSHPN,
            src_B=plan.decode_slots_B,
            dst_B=plan.decode_track.dst_B,
            mask_B=plan.decode_track.mask_B,
        )

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Fills the parameters from a checkpoint stream; the first call must fill all of them exactly once."""
        return self.weights.load(self, weights)

    @property
    def stage(self) -> range:
        """The layers this pipeline stage holds."""
        return range(self.model.start_layer, self.model.end_layer)

    # where SGLang looks for the layers that pools of a pipeline stage are for; without them it allocates for all
    @property
    def start_layer(self) -> int:
        return self.stage.start

    @property
    def end_layer(self) -> int:
        return self.stage.stop

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    @classmethod
    def get_model_config_for_expert_location(cls, config: Any) -> Any:
        spec = spec_of(config)
        moe = spec.find(MoESpec)
        experts, groups = (moe.num_experts, moe.router_num_groups) if moe else (0, 0)
        return ModelConfigForExpertLocation(num_layers=spec.num_layers, num_logical_experts=experts, num_groups=groups)

    def _expert_weights(self) -> dict[int, list[torch.Tensor]]:
        mixers = {i: self.model.block(i).mixer for i in self.stage}
        return {i: mixer.moe_weights() for i, mixer in mixers.items() if isinstance(mixer, MoEMixer)}


EntryClass = NemotronHForCausalLM
