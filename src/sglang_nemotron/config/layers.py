"""The kinds of layers a decoder is made of: one record each, with its letter, its words, its sizes and its checks.

The fields of a Hugging Face config come in; frozen records go out, one for all layers of a kind. This file must never
know SGLang, torch, a device or a tensor name. What a kind computes and loads is in `decoder/kinds.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from sglang_nemotron.config.values import Fields, count, count_or_zero, flag, limit, positive, size_or_list


@dataclass(frozen=True, slots=True)
class MambaSpec:
    """A Mamba-2 mixer. Sizes count the whole model, never one rank; checked on construction (ValueError).

    conv_width: taps of the causal convolution (`conv_kernel`), the current token included.
    time_step_limit: clamp of softplus(dt + bias); (0, inf) is no clamp.
    """

    # in `hybrid_override_pattern`, and in lists of words: SGLang's own word first, then the one of transformers 5
    letter: ClassVar[str] = "M"
    words: ClassVar[tuple[str, ...]] = ("mamba", "linear_attention")

    num_heads: int
    head_dim: int
    num_groups: int
    state_size: int
    conv_width: int
    chunk_size: int
    conv_bias: bool
    time_step_limit: tuple[float, float]

    @classmethod
    def read(cls, text: Fields) -> MambaSpec:
        return cls(
            num_heads=text.one(count, "mamba_num_heads"),
            head_dim=text.one(count, "mamba_head_dim"),
            num_groups=text.one(count, "n_groups", "mamba_n_groups"),
            state_size=text.one(count, "ssm_state_size", "mamba_d_state"),
            conv_width=text.one(count, "conv_kernel", "mamba_d_conv"),
            chunk_size=text.one(count, "chunk_size", "mamba_chunk_size"),
            # true in the published remote code and in transformers when the file is silent
            conv_bias=text.one(flag, "use_conv_bias", "mamba_conv_bias", default=True),
            time_step_limit=text.one(limit, "time_step_limit", "mamba_dt_limit", default=(0.0, math.inf)),
        )

    def __post_init__(self) -> None:
        if self.num_heads % self.num_groups:
            raise ValueError(f"mamba_num_heads={self.num_heads} is not a multiple of n_groups={self.num_groups}")
        if self.conv_width < 2:
            raise ValueError(f"conv_kernel={self.conv_width} is not supported; allowed: 2 or more")

    @property
    def inner(self) -> int:
        """Channels inside the mixer: heads times head dim (`expand` plays no part)."""
        return self.num_heads * self.head_dim

    @property
    def conv_channels(self) -> int:
        """Channels of the causal convolution: x, B and C, all groups."""
        return self.inner + 2 * self.num_groups * self.state_size

    def check_parallel(self, tp_size: int, ep_size: int = 1) -> None:
        """ValueError, naming the value, if the mixer cannot be split; groups are replicated above their number."""
        _check_split("mamba_num_heads", self.num_heads, "tp_size", tp_size)
        _check_shared("n_groups", self.num_groups, tp_size)


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """Grouped-query attention. Sizes count the whole model; checked on construction (ValueError)."""

    letter: ClassVar[str] = "*"
    words: ClassVar[tuple[str, ...]] = ("attention", "full_attention")

    num_heads: int
    num_kv_heads: int
    head_dim: int

    @classmethod
    def read(cls, text: Fields) -> AttentionSpec:
        # a config without num_key_value_heads means multi-head attention
        like_queries: Any = text.get("num_attention_heads")
        return cls(
            num_heads=text.one(count, "num_attention_heads"),
            num_kv_heads=text.one(count, "num_key_value_heads", default=like_queries),
            head_dim=text.one(count, "head_dim", "attention_head_dim"),
        )

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_attention_heads={self.num_heads} is not a multiple of num_key_value_heads={self.num_kv_heads}"
            )

    def check_parallel(self, tp_size: int, ep_size: int = 1) -> None:
        """ValueError, naming the value, if the mixer cannot be split; KV heads are replicated above their number."""
        _check_split("num_attention_heads", self.num_heads, "tp_size", tp_size)
        _check_shared("num_key_value_heads", self.num_kv_heads, tp_size)


@dataclass(frozen=True, slots=True)
class MoESpec:
    """Routed experts with a shared one. Sizes count the whole model; checked on construction (ValueError).

    shared_intermediate_size: `moe_shared_expert_intermediate_size` times `n_shared_experts`; 0 if there is none.
    router_scale: `routed_scaling_factor`. router_renormalize: `norm_topk_prob`.
    router_num_groups, router_top_groups: `n_group`, `topk_group` (1, 1 means no limit by groups).
    """

    letter: ClassVar[str] = "E"
    words: ClassVar[tuple[str, ...]] = ("moe",)

    num_experts: int
    experts_per_token: int
    expert_intermediate_size: int
    shared_intermediate_size: int
    router_scale: float
    router_renormalize: bool
    router_num_groups: int
    router_top_groups: int

    @classmethod
    def read(cls, text: Fields) -> MoESpec:
        num_shared = text.one(count_or_zero, "n_shared_experts", default=1)
        shared_size = text.one(count, "moe_shared_expert_intermediate_size") if num_shared else 0
        return cls(
            num_experts=text.one(count, "n_routed_experts", "num_local_experts"),
            experts_per_token=text.one(count, "num_experts_per_tok"),
            expert_intermediate_size=text.one(count, "moe_intermediate_size"),
            shared_intermediate_size=num_shared * shared_size,
            router_scale=text.one(positive, "routed_scaling_factor", default=1.0),
            router_renormalize=text.one(flag, "norm_topk_prob", default=True),
            router_num_groups=text.one(count, "n_group", default=1),
            router_top_groups=text.one(count, "topk_group", default=1),
        )

    def __post_init__(self) -> None:
        experts, groups, top = self.num_experts, self.router_num_groups, self.router_top_groups
        if top > groups:
            raise ValueError(f"topk_group={top} exceeds n_group={groups}")
        if experts % groups:
            raise ValueError(f"n_routed_experts={experts} is not a multiple of n_group={groups}")
        if groups > 1 and experts // groups < 2:
            raise ValueError(
                f"n_group={groups} leaves {experts // groups} expert per group; a group is judged by its best 2"
            )
        if self.experts_per_token > top * (experts // groups):
            raise ValueError(
                f"num_experts_per_tok={self.experts_per_token} exceeds the {top * (experts // groups)} experts that "
                f"n_routed_experts={experts}, n_group={groups}, topk_group={top} leave to choose from"
            )

    def check_parallel(self, tp_size: int, ep_size: int = 1) -> None:
        """ValueError, naming the value, if `ep_size` sets of whole experts cannot be split over the ranks of a set."""
        each = tp_size // ep_size
        _check_split("n_routed_experts", self.num_experts, "ep_size", ep_size)
        _check_split("moe_intermediate_size", self.expert_intermediate_size, "tp_size / ep_size", each)
        _check_split("shared expert intermediate size", self.shared_intermediate_size, "tp_size", tp_size)


@dataclass(frozen=True, slots=True)
class DenseSpec:
    """A dense MLP. Its size counts the whole model."""

    letter: ClassVar[str] = "-"
    words: ClassVar[tuple[str, ...]] = ("mlp",)

    intermediate_size: int

    @classmethod
    def read(cls, text: Fields) -> DenseSpec:
        return cls(intermediate_size=text.one(size_or_list, "intermediate_size"))

    def check_parallel(self, tp_size: int, ep_size: int = 1) -> None:
        """ValueError, naming the value, if the MLP cannot be split."""
        _check_split("intermediate_size", self.intermediate_size, "tp_size", tp_size)


LayerSpec = MambaSpec | AttentionSpec | MoESpec | DenseSpec
LAYER_KINDS: tuple[type[LayerSpec], ...] = (MambaSpec, MoESpec, AttentionSpec, DenseSpec)

LETTERS = "".join(kind.letter for kind in LAYER_KINDS)
_LETTER_OF_WORD = {word: kind.letter for kind in LAYER_KINDS for word in kind.words}


def read_layers(text: Fields) -> tuple[LayerSpec, ...]:
    """One record per layer, in order; those of one kind are the same. ValueError as for every field."""
    pattern = text.one(_pattern, "hybrid_override_pattern", "layers_block_type", "layer_types")
    num_layers = text.one(count, "num_hidden_layers", default=len(pattern))
    if num_layers != len(pattern):
        raise ValueError(f"num_hidden_layers={num_layers}, but the layer pattern {pattern!r} has {len(pattern)} layers")
    records = {kind.letter: kind.read(text) for kind in LAYER_KINDS if kind.letter in pattern}
    return tuple(records[letter] for letter in pattern)


def _pattern(name: str, value: Any) -> str:
    """Letters, from a string of them or a list of words."""
    if isinstance(value, list | tuple):
        unknown = sorted({str(word) for word in value if word not in _LETTER_OF_WORD})
        if unknown:
            raise ValueError(f"{name} has unknown layer types {unknown}; allowed: {sorted(_LETTER_OF_WORD)}")
        value = "".join(_LETTER_OF_WORD[word] for word in value)
    if not isinstance(value, str):
        raise ValueError(f"{name}={value!r} is not supported; allowed: a string of {LETTERS!r} or a list of words")
    unknown = sorted(set(value) - set(LETTERS))
    if unknown or not value:
        raise ValueError(f"{name}={value!r} has unknown letters {unknown}; allowed: one or more of {LETTERS!r}")
    return value


def _check_split(name: str, value: int, by: str, ranks: int) -> None:
    if value % ranks:
        raise ValueError(f"{name}={value} cannot be split over {by}={ranks}; choose a divisor of {value}")


def _check_shared(name: str, value: int, tp_size: int) -> None:
    if value % tp_size and tp_size % value:
        raise ValueError(
            f"{name}={value} can be neither split over nor replicated on tp_size={tp_size}; "
            f"choose a divisor or a multiple of {value}"
        )
