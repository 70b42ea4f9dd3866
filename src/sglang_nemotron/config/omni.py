"""A Hugging Face config of Nemotron 3 Nano Omni (a dict or a config object) comes in; one frozen `OmniSpec` goes out.

The published keys and those that transformers writes are told apart here and in `towers.py`. This file must never
know SGLang, torch, a device, a tensor name or a context length that is served.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sglang_nemotron.config.decoder import DecoderSpec, decoder_spec, is_nano
from sglang_nemotron.config.towers import SOUND_KEYS, Part, SoundSpec, VisionSpec, sound_spec, vision_spec
from sglang_nemotron.config.values import ABSENT, count, flag
from sglang_nemotron.family import OMNI_MODEL_TYPES, TEXT_KEYS

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# what we implement of the outer fields that change the maths; None stands for a field that is absent or null
_IMPLEMENTED: dict[str, tuple[Any, ...]] = {
    "ps_version": ("v2", None),
    "downsample_ratio": (0.5, None),
    "image_tag_type": ("internvl", None),
    "video_temporal_patch_size": (2, None),
}
# 1 / downsample_ratio
_MERGE_SIZE = 2


@dataclass(frozen=True, slots=True)
class ImageRule:
    """How an image becomes patches. merge_size: patches per side of one token (1 / downsample_ratio).

    min_patches, max_patches: bounds of one image's grid before any context limit. mean, std: of pixels in 0..1, RGB.
    """

    patch_size: int
    merge_size: int
    min_patches: int
    max_patches: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class VideoRule:
    """How frames become tubelets. pruning_rate: the checkpoint's EVS rate q in [0, 1); 0 is off.

    target_patches: patches per frame to aim at. keep_aspect: if false, every grid is square.
    """

    patch_size: int
    merge_size: int
    target_patches: int
    keep_aspect: bool
    temporal_patch_size: int
    pruning_rate: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class SoundRule:
    """How samples become clips, mel frames and tokens. sample_rate in Hz.

    clip_seconds: how the model was trained and is served (facts of the reference, not a config field).
    """

    sample_rate: int
    num_mels: int
    subsampling_factor: int
    subsampling_kernel: int
    subsampling_stride: int
    clip_seconds: int = 30


@dataclass(frozen=True, slots=True)
class MediaTokens:
    """The strings and ids that mark media. Images and videos share `image_id`; `sound_id` is None without a tower.

    `video` is a template's word and no token of the vocabulary, whatever id a config may give it.
    """

    image: str
    image_start: str
    image_end: str
    sound: str
    sound_start: str
    sound_end: str
    video: str
    image_id: int
    sound_id: int | None


@dataclass(frozen=True, slots=True)
class OmniSpec:
    """The whole model. `sound` and `audio` are None for a checkpoint without a sound tower.

    projector_hidden_size: of the vision projector. projector_eps: of both projectors' RMSNorm; not in the config.
    max_sequence_length: what the outer config says, or None; the decoder's own limit is in `decoder`.
    """

    decoder: DecoderSpec
    vision: VisionSpec
    sound: SoundSpec | None
    image: ImageRule
    video: VideoRule
    audio: SoundRule | None
    tokens: MediaTokens
    projector_hidden_size: int
    max_sequence_length: int | None
    projector_eps: float = 1e-5

    @property
    def merged_size(self) -> int:
        """Channels after pixel shuffle: what the vision projector takes."""
        return self.vision.hidden_size * self.image.merge_size**2


def is_nano_omni(config: Mapping[str, Any] | object) -> str | None:
    """None if this config is an Omni config that we claim, else a short reason why it is left to SGLang's own class.

    Being claimed is not being supported: `omni_spec` still refuses a claimed config with maths we do not implement.
    """
    outer = Part("config", config)
    model_type = outer.get("model_type")
    if model_type is ABSENT or model_type not in OMNI_MODEL_TYPES:
        said = "absent" if model_type is ABSENT else repr(model_type)
        return f"model_type is {said}; ours is one of {OMNI_MODEL_TYPES}"
    if all(outer.get(name) is ABSENT for name in TEXT_KEYS):
        return f"it has no text config (one of {TEXT_KEYS})"
    return is_nano(config)


def omni_spec(config: Mapping[str, Any] | object) -> OmniSpec:
    """Reads everything that Omni needs out of a Hugging Face config, once.

    `config` is a parsed config.json, or any object with `to_dict()` or plain attributes, in the published spelling
    or in that of transformers' NemotronH_Omni_Reasoning_V3_Config. Raises ValueError naming the field, its value and
    what is allowed: for a missing size, for two statements that disagree, and for maths not implemented here.

    Read nowhere, because they do not change inference: force_image_size, use_thumbnail and preferred_resolution
    (superseded by the patch budget), template, video_context_token_id / video_token_id (outside the vocabulary),
    version, summary_idxs, image_size, dropouts, layerdrop, initializer_range, Parakeet's max_position_embeddings.
    """
    reason = is_nano_omni(config)
    if reason is not None:
        raise ValueError(f"not a Nemotron 3 Nano Omni config: {reason}")
    outer = Part("config", config)
    outer.check(_IMPLEMENTED)
    vision_part, sound_part = outer.part("vision_config"), outer.part(*SOUND_KEYS)
    if vision_part is None:
        raise ValueError("the config has no vision_config, which is required")
    vision = vision_spec(outer, vision_part)
    sound = None if sound_part is None else sound_spec(sound_part)
    return OmniSpec(
        decoder=decoder_spec(config),
        vision=vision,
        sound=sound,
        image=_image_rule(outer, vision_part, vision),
        video=_video_rule(outer, vision_part, vision),
        audio=None if sound is None else _sound_rule(sound),
        tokens=_media_tokens(outer, sound is not None),
        projector_hidden_size=outer.one(count, "projector_hidden_size"),
        max_sequence_length=outer.one(count, "max_sequence_length", default=None),
    )


def _image_rule(outer: Part, vision: Part, spec: VisionSpec) -> ImageRule:
    least = _patches(vision, "min_num_patches", 1024)
    most = _patches(vision, "max_num_patches", 13312)
    if least > most:
        raise ValueError(f"vision_config: min_num_patches={least} exceeds max_num_patches={most}")
    mean, std = _normalisation(outer, vision)
    return ImageRule(spec.patch_size, _MERGE_SIZE, least, most, mean, std)


def _patches(vision: Part, name: str, default: int) -> int:
    """The published file says it twice, beside `args` and inside."""
    args = vision.part("args") or Part("vision_config.args", {})
    value = vision.one(count, name, default=args.one(count, name, default=default))
    args.same(name, args.one(count, name, default=value), value)
    return value


def _video_rule(outer: Part, vision: Part, spec: VisionSpec) -> VideoRule:
    mean, std = _normalisation(outer, vision)
    return VideoRule(
        patch_size=spec.patch_size,
        merge_size=_MERGE_SIZE,
        target_patches=vision.one(count, "video_target_num_patches", default=1024),
        keep_aspect=vision.one(flag, "video_maintain_aspect_ratio", default=True),
        temporal_patch_size=spec.temporal_patch_size,
        pruning_rate=outer.one(_rate, "video_pruning_rate", default=0.0),
        mean=mean,
        std=std,
    )


def _sound_rule(spec: SoundSpec) -> SoundRule:
    return SoundRule(
        sample_rate=spec.sample_rate,
        num_mels=spec.num_mels,
        subsampling_factor=spec.subsampling_factor,
        subsampling_kernel=spec.subsampling_kernel,
        subsampling_stride=spec.subsampling_stride,
    )


def _normalisation(outer: Part, vision: Part) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    mean = outer.one(_triple, "norm_mean", default=vision.one(_triple, "norm_mean", default=_CLIP_MEAN))
    std = outer.one(_triple, "norm_std", default=vision.one(_triple, "norm_std", default=_CLIP_STD))
    if min(std) <= 0:
        raise ValueError(f"norm_std={std!r} is not supported; allowed: three positive numbers")
    return mean, std


def _media_tokens(outer: Part, has_sound: bool) -> MediaTokens:
    sound_id = outer.one(_token_id, "sound_context_token_id", "audio_token_id", default=None)
    if has_sound and sound_id is None:
        raise ValueError("the config has no sound_context_token_id (also spelt audio_token_id), which is required")
    return MediaTokens(
        image=outer.one(_text, "img_context_token", default="<image>"),
        image_start=outer.one(_text, "img_start_token", default="<img>"),
        image_end=outer.one(_text, "img_end_token", default="</img>"),
        sound=outer.one(_text, "sound_context_token", default="<so_embedding>"),
        # the published config has no field for these two; they are entries of the tokenizer
        sound_start="<so_start>",
        sound_end="<so_end>",
        video=outer.one(_text, "video_context_token", default="<video>"),
        image_id=outer.one(_token_id, "img_context_token_id", "image_token_id"),
        sound_id=sound_id if has_sound else None,
    )


def _token_id(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name}={value!r} is not supported; allowed: a token id, 0 or more")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name}={value!r} is not supported; allowed: a string that is not empty")
    return value


def _rate(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{name}={value!r} is not supported; allowed: 0 (off) up to but not including 1")
    return float(value)


def _triple(name: str, value: Any) -> tuple[float, float, float]:
    """One number per colour channel."""
    numbers = value if isinstance(value, list | tuple) else ()
    if len(numbers) != 3 or not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
        raise ValueError(f"{name}={value!r} is not supported; allowed: three numbers")
    red, green, blue = (float(n) for n in numbers)
    return red, green, blue


def omni_spec_of(config: Any) -> OmniSpec:
    """The spec of any Omni config object SGLang hands a model: ours, or one that somebody else built."""
    spec = getattr(config, "omni_spec", None)
    return spec if spec is not None else omni_spec(config)
