"""SGLang names for the scheduler process: layers, pools, forward context, grammars. It costs seconds; models pay it.

Plain static re-exports. A name that SGLang drops makes this import fail, and the door that needed it says so.
"""

from __future__ import annotations

from sglang.srt.constrained.base_grammar_backend import BaseGrammarObject
from sglang.srt.constrained.reasoner_grammar_backend import ReasonerGrammarObject
from sglang.srt.distributed import tensor_model_parallel_all_reduce
from sglang.srt.eplb.expert_distribution import get_global_expert_distribution_recorder
from sglang.srt.eplb.expert_location import ModelConfigForExpertLocation
from sglang.srt.layers.activation import ReLU2
from sglang.srt.layers.dp_attention import attn_tp_all_reduce, is_dp_attention_enabled
from sglang.srt.layers.layer_boundary import ExitRows, ProducerReduction, append_stages, declare_attn, declare_ffn
from sglang.srt.layers.layer_boundary.residual import batch as residual_batch
from sglang.srt.layers.layer_boundary.residual.add_norm import NormQuantReadout, NormReadout
from sglang.srt.layers.layernorm import RMSNorm
from sglang.srt.layers.linear import (
    ColumnParallelLinear,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    ReplicatedLinear,
    RowParallelLinear,
)
from sglang.srt.layers.logits_processor import LogitsProcessor
from sglang.srt.layers.moe.ep_moe.layer import get_moe_impl_class
from sglang.srt.layers.moe.fused_moe_triton.layer import FusedMoE
from sglang.srt.layers.moe.topk import TopK
from sglang.srt.layers.moe.utils import (
    RoutingMethodType,
    filter_moe_weight_param_global_expert,
    get_moe_a2a_backend,
)
from sglang.srt.layers.quantization import QuantizationConfig
from sglang.srt.layers.radix_attention import RadixAttention
from sglang.srt.layers.utils import PPMissingLayer
from sglang.srt.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from sglang.srt.managers.mm_utils import general_mm_embed_routine
from sglang.srt.managers.schedule_batch import Modality, MultimodalDataItem, MultimodalInputs
from sglang.srt.model_executor.forward_batch_info import ForwardBatch, PPProxyTensors
from sglang.srt.model_executor.forward_context import get_attn_backend
from sglang.srt.model_executor.runner import get_is_capture_mode
from sglang.srt.models.utils import WeightsMapper
from sglang.srt.runtime_context import get_exec, get_parallel
from sglang.srt.utils import LazyValue, add_prefix, get_current_device_stream_fast, make_pp_layers

__all__ = [
    "BaseGrammarObject",
    "ColumnParallelLinear",
    "ExitRows",
    "ForwardBatch",
    "FusedMoE",
    "LazyValue",
    "LogitsProcessor",
    "MergedColumnParallelLinear",
    "Modality",
    "ModelConfigForExpertLocation",
    "MultimodalDataItem",
    "MultimodalInputs",
    "NormQuantReadout",
    "NormReadout",
    "PPMissingLayer",
    "PPProxyTensors",
    "ParallelLMHead",
    "ProducerReduction",
    "QKVParallelLinear",
    "QuantizationConfig",
    "RMSNorm",
    "RadixAttention",
    "ReasonerGrammarObject",
    "ReLU2",
    "ReplicatedLinear",
    "RoutingMethodType",
    "RowParallelLinear",
    "TopK",
    "VocabParallelEmbedding",
    "WeightsMapper",
    "add_prefix",
    "append_stages",
    "attn_tp_all_reduce",
    "declare_attn",
    "declare_ffn",
    "filter_moe_weight_param_global_expert",
    "general_mm_embed_routine",
    "get_attn_backend",
    "get_current_device_stream_fast",
    "get_exec",
    "get_global_expert_distribution_recorder",
    "get_is_capture_mode",
    "get_moe_a2a_backend",
    "get_moe_impl_class",
    "get_parallel",
    "is_dp_attention_enabled",
    "make_pp_layers",
    "residual_batch",
    "tensor_model_parallel_all_reduce",
]
