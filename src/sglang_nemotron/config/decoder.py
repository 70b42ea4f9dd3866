"""A Hugging Face config (a dict or a config object, text or Omni) comes in; one frozen `DecoderSpec` goes out.

Spellings, defaults and refusals of the text decoder live here, those of a layer kind in `layers.py`. This file must
never know SGLang, torch, a device or a tensor name.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from sglang_nemotron.config.layers import (
    AttentionSpec,
    DenseSpec,
    LayerSpec,
    MambaSpec,
    MoESpec,
    read_layers,
)
from sglang_nemotron.config.values import ABSENT, Fields, count, dtype_name, flag, positive, tokens
from sglang_nemotron.family import OMNI_MODEL_TYPES, STATE_DTYPES, TEXT_KEYS, TEXT_MODEL_TYPES

# NVFP4 keeps one scale per 16 neighbours along the input dimension (NVIDIA ModelOpt's `group_size`)
NVFP4_GROUP = 16
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


Kind = TypeVar("Kind", bound=LayerSpec)


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """The text decoder as numbers. Made by `decoder_spec`; checked on construction (ValueError).

    layers: one record per layer, in order; all layers of a kind have equal records. What a config says of a kind that
    no layer has is in no record, so that two configs which describe the same decoder give equal specs.
    ssm_dtype: the checkpoint's wish for the recurrent state; a server option may override it.
    eos_token_ids: as the config says; a generation config may add more.
    dtype: the checkpoint's parameter type as a plain name ("bfloat16"), or None if it does not say.
    """

    hidden_size: int
    vocab_size: int
    layers: tuple[LayerSpec, ...]
    norm_eps: float
    tie_embeddings: bool
    max_positions: int
    ssm_dtype: str
    eos_token_ids: tuple[int, ...]
    dtype: str | None

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("a decoder has one layer or more")
        # one size of slot, page and weight table per kind is what the pools and the loader are made for
        if len(set(self.layers)) != len({type(layer) for layer in self.layers}):
            raise ValueError(f"layers of one kind differ in their sizes: {sorted(map(str, set(self.layers)))}")
        if self.ssm_dtype not in STATE_DTYPES:
            raise ValueError(f"mamba_ssm_cache_dtype={self.ssm_dtype!r} is not supported; allowed: {STATE_DTYPES}")

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def pattern(self) -> str:
        """One letter per layer, as in `hybrid_override_pattern`."""
        return "".join(layer.letter for layer in self.layers)

    def find(self, kind: type[Kind]) -> Kind | None:
        """The record that all layers of this kind share, or None if no layer is of this kind."""
        return next((layer for layer in self.layers if isinstance(layer, kind)), None)

    def layers_of(self, kind: type[LayerSpec]) -> tuple[int, ...]:
        """The numbers of the layers of this kind."""
        return tuple(i for i, layer in enumerate(self.layers) if isinstance(layer, kind))

    def record(self, kind: type[Kind]) -> Kind:
        """As `find`; ValueError if no layer is of this kind."""
        found = self.find(kind)
        if found is None:
            raise ValueError(f"the layer pattern {self.pattern!r} has no layer {kind.letter!r} ({kind.words[0]})")
        return found

    @property
    def mamba(self) -> MambaSpec:
        return self.record(MambaSpec)

    @property
    def attention(self) -> AttentionSpec:
        return self.record(AttentionSpec)

    @property
    def moe(self) -> MoESpec:
        return self.record(MoESpec)

    @property
    def dense(self) -> DenseSpec:
        return self.record(DenseSpec)


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
    return DecoderSpec(
        hidden_size=text.one(count, "hidden_size"),
        vocab_size=text.one(count, "vocab_size"),
        layers=read_layers(text),
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
    for layer in dict.fromkeys(spec.layers):
        layer.check_parallel(tp_size, ep_size)


def check_groups(spec: DecoderSpec, tp_size: int, *, ep_size: int = 1) -> None:
    """ValueError where NVFP4 experts would be split inside a group of numbers that share a scale.

    SGLang's loader rounds the groups of a rank down and counts from there, so that later ranks get others' scales and
    the last groups are never read (layers/moe/fused_moe_triton, `_load_w2`).
    """
    each = tp_size // ep_size
    for size in {layer.expert_intermediate_size for layer in spec.layers if isinstance(layer, MoESpec)}:
        if size // each % NVFP4_GROUP:
            raise ValueError(
                f"moe_intermediate_size={size} leaves {size // each} columns of an NVFP4 expert to a rank at tp_size / "
                f"ep_size={each}, no whole number of groups of {NVFP4_GROUP}; choose a smaller --tp"
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
