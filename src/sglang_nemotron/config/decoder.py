"""A Hugging Face config (a dict or a config object, text or Omni) comes in; one frozen `DecoderSpec` goes out.

Spellings, defaults and refusals of the text decoder live here and nowhere else. This file must never know SGLang,
torch, a device or a tensor name.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sglang_nemotron.config.values import (
    ABSENT,
    Fields,
    check_pattern,
    count,
    count_or_zero,
    dtype_name,
    flag,
    limit,
    pattern_letters,
    positive,
    size_or_list,
    tokens,
)
from sglang_nemotron.family import OMNI_MODEL_TYPES, STATE_DTYPES, TEXT_MODEL_TYPES

# the keys under which a multimodal config holds its text config, published name first
TEXT_KEYS = ("llm_config", "text_config")

# by layer kind: field of the spec -> its spellings, the one that current checkpoints use first
_SIZES: dict[str, dict[str, tuple[str, ...]]] = {
    "*": {
        "num_attention_heads": ("num_attention_heads",),
        "num_key_value_heads": ("num_key_value_heads",),
        "head_dim": ("head_dim", "attention_head_dim"),
    },
    "M": {
        "mamba_num_heads": ("mamba_num_heads",),
        "mamba_head_dim": ("mamba_head_dim",),
        "num_groups": ("n_groups", "mamba_n_groups"),
        "state_size": ("ssm_state_size", "mamba_d_state"),
        "conv_width": ("conv_kernel", "mamba_d_conv"),
        "chunk_size": ("chunk_size", "mamba_chunk_size"),
    },
    "E": {
        "num_experts": ("n_routed_experts", "num_local_experts"),
        "experts_per_token": ("num_experts_per_tok",),
        "expert_intermediate_size": ("moe_intermediate_size",),
    },
    "-": {"intermediate_size": ("intermediate_size",)},
}

# what we implement of the fields that change the maths; None stands for a field that is absent or null
_IMPLEMENTED: dict[str, tuple[Any, ...]] = {
    "mlp_hidden_act": ("relu2", None),
    "mamba_hidden_act": ("silu", "swish", None),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "use_bias": (False, None),
    "mamba_proj_bias": (False, None),
    "residual_in_fp32": (False, None),
    "sliding_window": (None,),
}


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """The text decoder as numbers. Made by `decoder_spec`; checked on construction (ValueError).

    Sizes count the whole model, never one rank. Fields of a layer kind that `pattern` lacks are 0 (and
    `conv_bias` False), so that two configs which describe the same decoder give equal specs.

    pattern: one letter per layer: M Mamba-2, E mixture of experts, * attention, - dense MLP.
    conv_width: taps of the causal convolution (`conv_kernel`), the current token included.
    shared_intermediate_size: `moe_shared_expert_intermediate_size` times `n_shared_experts`; 0 if there is none.
    router_scale: `routed_scaling_factor`. router_renormalize: `norm_topk_prob`.
    router_num_groups, router_top_groups: `n_group`, `topk_group` (1, 1 means no limit by groups).
    time_step_limit: clamp of softplus(dt + bias); (0, inf) is no clamp.
    ssm_dtype: the checkpoint's wish for the recurrent state; a server option may override it.
    eos_token_ids: as the config says; a generation config may add more.
    dtype: the checkpoint's parameter type as a plain name ("bfloat16"), or None if it does not say.
    """

    hidden_size: int
    vocab_size: int
    pattern: str
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    mamba_num_heads: int
    mamba_head_dim: int
    num_groups: int
    state_size: int
    conv_width: int
    chunk_size: int
    conv_bias: bool
    num_experts: int
    experts_per_token: int
    expert_intermediate_size: int
    shared_intermediate_size: int
    intermediate_size: int
    norm_eps: float
    router_scale: float
    router_renormalize: bool
    router_num_groups: int
    router_top_groups: int
    tie_embeddings: bool
    max_positions: int
    ssm_dtype: str
    time_step_limit: tuple[float, float]
    eos_token_ids: tuple[int, ...]
    dtype: str | None

    def __post_init__(self) -> None:
        check_pattern("pattern", self.pattern)
        if self.attention_layers and self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads={self.num_key_value_heads}"
            )
        if self.mamba_layers:
            if self.mamba_num_heads % self.num_groups:
                raise ValueError(
                    f"mamba_num_heads={self.mamba_num_heads} is not a multiple of n_groups={self.num_groups}"
                )
            if self.conv_width < 2:
                raise ValueError(f"conv_kernel={self.conv_width} is not supported; allowed: 2 or more")
        if self.moe_layers:
            _check_router(self)
        if self.ssm_dtype not in STATE_DTYPES:
            raise ValueError(f"mamba_ssm_cache_dtype={self.ssm_dtype!r} is not supported; allowed: {STATE_DTYPES}")

    @property
    def num_layers(self) -> int:
        return len(self.pattern)

    @property
    def mamba_inner(self) -> int:
        """Channels inside a Mamba mixer: heads times head dim (`expand` plays no part)."""
        return self.mamba_num_heads * self.mamba_head_dim

    @property
    def conv_channels(self) -> int:
        """Channels of the causal convolution: x, B and C, all groups."""
        return self.mamba_inner + 2 * self.num_groups * self.state_size

    @property
    def mamba_layers(self) -> tuple[int, ...]:
        return self._layers("M")

    @property
    def attention_layers(self) -> tuple[int, ...]:
        return self._layers("*")

    @property
    def moe_layers(self) -> tuple[int, ...]:
        return self._layers("E")

    @property
    def mlp_layers(self) -> tuple[int, ...]:
        return self._layers("-")

    def _layers(self, letter: str) -> tuple[int, ...]:
        return tuple(i for i, kind in enumerate(self.pattern) if kind == letter)


def decoder_spec(config: Mapping[str, Any] | object) -> DecoderSpec:
    """Reads the text decoder out of a Hugging Face config, once.

    `config` is a parsed config.json, or any object with `to_dict()` or plain attributes; a multimodal config is
    entered through `llm_config` / `text_config`. Raises ValueError naming the field, its value and what is allowed:
    for a missing size, for two spellings of one field that disagree, and for maths that is not implemented here.

    Read nowhere, because they do not change inference: rope_theta, partial_rotary_factor and rope_scaling (the
    decoder has no positional embedding), expand (heads times head dim is the truth), time_step_min, time_step_max
    and time_step_floor (initialisation), attention_dropout, hidden_dropout, initializer_range,
    rescale_prenorm_residual, use_cache, use_mamba_kernels, num_logits_to_keep, output_router_logits,
    moe_shared_expert_overlap, mtp_layers_block_type (unless MTP heads are on, which is refused).
    """
    outer, text = _outer_and_text(config)
    reason = _left_to_others(outer, text)
    if reason is not None:
        raise ValueError(f"not a Nemotron 3 Nano decoder: {reason}")
    text.check(_IMPLEMENTED)
    pattern = _read_pattern(text)
    return DecoderSpec(
        hidden_size=text.one(count, "hidden_size"),
        vocab_size=text.one(count, "vocab_size"),
        pattern=pattern,
        **_sizes(text, pattern),
        **_mamba_options(text, "M" in pattern),
        **_moe_options(text, "E" in pattern),
        norm_eps=text.one(positive, "layer_norm_epsilon", "norm_eps", "rms_norm_eps"),
        tie_embeddings=text.one(flag, "tie_word_embeddings", default=False),
        max_positions=text.one(count, "max_position_embeddings"),
        ssm_dtype=text.one(dtype_name, "mamba_ssm_cache_dtype", "mamba_ssm_dtype", default="float32"),
        # the outer config is the one a generation follows, and the only one that names the dtype in Omni
        eos_token_ids=outer.one(tokens, "eos_token_id", default=text.one(tokens, "eos_token_id", default=())),
        dtype=text.one(
            dtype_name, "dtype", "torch_dtype", default=outer.one(dtype_name, "dtype", "torch_dtype", default=None)
        ),
    )


def is_nano(config: Mapping[str, Any] | object) -> str | None:
    """None if this config is one we claim, else a short reason why it is left to SGLang's own class.

    Nano, Super, Ultra and Puzzle share the architecture name NemotronHForCausalLM; this tells them apart. Being
    claimed is not being supported: `decoder_spec` still refuses a claimed config whose maths we do not implement.
    """
    outer, text = _outer_and_text(config)
    if text.get("model_type") is ABSENT:
        return f"model_type is absent; ours is one of {TEXT_MODEL_TYPES + OMNI_MODEL_TYPES}"
    return _left_to_others(outer, text)


def check_parallel(spec: DecoderSpec, tp_size: int, *, ep_size: int = 1, pp_size: int = 1) -> None:
    """Raises ValueError, naming the value, if `spec` cannot be split over `tp_size` ranks.

    `ep_size` divides `tp_size`: that many sets of whole experts, each split over tp_size / ep_size ranks.
    The vocabulary need not divide (it is padded). KV heads and Mamba groups are replicated above their number.
    """
    for name, size in (("tp_size", tp_size), ("ep_size", ep_size), ("pp_size", pp_size)):
        if size < 1:
            raise ValueError(f"{name}={size} is not supported; allowed: 1 or more")
    if tp_size % ep_size:
        raise ValueError(f"ep_size={ep_size} does not divide tp_size={tp_size}")
    if pp_size > spec.num_layers:
        raise ValueError(f"pp_size={pp_size} exceeds num_hidden_layers={spec.num_layers}")
    divided = (
        ("num_attention_heads", spec.num_attention_heads, "tp_size", tp_size),
        ("mamba_num_heads", spec.mamba_num_heads, "tp_size", tp_size),
        ("n_routed_experts", spec.num_experts, "ep_size", ep_size),
        ("moe_intermediate_size", spec.expert_intermediate_size, "tp_size / ep_size", tp_size // ep_size),
        ("shared expert intermediate size", spec.shared_intermediate_size, "tp_size", tp_size),
        ("intermediate_size", spec.intermediate_size, "tp_size", tp_size),
    )
    for name, value, by, ranks in divided:
        if value % ranks:
            raise ValueError(f"{name}={value} cannot be split over {by}={ranks}; choose a divisor of {value}")
    shared = (("num_key_value_heads", spec.num_key_value_heads), ("n_groups", spec.num_groups))
    for name, value in shared:
        if value and value % tp_size and tp_size % value:
            raise ValueError(
                f"{name}={value} can be neither split over nor replicated on tp_size={tp_size}; "
                f"choose a divisor or a multiple of {value}"
            )


def _outer_and_text(config: Mapping[str, Any] | object) -> tuple[Fields, Fields]:
    """The config and its text part; the same object twice for a text-only config."""
    look = config.get if isinstance(config, Mapping) else lambda name: getattr(config, name, None)
    nested = [(name, value) for name in TEXT_KEYS if (value := look(name)) is not None]
    outer = Fields(config)
    if not nested:
        return outer, outer
    # a config object is copied to be compared
    if len(nested) > 1:
        first, *others = (_plain(value) for _, value in nested)
        if any(other != first for other in others):
            raise ValueError(f"the config contradicts itself: {' and '.join(TEXT_KEYS)} differ; keep one of them")
    return outer, Fields(nested[0][1])


def _plain(config: Any) -> Any:
    return config.to_dict() if callable(getattr(config, "to_dict", None)) else config


def _left_to_others(outer: Fields, text: Fields) -> str | None:
    """Why these are another family's maths, or None. An absent model_type is let pass."""
    model_type = text.get("model_type")
    if model_type is not ABSENT and model_type not in TEXT_MODEL_TYPES:
        return f"model_type={model_type!r} is not one of {TEXT_MODEL_TYPES}"
    if outer is not text:
        outer_type = outer.get("model_type")
        if outer_type is not ABSENT and outer_type not in OMNI_MODEL_TYPES:
            return f"model_type={outer_type!r} is not one of {OMNI_MODEL_TYPES}"
    if (latent := text.get("moe_latent_size")) is not ABSENT:
        return f"moe_latent_size={latent!r}: experts in a latent space (Super, Ultra)"
    if (num_heads := text.get("num_nextn_predict_layers")) is not ABSENT and num_heads != 0:
        return f"num_nextn_predict_layers={num_heads!r}: multi-token prediction heads"
    for name in ("block_configs", "per_layer_config"):
        if (blocks := text.get(name)) is not ABSENT and blocks:
            return f"{name} is set: layers of differing sizes (Puzzle)"
    return None


def _sizes(text: Fields, pattern: str) -> dict[str, int]:
    sizes = dict.fromkeys((field for fields in _SIZES.values() for field in fields), 0)
    for letter in set(pattern):
        for field, names in _SIZES[letter].items():
            convert = size_or_list if field == "intermediate_size" else count
            # a config without num_key_value_heads means multi-head attention
            like_queries = text.get("num_attention_heads") if field == "num_key_value_heads" else ABSENT
            sizes[field] = text.one(convert, *names, default=like_queries)
    return sizes


def _mamba_options(text: Fields, present: bool) -> dict[str, Any]:
    if not present:
        return {"conv_bias": False, "time_step_limit": (0.0, math.inf)}
    return {
        # true in the published remote code and in transformers when the file is silent
        "conv_bias": text.one(flag, "use_conv_bias", "mamba_conv_bias", default=True),
        "time_step_limit": text.one(limit, "time_step_limit", "mamba_dt_limit", default=(0.0, math.inf)),
    }


def _moe_options(text: Fields, present: bool) -> dict[str, Any]:
    if not present:
        groups = {"router_num_groups": 0, "router_top_groups": 0}
        return {"shared_intermediate_size": 0, "router_scale": 0.0, "router_renormalize": False, **groups}
    num_shared = text.one(count_or_zero, "n_shared_experts", default=1)
    size = text.one(count, "moe_shared_expert_intermediate_size") if num_shared else 0
    return {
        "shared_intermediate_size": num_shared * size,
        "router_scale": text.one(positive, "routed_scaling_factor", default=1.0),
        "router_renormalize": text.one(flag, "norm_topk_prob", default=True),
        "router_num_groups": text.one(count, "n_group", default=1),
        "router_top_groups": text.one(count, "topk_group", default=1),
    }


def _read_pattern(text: Fields) -> str:
    pattern = text.one(pattern_letters, "hybrid_override_pattern", "layers_block_type", "layer_types")
    num_layers = text.one(count, "num_hidden_layers", default=len(pattern))
    if num_layers != len(pattern):
        raise ValueError(f"num_hidden_layers={num_layers}, but the layer pattern {pattern!r} has {len(pattern)} layers")
    return pattern


def _check_router(spec: DecoderSpec) -> None:
    experts, groups, top = spec.num_experts, spec.router_num_groups, spec.router_top_groups
    if top > groups:
        raise ValueError(f"topk_group={top} exceeds n_group={groups}")
    if experts % groups:
        raise ValueError(f"n_routed_experts={experts} is not a multiple of n_group={groups}")
    if groups > 1 and experts // groups < 2:
        raise ValueError(
            f"n_group={groups} leaves {experts // groups} expert per group; a group is judged by its best 2"
        )
    if spec.experts_per_token > top * (experts // groups):
        raise ValueError(
            f"num_experts_per_tok={spec.experts_per_token} exceeds the {top * (experts // groups)} experts that "
            f"n_routed_experts={experts}, n_group={groups}, topk_group={top} leave to choose from"
        )


# SGLang pads these in place for its own CPU kernels, and keeps what the checkpoint said under the second name
_PADDED = {
    "moe_intermediate_size": "original_moe_intermediate_size",
    "intermediate_size": "original_intermediate_size",
    "num_attention_heads": "original_num_attention_heads",
    "num_key_value_heads": "original_total_num_kv_heads",
}


def spec_of(config: Any) -> DecoderSpec:
    """The decoder spec of any config object SGLang hands a model: ours, in-tree's, or a transformers one."""
    spec = getattr(config, "nano_spec", None)
    if spec is not None:
        return spec
    # a copy of the same class: `decoder_spec` tells a class's defaults from what the checkpoint says
    unpadded = copy.copy(config)
    for name, original in _PADDED.items():
        if getattr(config, original, None) is not None:
            setattr(unpadded, name, getattr(config, original))
    return decoder_spec(unpadded)
