"""The `vision_config` and `sound_config` of an Omni config come in; `VisionSpec` and `SoundSpec` go out.

Published keys come first (`args.model` of timm, registers per teacher), transformers' spellings else. This file must
never know SGLang, torch, a device or a tensor name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sglang_nemotron.config.values import ABSENT, Fields, count, count_or_zero, flag, positive

SOUND_KEYS = ("sound_config", "audio_config")

# timm's names, as in `vision_config.args.model` -> hidden size, layers, heads, ffn size
TOWERS = {
    "vit_base_patch16_224": (768, 12, 12, 3072),
    "vit_large_patch16_224": (1024, 24, 16, 4096),
    "vit_huge_patch16_224": (1280, 32, 16, 5120),
}

# what we implement of the fields that change the maths; None stands for a field that is absent or null
_VISION_IMPLEMENTED: dict[str, tuple[Any, ...]] = {
    "model_type": ("radio", None),
    "hidden_act": ("gelu", None),
    "use_swiglu_ffn": (False, None),
    "qkv_bias": (True, None),
    "layerscale_value": (1.0, None),
    "num_channels": (3, None),
    "vitdet_window_size": (None,),
    "separate_video_embedder": (True, None),
    "video_prompt_version": (2, None),
    "video_temporal_patch_size": (2, None),
}
_SOUND_IMPLEMENTED: dict[str, tuple[Any, ...]] = {
    "model_type": ("parakeet", "parakeet_encoder", None),
    "hidden_act": ("silu", None),
    "subsampling_conv_stride": (2, None),
}


class Part(Fields):
    """One part of a config; complaints about its values name the part as well."""

    def __init__(self, name: str, config: Mapping[str, Any] | object) -> None:
        super().__init__(config)
        self.name = name

    def one(self, convert: Callable[[str, Any], Any], *names: str, default: Any = ABSENT) -> Any:
        try:
            return super().one(convert, *names, default=default)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None

    def part(self, *names: str) -> Part | None:
        """The one nested part under any of these names, or None; ValueError if two of them differ."""
        found = {name: value for name in names if (value := self.get(name)) is not ABSENT}
        if not found:
            return None
        first, *others = (value.to_dict() if hasattr(value, "to_dict") else value for value in found.values())
        if any(other != first for other in others):
            raise ValueError(f"the config contradicts itself: {' and '.join(names)} differ; keep one of them")
        name, value = next(iter(found.items()))
        if isinstance(value, str | int | float | list | tuple):
            raise ValueError(f"{name}={value!r} is not supported; allowed: an object of fields")
        return Part(f"{self.name}.{name}" if self.name != "config" else name, value)

    def check(self, implemented: Mapping[str, tuple[Any, ...]]) -> None:
        try:
            super().check(implemented)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None

    def same(self, name: str, value: Any, wanted: Any) -> None:
        if value != wanted:
            raise ValueError(
                f"the config contradicts itself: {self.name}: {name}={value!r}, but {wanted!r} by its other fields"
            )


@dataclass(frozen=True, slots=True)
class VisionSpec:
    """The RADIO tower as numbers, whole model.

    num_prefix_tokens: class and register tokens in front of the patches, dropped at the end (10 as published).
    position_grid: side of the square grid of stored position embeddings, in patches (128).
    temporal_patch_size: frames that the video embedder turns into one tubelet (2).
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    patch_size: int
    num_prefix_tokens: int
    position_grid: int
    norm_eps: float
    temporal_patch_size: int

    @property
    def patch_dim(self) -> int:
        """Numbers in one image patch: 3 channels times patch_size squared."""
        return 3 * self.patch_size**2


@dataclass(frozen=True, slots=True)
class SoundSpec:
    """The Parakeet encoder (FastConformer) as numbers, whole model.

    conv_kernel: taps of the depthwise convolution, odd. attention_bias also stands for the feed-forward biases.
    scale_input: whether embeddings are multiplied by sqrt(hidden_size) before the first block.
    subsampling_*: log2(factor) convolutions, each halving time and mel bins.
    norm_eps: of the LayerNorms and of BatchNorm; the config does not hold it.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    conv_kernel: int
    conv_bias: bool
    attention_bias: bool
    scale_input: bool
    subsampling_factor: int
    subsampling_channels: int
    subsampling_kernel: int
    subsampling_stride: int
    num_mels: int
    sample_rate: int
    projection_hidden_size: int
    projection_bias: bool
    norm_eps: float = 1e-5

    @property
    def num_subsamplings(self) -> int:
        return self.subsampling_factor.bit_length() - 1


def vision_spec(outer: Part, vision: Part) -> VisionSpec:
    """The tower of `vision_config`; `outer` is the whole config, which repeats some of its numbers."""
    vision.check(_VISION_IMPLEMENTED)
    args = vision.part("args") or Part("vision_config.args", {})
    hidden_size, num_layers, num_heads, intermediate_size = _tower_sizes(vision, args)
    said = outer.one(count, "vit_hidden_size", "vision_hidden_size", default=hidden_size)
    outer.same("vit_hidden_size", said, hidden_size)
    if hidden_size % num_heads:
        raise ValueError(f"vision_config: hidden_size={hidden_size} is no multiple of num_attention_heads={num_heads}")
    patch_size = vision.one(count, "patch_size", default=outer.one(count, "patch_size", default=16))
    outer.same("patch_size", outer.one(count, "patch_size", default=patch_size), patch_size)
    # the largest image is as large as the stored grid where nothing is said of the grid itself
    largest = vision.one(count, "max_resolution", default=2048)
    pixels = args.one(count, "cpe_max_size", default=vision.one(count, "max_img_size", default=largest))
    vision.same("max_img_size", vision.one(count, "max_img_size", default=pixels), pixels)
    if pixels % patch_size:
        raise ValueError(
            f"vision_config: cpe_max_size={pixels} (or max_img_size) is no multiple of patch_size={patch_size}"
        )
    return VisionSpec(
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        intermediate_size=intermediate_size,
        patch_size=patch_size,
        num_prefix_tokens=_prefix_tokens(vision, args),
        position_grid=pixels // patch_size,
        norm_eps=vision.one(positive, "layer_norm_eps", default=1e-6),
        temporal_patch_size=2,
    )


def _tower_sizes(vision: Part, args: Part) -> tuple[int, int, int, int]:
    """By the published `args.model` where it stands, else by transformers' spellings."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    model = args.get("model")
    if model is not ABSENT:
        if not isinstance(model, str) or model not in TOWERS:
            raise ValueError(f"{args.name}: model={model!r} is not supported; allowed: {sorted(TOWERS)}")
        sizes = TOWERS[model]
        for name, published in zip(names, sizes, strict=True):
            vision.same(name, vision.one(count, name, default=published), published)
    else:
        hidden, layers, heads = (vision.one(count, name) for name in names[:3])
        # transformers writes a ratio in place of the size
        by_ratio = int(hidden * vision.one(positive, "mlp_ratio", default=4.0))
        sizes = (hidden, layers, heads, vision.one(count, "intermediate_size", default=by_ratio))
    ratio = vision.one(positive, "mlp_ratio", default=None)
    if ratio is not None:
        vision.same("mlp_ratio times hidden_size", int(ratio * sizes[0]), sizes[3])
    return sizes


def _prefix_tokens(vision: Part, args: Part) -> int:
    """RADIO pads its class tokens (one per teacher) with registers to the next multiple."""
    multiple = args.one(count, "register_multiple", default=None)
    if multiple is None:
        return vision.one(count, "num_cls_tokens", default=3) + vision.one(count_or_zero, "num_registers", default=7)
    num_cls = 1
    if args.one(flag, "cls_token_per_teacher", default=False):
        teachers = args.get("teachers")
        names = (
            [t.get("name") for t in teachers if isinstance(t, Mapping)] if isinstance(teachers, list | tuple) else []
        )
        if not names or len(names) != len(teachers) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{args.name}: teachers={teachers!r} is not supported; allowed: a list of named objects")
        num_cls = len(set(names))
    return num_cls + multiple - num_cls % multiple


def sound_spec(fields: Part) -> SoundSpec:
    """The encoder of `sound_config` (transformers: `audio_config`)."""
    fields.check(_SOUND_IMPLEMENTED)
    spec = SoundSpec(
        hidden_size=fields.one(count, "hidden_size"),
        num_layers=fields.one(count, "num_hidden_layers"),
        num_heads=fields.one(count, "num_attention_heads"),
        intermediate_size=fields.one(count, "intermediate_size"),
        conv_kernel=fields.one(count, "conv_kernel_size", default=9),
        # the published file is silent about the last two and means false, where ParakeetEncoderConfig would say true
        conv_bias=fields.one(flag, "convolution_bias", default=True),
        attention_bias=fields.one(flag, "attention_bias", default=False),
        scale_input=fields.one(flag, "scale_input", default=False),
        subsampling_factor=fields.one(count, "subsampling_factor", default=8),
        subsampling_channels=fields.one(count, "subsampling_conv_channels", default=256),
        subsampling_kernel=fields.one(count, "subsampling_conv_kernel_size", default=3),
        subsampling_stride=fields.one(count, "subsampling_conv_stride", default=2),
        num_mels=fields.one(count, "num_mel_bins", default=80),
        sample_rate=fields.one(count, "sampling_rate", default=16000),
        projection_hidden_size=fields.one(count, "projection_hidden_size"),
        projection_bias=fields.one(flag, "projection_bias", default=False),
    )
    fields.same("num_key_value_heads", fields.one(count, "num_key_value_heads", default=spec.num_heads), spec.num_heads)
    for name, value in (
        ("conv_kernel_size", spec.conv_kernel),
        ("subsampling_conv_kernel_size", spec.subsampling_kernel),
    ):
        if value % 2 == 0:
            raise ValueError(f"{fields.name}: {name}={value} is not supported; allowed: an odd number")
    factor = spec.subsampling_factor
    if factor & (factor - 1) or factor < 2 or spec.num_mels % factor:
        raise ValueError(
            f"{fields.name}: subsampling_factor={factor} is not supported; allowed: a power of two from 2 that divides "
            f"num_mel_bins={spec.num_mels}"
        )
    if spec.hidden_size % spec.num_heads or spec.hidden_size % 2:
        raise ValueError(
            f"{fields.name}: hidden_size={spec.hidden_size} is not supported; allowed: an even multiple of "
            f"num_attention_heads={spec.num_heads}"
        )
    return spec
