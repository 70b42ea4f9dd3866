"""A `DecoderSpec`, a TP size and three dtypes come in; shapes and bytes of what a request leaves behind go out.

Pure arithmetic: this file must never know torch, SGLang, a device or an allocation.
"""

from __future__ import annotations

from dataclasses import dataclass

from sglang_nemotron.config.decoder import DecoderSpec, check_parallel
from sglang_nemotron.config.layers import AttentionSpec, MambaSpec
from sglang_nemotron.family import BYTES_OF_DTYPE, STATE_DTYPES


@dataclass(frozen=True, slots=True)
class StateLayout:
    """What one rank keeps per slot (Mamba layers) and per token (attention layers). Made by `state_layout`.

    mamba_layers, attention_layers: the layers of this pipeline stage that own slots / pages, as indices of the model.
    conv_shape: (channels of this rank, W) per slot and layer; W = conv_width - 1 past inputs, oldest first.
    ssm_shape: (heads of this rank, head dim P, state size N) per slot and layer.
    kv_shape: (KV heads of this rank, head dim) per token and layer, once for K and once for V.
    All byte counts are of one rank.
    """

    tp_size: int
    mamba_layers: tuple[int, ...]
    attention_layers: tuple[int, ...]
    conv_shape: tuple[int, int]
    ssm_shape: tuple[int, int, int]
    kv_shape: tuple[int, int]
    conv_dtype: str
    ssm_dtype: str
    kv_dtype: str

    @property
    def conv_bytes_per_slot_layer(self) -> int:
        channels, width = self.conv_shape
        return channels * width * BYTES_OF_DTYPE[self.conv_dtype]

    @property
    def ssm_bytes_per_slot_layer(self) -> int:
        heads, head_dim, state = self.ssm_shape
        return heads * head_dim * state * BYTES_OF_DTYPE[self.ssm_dtype]

    @property
    def conv_bytes_per_slot(self) -> int:
        """Over all Mamba layers of the stage."""
        return self.conv_bytes_per_slot_layer * len(self.mamba_layers)

    @property
    def ssm_bytes_per_slot(self) -> int:
        """Over all Mamba layers of the stage."""
        return self.ssm_bytes_per_slot_layer * len(self.mamba_layers)

    @property
    def bytes_per_slot(self) -> int:
        return self.conv_bytes_per_slot + self.ssm_bytes_per_slot

    @property
    def kv_bytes_per_token_layer(self) -> int:
        """K and V together."""
        heads, head_dim = self.kv_shape
        return 2 * heads * head_dim * BYTES_OF_DTYPE[self.kv_dtype]

    @property
    def kv_bytes_per_token(self) -> int:
        """K and V together, over all attention layers of the stage."""
        return self.kv_bytes_per_token_layer * len(self.attention_layers)

    def total_bytes(self, *, num_slots: int, num_tokens: int) -> int:
        """Bytes of `num_slots` slots and `num_tokens` KV entries; padding slots and pages are the caller's to count."""
        if num_slots < 0 or num_tokens < 0:
            raise ValueError(f"num_slots={num_slots} and num_tokens={num_tokens} must not be negative")
        return num_slots * self.bytes_per_slot + num_tokens * self.kv_bytes_per_token

    def describe(self) -> str:
        """One line for people: what a slot and a token cost on one rank."""
        return (
            f"TP {self.tp_size}, per rank: slot {self.bytes_per_slot / 2**20:.2f} MiB over {len(self.mamba_layers)} "
            f"Mamba layers (ssm {self.ssm_shape} {self.ssm_dtype} {self.ssm_bytes_per_slot / 2**20:.2f} MiB, "
            f"conv {self.conv_shape} {self.conv_dtype} {self.conv_bytes_per_slot / 2**20:.2f} MiB); "
            f"token {self.kv_bytes_per_token / 2**10:.2f} KiB over {len(self.attention_layers)} attention layers "
            f"(K and V {self.kv_shape} {self.kv_dtype})"
        )


def state_layout(
    spec: DecoderSpec,
    *,
    tp_size: int,
    conv_dtype: str,
    ssm_dtype: str,
    kv_dtype: str,
    layers: range | None = None,
) -> StateLayout:
    """The layout of one rank of `tp_size`, for the pipeline stage that runs `layers` (all layers if None).

    Dtypes are plain names ("bfloat16", or "torch.bfloat16"). Above their number, KV heads and Mamba groups are
    replicated: a rank always holds at least one of each. Raises ValueError for an unknown dtype, for a stage outside
    the model, and for whatever `check_parallel` refuses.
    """
    check_parallel(spec, tp_size)
    stage = range(spec.num_layers) if layers is None else layers
    if stage and (min(stage) < 0 or max(stage) >= spec.num_layers):
        raise ValueError(f"layers={stage} reaches outside the model's {spec.num_layers} layers")
    conv_shape, ssm_shape = _slot_shapes(spec.find(MambaSpec), tp_size)
    return StateLayout(
        tp_size=tp_size,
        mamba_layers=tuple(i for i in spec.layers_of(MambaSpec) if i in stage),
        attention_layers=tuple(i for i in spec.layers_of(AttentionSpec) if i in stage),
        conv_shape=conv_shape,
        ssm_shape=ssm_shape,
        kv_shape=_page_shape(spec.find(AttentionSpec), tp_size),
        conv_dtype=_known("conv_dtype", conv_dtype, STATE_DTYPES),
        ssm_dtype=_known("ssm_dtype", ssm_dtype, STATE_DTYPES),
        kv_dtype=_known("kv_dtype", kv_dtype, tuple(BYTES_OF_DTYPE)),
    )


def _slot_shapes(mamba: MambaSpec | None, tp_size: int) -> tuple[tuple[int, int], tuple[int, int, int]]:
    """Convolution's window and recurrent state of one rank; nothing where there is no Mamba layer."""
    if mamba is None:
        return (0, 0), (0, 0, 0)
    groups = max(mamba.num_groups // tp_size, 1)
    channels = mamba.inner // tp_size + 2 * groups * mamba.state_size
    return (channels, mamba.conv_width - 1), (mamba.num_heads // tp_size, mamba.head_dim, mamba.state_size)


def _page_shape(attention: AttentionSpec | None, tp_size: int) -> tuple[int, int]:
    """KV heads of one rank and their size; nothing where there is no attention layer."""
    return (0, 0) if attention is None else (max(attention.num_kv_heads // tp_size, 1), attention.head_dim)


def _known(name: str, dtype: str, allowed: tuple[str, ...]) -> str:
    plain = str(dtype).removeprefix("torch.")
    if plain not in allowed:
        raise ValueError(f"{name}={dtype!r} is not supported; allowed: {', '.join(allowed)}")
    return plain
