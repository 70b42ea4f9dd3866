"""The published Omni config, transformers' spelling of it and tiny ones give the specs they mean, or are refused."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_nemotron.config.decoder import decoder_spec
from sglang_nemotron.config.omni import (
    ImageRule,
    MediaTokens,
    OmniSpec,
    SoundRule,
    VideoRule,
    is_nano_omni,
    omni_spec,
)
from sglang_nemotron.config.towers import TOWERS, SoundSpec, VisionSpec
from sglang_nemotron.family import OMNI_MODEL_TYPES

PUBLISHED: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data" / "nano-omni-30b-a3b.config.json").read_text()
)

CLIP = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}
PUBLISHED_SPEC = OmniSpec(
    decoder=decoder_spec(PUBLISHED),
    vision=VisionSpec(
        hidden_size=1280,
        num_layers=32,
        num_heads=16,
        intermediate_size=5120,
        patch_size=16,
        num_prefix_tokens=10,
        position_grid=128,
        norm_eps=1e-6,
        temporal_patch_size=2,
    ),
    sound=SoundSpec(
        hidden_size=1024,
        num_layers=24,
        num_heads=8,
        intermediate_size=4096,
        conv_kernel=9,
        conv_bias=False,
        attention_bias=False,
        scale_input=False,
        subsampling_factor=8,
        subsampling_channels=256,
        subsampling_kernel=3,
        subsampling_stride=2,
        num_mels=128,
        sample_rate=16000,
        projection_hidden_size=4096,
        projection_bias=False,
    ),
    image=ImageRule(patch_size=16, merge_size=2, min_patches=1024, max_patches=13312, **CLIP),
    video=VideoRule(
        patch_size=16,
        merge_size=2,
        target_patches=1024,
        keep_aspect=True,
        temporal_patch_size=2,
        pruning_rate=0.7,
        **CLIP,
    ),
    audio=SoundRule(sample_rate=16000, num_mels=128, subsampling_factor=8, subsampling_kernel=3, subsampling_stride=2),
    tokens=MediaTokens(
        image="<image>",
        image_start="<img>",
        image_end="</img>",
        sound="<so_embedding>",
        sound_start="<so_start>",
        sound_end="<so_end>",
        video="<video>",
        image_id=18,
        sound_id=27,
    ),
    projector_hidden_size=20480,
    max_sequence_length=131072,
)


def published(*drop: str, **change: Any) -> dict[str, Any]:
    """The published file; names may be dotted (in `change` with two underscores)."""
    config = copy.deepcopy(PUBLISHED)
    for name in drop:
        *path, last = name.split(".")
        del functools.reduce(dict.__getitem__, path, config)[last]
    for name, value in change.items():
        *path, last = name.split("__")
        functools.reduce(dict.__getitem__, path, config)[last] = value
    return config


def tiny(*drop: str, **change: Any) -> dict[str, Any]:
    """A checkpoint without the published names of sizes: what is left is spelt as transformers spells it."""
    config = published("vision_config.args", "vit_hidden_size")
    config["vision_config"] |= {
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 96,
    }
    config |= {"projector_hidden_size": 80}
    nested = {name: value for name, value in change.items() if "__" in name}
    config |= {name: value for name, value in change.items() if "__" not in name}
    for name, value in nested.items():
        part, last = name.split("__")
        config[part][last] = value
    for name in drop:
        *path, last = name.split(".")
        del functools.reduce(dict.__getitem__, path, config)[last]
    return config


def changed(before: OmniSpec, after: OmniSpec) -> set[str]:
    """Dotted names of the fields that differ."""
    names = set()
    for field in dataclasses.fields(OmniSpec):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if dataclasses.is_dataclass(old) and dataclasses.is_dataclass(new):
            inner = dataclasses.fields(old)
            names |= {f"{field.name}.{f.name}" for f in inner if getattr(old, f.name) != getattr(new, f.name)}
        elif old != new:
            names.add(field.name)
    return names


# ---- the published file ---------------------------------------------------------------------------------------------


def test_published_config() -> None:
    before = copy.deepcopy(PUBLISHED)
    assert omni_spec(PUBLISHED) == PUBLISHED_SPEC
    assert before == PUBLISHED
    assert is_nano_omni(PUBLISHED) is None
    assert PUBLISHED_SPEC.merged_size == 5120
    assert PUBLISHED_SPEC.vision.patch_dim == 768
    assert PUBLISHED_SPEC.sound is not None and PUBLISHED_SPEC.sound.num_subsamplings == 3
    assert PUBLISHED_SPEC.audio is not None and PUBLISHED_SPEC.audio.clip_seconds == 30
    assert PUBLISHED_SPEC.projector_eps == 1e-5


def test_spec_is_a_frozen_key() -> None:
    assert {PUBLISHED_SPEC: 1}[omni_spec(PUBLISHED)] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        PUBLISHED_SPEC.projector_hidden_size = 1  # type: ignore[misc]


def test_parameter_counts_by_part() -> None:
    """The modules that the specs make are as large as the published parts, to the parameter."""
    from sglang_nemotron.encoders.project import Projector
    from sglang_nemotron.encoders.sound import SoundEncoder
    from sglang_nemotron.encoders.vision import VisionTower

    spec, sound = PUBLISHED_SPEC, PUBLISHED_SPEC.sound
    assert sound is not None
    hidden, eps = spec.decoder.hidden_size, spec.projector_eps
    with torch.device("meta"):
        parts = {
            "vision": VisionTower(spec.vision),
            "mlp1": Projector(spec.merged_size, spec.projector_hidden_size, hidden, eps=eps),
            "sound": SoundEncoder(sound),
            "sound_projection": Projector(sound.hidden_size, sound.projection_hidden_size, hidden, eps=eps),
        }
    found = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    # transformers' tower has 64 LayerScale vectors of 1280 that the checkpoint lacks
    assert found["vision"] + 64 * 1280 == 653_693_440
    assert found["mlp1"] == 159_912_960
    # parameters alone: BatchNorm's statistics are buffers
    assert found["sound"] == 608_879_616
    assert found["sound_projection"] == 15_205_376
    assert 31_577_937_344 + sum(found.values()) == 33_015_546_816
    # the published census: 713 tensors of sound less the two of its feature extractor; 393 of vision less the two
    # of its input conditioner
    tensors = {name: len(part.state_dict()) for name, part in parts.items()}
    assert tensors["sound"] + tensors["sound_projection"] == 713 - 2
    assert tensors["vision"] + tensors["mlp1"] == 393 - 2


# ---- transformers' spelling -----------------------------------------------------------------------------------------


def transformers_config(config: dict[str, Any]) -> Any:
    from transformers.models.nemotron_h_omni.configuration_nemotron_h_omni import NemotronH_Omni_Reasoning_V3_Config

    return NemotronH_Omni_Reasoning_V3_Config(**{k: v for k, v in config.items() if k != "model_type"})


def test_transformers_config_object_and_its_file(tmp_path: Path) -> None:
    config = transformers_config(published())
    assert is_nano_omni(config) is None
    assert omni_spec(config) == PUBLISHED_SPEC
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    # other names, the same meaning
    assert written["model_type"] == "nemotron_h_omni"
    assert not {"llm_config", "sound_config", "vit_hidden_size", "img_context_token_id"} & written.keys()
    assert omni_spec(written) == PUBLISHED_SPEC
    assert omni_spec(config.to_dict()) == PUBLISHED_SPEC


def test_sizes_without_published_names(tmp_path: Path) -> None:
    """What transformers writes when it was told sizes, not a timm model: no key of the published vision_config."""
    vision = {
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "mlp_ratio": 1.5,
        "patch_size": 8,
        "max_img_size": 96,
        "num_cls_tokens": 2,
        "num_registers": 5,
        "video_temporal_patch_size": 2,
        "layer_norm_eps": 1e-5,
    }
    config = published("vit_hidden_size", "patch_size", vision_config=vision, vision_hidden_size=64)
    transformers_config(config).save_pretrained(tmp_path)
    spec = omni_spec(json.loads((tmp_path / "config.json").read_text()))
    assert spec.vision == VisionSpec(64, 3, 4, 96, 8, 7, 12, 1e-5, 2)
    assert spec.vision == omni_spec(config).vision
    assert (spec.image.patch_size, spec.image.min_patches, spec.image.max_patches) == (8, 1024, 13312)
    assert (spec.video.patch_size, spec.video.target_patches, spec.video.keep_aspect) == (8, 1024, True)


def test_intermediate_size_or_its_ratio() -> None:
    assert omni_spec(tiny()).vision.intermediate_size == 96
    assert omni_spec(tiny(vision_config__mlp_ratio=1.5)).vision.intermediate_size == 96
    assert omni_spec(tiny("vision_config.intermediate_size")).vision.intermediate_size == 256
    with pytest.raises(ValueError, match="mlp_ratio times hidden_size=256, but 96"):
        omni_spec(tiny(vision_config__mlp_ratio=4.0))
    with pytest.raises(ValueError, match="mlp_ratio times hidden_size=2560, but 5120"):
        omni_spec(published(vision_config__mlp_ratio=2.0))


ALIASES = [
    ("llm_config", "text_config"),
    ("sound_config", "audio_config"),
    ("img_context_token_id", "image_token_id"),
    ("sound_context_token_id", "audio_token_id"),
    ("vit_hidden_size", "vision_hidden_size"),
]


@pytest.mark.parametrize(("usual", "alias"), ALIASES)
def test_alias_reads_the_same_and_must_agree(usual: str, alias: str) -> None:
    value = PUBLISHED[usual]
    assert omni_spec(published(usual, **{alias: value})) == PUBLISHED_SPEC
    assert omni_spec(published(**{alias: copy.deepcopy(value)})) == PUBLISHED_SPEC
    other = {**value, "hidden_size": 64} if isinstance(value, dict) else value + 1
    with pytest.raises(ValueError, match="contradicts itself") as caught:
        omni_spec(published(**{alias: other}))
    assert usual in str(caught.value) and alias in str(caught.value)


def test_plain_attributes() -> None:
    config = SimpleNamespace(**published())
    for name in ("vision_config", "sound_config", "llm_config"):
        setattr(config, name, SimpleNamespace(**getattr(config, name)))
    config.vision_config.args = SimpleNamespace(**config.vision_config.args)
    assert omni_spec(config) == PUBLISHED_SPEC
    assert is_nano_omni(config) is None


# ---- every field ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "fields"),
    [
        ("projector_hidden_size", 64, {"projector_hidden_size"}),
        ("max_sequence_length", 64, {"max_sequence_length"}),
        ("video_pruning_rate", 0, {"video.pruning_rate"}),
        ("norm_mean", [0.0, 0.5, 1], {"image.mean", "video.mean"}),
        ("norm_std", [1, 2, 3], {"image.std", "video.std"}),
        ("img_context_token", "<a>", {"tokens.image"}),
        ("img_start_token", "<a>", {"tokens.image_start"}),
        ("img_end_token", "<a>", {"tokens.image_end"}),
        ("sound_context_token", "<a>", {"tokens.sound"}),
        ("video_context_token", "<a>", {"tokens.video"}),
        ("img_context_token_id", 0, {"tokens.image_id"}),
        ("sound_context_token_id", 5, {"tokens.sound_id"}),
        ("vision_config__layer_norm_eps", 1e-5, {"vision.norm_eps"}),
        ("vision_config__video_target_num_patches", 256, {"video.target_patches"}),
        ("vision_config__video_maintain_aspect_ratio", False, {"video.keep_aspect"}),
        ("vision_config__args__cpe_max_size", 1024, {"vision.position_grid"}),
        ("vision_config__args__register_multiple", 7, {"vision.num_prefix_tokens"}),
        ("sound_config__hidden_size", 512, {"sound.hidden_size"}),
        ("sound_config__num_hidden_layers", 2, {"sound.num_layers"}),
        ("sound_config__num_attention_heads", 4, {"sound.num_heads"}),
        ("sound_config__intermediate_size", 100, {"sound.intermediate_size"}),
        ("sound_config__conv_kernel_size", 5, {"sound.conv_kernel"}),
        ("sound_config__convolution_bias", True, {"sound.conv_bias"}),
        ("sound_config__attention_bias", True, {"sound.attention_bias"}),
        ("sound_config__scale_input", True, {"sound.scale_input"}),
        ("sound_config__subsampling_conv_channels", 8, {"sound.subsampling_channels"}),
        ("sound_config__projection_hidden_size", 8, {"sound.projection_hidden_size"}),
        ("sound_config__projection_bias", True, {"sound.projection_bias"}),
        ("sound_config__num_mel_bins", 64, {"sound.num_mels", "audio.num_mels"}),
        ("sound_config__sampling_rate", 8000, {"sound.sample_rate", "audio.sample_rate"}),
        (
            "sound_config__subsampling_factor",
            4,
            {"sound.subsampling_factor", "audio.subsampling_factor"},
        ),
        (
            "sound_config__subsampling_conv_kernel_size",
            5,
            {"sound.subsampling_kernel", "audio.subsampling_kernel"},
        ),
        ("force_image_size", 448, set()),
        ("use_thumbnail", False, set()),
        ("template", "x", set()),
        ("video_context_token_id", 3, set()),
        ("vision_config__preferred_resolution", [1, 1], set()),
        ("vision_config__version", "x", set()),
        ("vision_config__summary_idxs", [3], set()),
        ("sound_config__dropout", 0.5, set()),
        ("sound_config__max_position_embeddings", 10, set()),
    ],
)
def test_every_field_is_read_from_its_own_name(name: str, value: Any, fields: set[str]) -> None:
    assert changed(PUBLISHED_SPEC, omni_spec(published(**{name: value}))) == fields


def test_patch_size_and_budgets_are_said_twice() -> None:
    config = published(patch_size=8, vision_config__patch_size=8)
    assert changed(PUBLISHED_SPEC, omni_spec(config)) == {
        "vision.patch_size",
        "vision.position_grid",
        "image.patch_size",
        "video.patch_size",
    }
    for name, field in (("min_num_patches", "image.min_patches"), ("max_num_patches", "image.max_patches")):
        both = {f"vision_config__{name}": 2048, f"vision_config__args__{name}": 2048}
        assert changed(PUBLISHED_SPEC, omni_spec(published(**both))) == {field}
        with pytest.raises(ValueError, match=f"vision_config.args: {name}="):
            omni_spec(published(**{f"vision_config__{name}": 2048}))
        assert omni_spec(published(f"vision_config.{name}")) == PUBLISHED_SPEC
        assert omni_spec(published(f"vision_config.args.{name}")) == PUBLISHED_SPEC


@pytest.mark.parametrize("name", TOWERS)
def test_towers_by_their_published_name(name: str) -> None:
    config = published("vit_hidden_size", vision_config__args__model=name)
    vision = omni_spec(config).vision
    assert (vision.hidden_size, vision.num_layers, vision.num_heads, vision.intermediate_size) == TOWERS[name]


def test_defaults_of_a_silent_file() -> None:
    silent = published(
        "patch_size", "norm_mean", "norm_std", "video_pruning_rate", "max_sequence_length", "downsample_ratio",
        "ps_version", "image_tag_type", "img_context_token", "img_start_token", "img_end_token",
        "sound_context_token", "video_context_token", "video_temporal_patch_size", "vit_hidden_size",
        "vision_config.patch_size", "vision_config.min_num_patches", "vision_config.max_num_patches",
        "vision_config.args.min_num_patches", "vision_config.args.max_num_patches",
        "vision_config.args.cpe_max_size", "vision_config.max_resolution",
        "vision_config.video_target_num_patches", "vision_config.video_maintain_aspect_ratio",
        "vision_config.video_temporal_patch_size", "vision_config.separate_video_embedder",
        "sound_config.model_type", "sound_config.conv_kernel_size", "sound_config.subsampling_factor",
        "sound_config.subsampling_conv_channels", "sound_config.subsampling_conv_kernel_size",
        "sound_config.subsampling_conv_stride", "sound_config.sampling_rate", "sound_config.projection_bias",
    )  # fmt: skip
    assert changed(PUBLISHED_SPEC, omni_spec(silent)) == {"video.pruning_rate", "max_sequence_length"}
    assert omni_spec(silent).video.pruning_rate == 0.0
    assert omni_spec(silent).max_sequence_length is None


def test_three_names_of_the_stored_grid() -> None:
    def side(**change: int) -> int:
        return omni_spec(
            tiny(**{f"vision_config__{name}": value for name, value in change.items()})
        ).vision.position_grid

    assert side(max_resolution=512) == 32
    assert side(max_img_size=512, max_resolution=1024) == 32
    assert omni_spec(published(vision_config__max_resolution=512)) == PUBLISHED_SPEC


def test_normalisation_may_stand_in_the_vision_config() -> None:
    config = published("norm_mean", "norm_std", vision_config__norm_mean=[1, 2, 3], vision_config__norm_std=[4, 5, 6])
    assert (omni_spec(config).image.mean, omni_spec(config).video.std) == ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))


def test_without_sound() -> None:
    for config in (published("sound_config"), published("sound_config", "sound_context_token_id")):
        spec = omni_spec(config)
        assert changed(PUBLISHED_SPEC, spec) == {"sound", "audio", "tokens.sound_id"}
        assert (spec.sound, spec.audio, spec.tokens.sound_id) == (None, None, None)
    assert omni_spec(published(sound_config=None)) == spec


def test_prefix_tokens() -> None:
    def tokens(**change: Any) -> int:
        return omni_spec(
            published(**{f"vision_config__args__{k}": v for k, v in change.items()})
        ).vision.num_prefix_tokens

    assert tokens(cls_token_per_teacher=False) == 10
    assert tokens(register_multiple=4) == 8
    assert tokens(register_multiple=1) == 5
    assert tokens(teachers=[{"name": "a"}, {"name": "b"}, {"name": "a"}], register_multiple=3) == 3
    for wrong in (3, [], ["clip"], [{"name": "a"}, {}], [{"name": ["a"]}]):
        with pytest.raises(ValueError, match=r"vision_config.args: teachers=.* is not supported"):
            tokens(teachers=wrong)


# ---- claimed or not -------------------------------------------------------------------------------------------------


def test_claimed_types() -> None:
    for model_type in OMNI_MODEL_TYPES:
        assert is_nano_omni(published(model_type=model_type)) is None
    text = PUBLISHED["llm_config"]
    others: list[tuple[dict[str, Any], str]] = [
        (published(model_type="NemotronH_Nano_VL_V2"), "NemotronH_Nano_VL_V2"),
        (published(model_type="NemotronH_Super_Omni_Reasoning_V3"), "NemotronH_Super_Omni_Reasoning_V3"),
        (published("model_type"), "absent"),
        (published("llm_config"), "no text config"),
        (text, "'nemotron_h'"),
        (published(llm_config__moe_latent_size=1024), "latent"),
        (published(llm_config__num_nextn_predict_layers=1), "num_nextn_predict_layers"),
        (published(llm_config__model_type="nemotron_h_puzzle"), "nemotron_h_puzzle"),
        (published(llm_config__block_configs=[{}]), "Puzzle"),
        (published("llm_config.model_type"), "model_type is absent"),
    ]
    for config, reason in others:
        assert reason in (is_nano_omni(config) or ""), reason
        with pytest.raises(ValueError, match="not a Nemotron 3 Nano Omni config"):
            omni_spec(config)


# ---- refused by name ------------------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"ps_version": "v1"}, r"config: ps_version='v1' is not supported; allowed: 'v2'"),
    ({"downsample_ratio": 0.25}, r"downsample_ratio=0.25 is not supported; allowed: 0.5"),
    ({"image_tag_type": "x"}, r"image_tag_type='x'"),
    ({"video_temporal_patch_size": 1}, r"config: video_temporal_patch_size=1 is not supported; allowed: 2"),
    ({"video_pruning_rate": 1}, r"video_pruning_rate=1 is not supported; allowed: 0 \(off\)"),
    ({"video_pruning_rate": -0.1}, r"video_pruning_rate=-0.1"),
    ({"video_pruning_rate": True}, r"video_pruning_rate=True"),
    ({"video_pruning_rate": math.nan}, r"video_pruning_rate=nan"),
    ({"norm_mean": [1, 2]}, r"norm_mean=\[1, 2\] is not supported; allowed: three numbers"),
    ({"norm_mean": 0.5}, r"norm_mean=0.5"),
    ({"norm_mean": [1, 2, "x"]}, r"norm_mean=\[1, 2, 'x'\]"),
    ({"norm_std": [1, 2, math.inf]}, r"norm_std"),
    ({"norm_std": [1, 2, 0]}, r"norm_std=\(1.0, 2.0, 0.0\) is not supported; allowed: three positive numbers"),
    ({"img_context_token": ""}, r"img_context_token='' is not supported; allowed: a string"),
    ({"img_context_token_id": -1}, r"img_context_token_id=-1 is not supported; allowed: a token id"),
    ({"img_context_token_id": "18"}, r"img_context_token_id='18'"),
    ({"img_context_token_id": None}, r"no img_context_token_id \(also spelt image_token_id\)"),
    ({"sound_context_token_id": None}, r"no sound_context_token_id \(also spelt audio_token_id\)"),
    ({"sound_context_token_id": True}, r"sound_context_token_id=True"),
    ({"projector_hidden_size": None}, r"no projector_hidden_size"),
    ({"projector_hidden_size": 1.5}, r"projector_hidden_size=1.5 is not supported; allowed: a positive integer"),
    ({"vision_config": None}, r"no vision_config"),
    ({"vision_config": "radio"}, r"vision_config='radio' is not supported; allowed: an object of fields"),
    ({"vision_config__args": [1]}, r"args=\[1\] is not supported; allowed: an object of fields"),
    ({"vision_config__args__model": []}, r"vision_config.args: model=\[\]"),
    ({"sound_config": 5}, r"sound_config=5 is not supported; allowed: an object of fields"),
    ({"vit_hidden_size": 64}, r"vit_hidden_size=64, but 1280"),
    ({"patch_size": 14}, r"patch_size=14, but 16"),
    ({"vision_config__model_type": "siglip"}, r"vision_config: model_type='siglip' .* allowed: 'radio'"),
    ({"vision_config__hidden_act": "relu"}, r"vision_config: hidden_act='relu'"),
    ({"vision_config__use_swiglu_ffn": True}, r"vision_config: use_swiglu_ffn=True"),
    ({"vision_config__qkv_bias": False}, r"vision_config: qkv_bias=False"),
    ({"vision_config__layerscale_value": 0.1}, r"vision_config: layerscale_value=0.1"),
    ({"vision_config__num_channels": 1}, r"vision_config: num_channels=1"),
    ({"vision_config__vitdet_window_size": 8}, r"vision_config: vitdet_window_size=8 .* allowed: null"),
    ({"vision_config__separate_video_embedder": False}, r"vision_config: separate_video_embedder=False"),
    ({"vision_config__video_prompt_version": 1}, r"vision_config: video_prompt_version=1"),
    ({"vision_config__video_temporal_patch_size": 4}, r"vision_config: video_temporal_patch_size=4"),
    ({"vision_config__hidden_size": 64}, r"vision_config: hidden_size=64, but 1280"),
    ({"vision_config__num_hidden_layers": 0}, r"vision_config: num_hidden_layers=0 is not supported"),
    ({"vision_config__max_img_size": 1024}, r"vision_config: max_img_size=1024, but 2048"),
    ({"vision_config__layer_norm_eps": 0}, r"vision_config: layer_norm_eps=0 is not supported"),
    ({"vision_config__video_target_num_patches": "x"}, r"vision_config: video_target_num_patches='x'"),
    ({"vision_config__video_maintain_aspect_ratio": 1}, r"vision_config: video_maintain_aspect_ratio=1"),
    ({"vision_config__args__model": "vit_giant"}, r"vision_config.args: model='vit_giant' .* allowed: \['vit_base"),
    ({"vision_config__args__cpe_max_size": 1000}, r"cpe_max_size=1000 .* no multiple of patch_size=16"),
    ({"vision_config__args__register_multiple": 0}, r"vision_config.args: register_multiple=0"),
    ({"vision_config__args__cls_token_per_teacher": "yes"}, r"vision_config.args: cls_token_per_teacher='yes'"),
    ({"sound_config__model_type": "whisper"}, r"sound_config: model_type='whisper'"),
    ({"sound_config__hidden_act": "relu"}, r"sound_config: hidden_act='relu'"),
    ({"sound_config__subsampling_conv_stride": 3}, r"sound_config: subsampling_conv_stride=3 .* allowed: 2"),
    ({"sound_config__hidden_size": 1023}, r"sound_config: hidden_size=1023 .* num_attention_heads=8"),
    ({"sound_config__hidden_size": None}, r"sound_config: the config has no hidden_size"),
    ({"sound_config__num_key_value_heads": 4}, r"sound_config: num_key_value_heads=4, but 8"),
    ({"sound_config__conv_kernel_size": 8}, r"sound_config: conv_kernel_size=8 .* an odd number"),
    ({"sound_config__subsampling_conv_kernel_size": 2}, r"sound_config: subsampling_conv_kernel_size=2 .* odd"),
    ({"sound_config__subsampling_factor": 6}, r"sound_config: subsampling_factor=6 .* power of two"),
    ({"sound_config__subsampling_factor": 1}, r"sound_config: subsampling_factor=1"),
    ({"sound_config__num_mel_bins": 100}, r"sound_config: subsampling_factor=8 .* num_mel_bins=100"),
    ({"sound_config__convolution_bias": "no"}, r"sound_config: convolution_bias='no'"),
    ({"llm_config__hidden_size": "x"}, r"hidden_size='x'"),
    ({"llm_config__attention_bias": True}, r"attention_bias=True"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[next(iter(change)) for change, _ in REFUSED])
def test_refused_by_name_value_and_remedy(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        omni_spec(published(**change))


def test_budgets_in_order() -> None:
    change = {"vision_config__min_num_patches": 20000, "vision_config__args__min_num_patches": 20000}
    with pytest.raises(ValueError, match="min_num_patches=20000 exceeds max_num_patches=13312"):
        omni_spec(published(**change))


def test_tiny_heads_must_divide() -> None:
    with pytest.raises(ValueError, match="vision_config: hidden_size=64 is no multiple of num_attention_heads=3"):
        omni_spec(tiny(vision_config__num_attention_heads=3))
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads"):
        with pytest.raises(ValueError, match=f"vision_config: the config has no {name}"):
            omni_spec(tiny(f"vision_config.{name}"))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_value_escapes_as_another_error(data: st.DataObject) -> None:
    """Whatever stands in a field, the answer is a spec or a ValueError."""
    paths = [(name,) for name in PUBLISHED]
    for part in ("vision_config", "sound_config"):
        paths += [(part, name) for name in PUBLISHED[part]]
    paths += [("vision_config", "args", name) for name in PUBLISHED["vision_config"]["args"]]
    path = data.draw(st.sampled_from([path for path in paths if path != ("llm_config",)]))
    values: Callable[[], Any] = lambda: st.one_of(  # noqa: E731
        st.none(), st.booleans(), st.integers(-3, 10**6), st.floats(), st.text(max_size=4), st.lists(st.integers())
    )
    config = published()
    functools.reduce(dict.__getitem__, path[:-1], config)[path[-1]] = data.draw(values())
    try:
        assert isinstance(omni_spec(config), OmniSpec)
    except ValueError as error:
        assert str(error)
