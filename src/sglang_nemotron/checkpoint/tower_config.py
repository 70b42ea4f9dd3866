"""The Omni form of config.json and its neighbours: the language model's config goes in, the whole model's comes out.

Knows how the published file and transformers spell media settings; nothing about weights.
"""

from __future__ import annotations

from typing import Any

from sglang_nemotron.checkpoint.tower_spec import (
    FRAMES_PER_TUBELET,
    NUM_CHANNELS,
    NUM_PREFIX_TOKENS,
    SUBSAMPLING_FACTOR,
    TowerSpec,
)

# timm's names of whole towers: hidden size, layers, heads, width inside
_NAMED_TOWERS = {
    "vit_base_patch16_224": (768, 12, 12, 3072),
    "vit_large_patch16_224": (1024, 24, 16, 4096),
    "vit_huge_patch16_224": (1280, 32, 16, 5120),
}

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

IMAGE_ID, SOUND_ID = 18, 27
# what the published config says of "<video>", although no vocabulary holds it
_VIDEO_ID = 131081
_EOS_ID = 11

# keys of the text model's own config.json that the nested one leaves out
_TEXT_ONLY = ("architectures", "auto_map", "torch_dtype", "dtype", "transformers_version")
# tokens that a processor plans with (preprocessor_config.json)
_MAX_MODEL_LEN = 16384


def published_omni_config(text: dict[str, Any], towers: TowerSpec, dtype: str) -> dict[str, Any]:
    """config.json as published. `text`: the text model's published config.json."""
    nested = {name: value for name, value in text.items() if name not in _TEXT_ONLY}
    nested["eos_token_id"] = _EOS_ID
    if nested["mamba_ssm_cache_dtype"] == "float32":
        # absent from the published file; readers default to float32
        del nested["mamba_ssm_cache_dtype"]
    return {
        **_outer(towers, nested["max_position_embeddings"]),
        "architectures": ["NemotronH_Nano_Omni_Reasoning_V3"],
        "model_type": "NemotronH_Nano_Omni_Reasoning_V3",
        "torch_dtype": dtype,
        "vit_hidden_size": towers.vision_hidden_size,
        "img_context_token_id": IMAGE_ID,
        "video_context_token_id": _VIDEO_ID,
        "sound_context_token_id": SOUND_ID,
        "vision_config": _published_vision(towers),
        "sound_config": {"model_type": "parakeet", **_sound_sizes(towers)},
        "llm_config": nested,
    }


def transformers_omni_config(text: dict[str, Any], towers: TowerSpec, dtype: str) -> dict[str, Any]:
    """config.json as transformers 5.19 saves it. `text`: the text model's config.json in that spelling."""
    nested = {name: value for name, value in text.items() if name not in _TEXT_ONLY}
    nested["eos_token_id"] = _EOS_ID
    return {
        "architectures": ["NemotronH_Omni_Reasoning_V3"],
        "audio_config": _transformers_sound(towers),
        "audio_token_id": SOUND_ID,
        "downsample_ratio": 0.5,
        "dtype": dtype,
        "eos_token_id": _EOS_ID,
        "force_image_size": 512,
        "image_token_id": IMAGE_ID,
        "model_type": "nemotron_h_omni",
        "projector_hidden_size": towers.projector_hidden_size,
        "text_config": nested,
        "transformers_version": "5.19.0",
        "video_pruning_rate": towers.video_pruning_rate,
        "video_temporal_patch_size": FRAMES_PER_TUBELET,
        "video_token_id": _VIDEO_ID,
        "vision_config": _transformers_vision(towers),
        "vision_hidden_size": towers.vision_hidden_size,
    }


def omni_generation_config() -> dict[str, Any]:
    """generation_config.json: ends at </s> or <|im_end|>; sampling and budget are the published advice."""
    return {
        "_from_model_config": True,
        "bos_token_id": 1,
        "do_sample": True,
        "eos_token_id": [2, _EOS_ID],
        "max_new_tokens": 16384,
        "pad_token_id": 0,
        "reasoning_budget": 16384,
        "reasoning_grace": 512,
        "temperature": 0.6,
        "top_p": 0.95,
        "transformers_version": "4.53.2",
    }


def preprocessor_config(towers: TowerSpec) -> dict[str, Any]:
    """preprocessor_config.json: what an image processor needs to know; names no class, so that it needs no code."""
    return {
        "downsample_ratio": 0.5,
        "max_model_len": _MAX_MODEL_LEN,
        "max_num_patches": towers.max_num_patches,
        "min_num_patches": towers.min_num_patches,
        "norm_mean": list(PIXEL_MEAN),
        "norm_std": list(PIXEL_STD),
        "patch_size": towers.patch_size,
    }


def _outer(towers: TowerSpec, max_length: int) -> dict[str, Any]:
    return {
        "downsample_ratio": 0.5,
        "eos_token_id": _EOS_ID,
        "force_image_size": 512,
        "image_tag_type": "internvl",
        "img_context_token": "<image>",
        "img_end_token": "</img>",
        "img_start_token": "<img>",
        "max_sequence_length": min(131072, max_length),
        "norm_mean": list(PIXEL_MEAN),
        "norm_std": list(PIXEL_STD),
        "patch_size": towers.patch_size,
        "projector_hidden_size": towers.projector_hidden_size,
        "ps_version": "v2",
        "sound_context_token": "<so_embedding>",
        "template": "n5h_5p5_nanov2",
        "use_thumbnail": True,
        "video_context_token": "<video>",
        "video_pruning_rate": towers.video_pruning_rate,
        "video_temporal_patch_size": FRAMES_PER_TUBELET,
    }


def _vision_sizes(towers: TowerSpec) -> tuple[int, int, int, int]:
    return (
        towers.vision_hidden_size,
        towers.vision_num_hidden_layers,
        towers.vision_num_attention_heads,
        towers.vision_intermediate_size,
    )


def _published_vision(towers: TowerSpec) -> dict[str, Any]:
    teachers = [{"name": name, "use_summary": name != "sam"} for name in ("clip", "siglip", "dino_v2", "sam")]
    patches = {"min_num_patches": towers.min_num_patches, "max_num_patches": towers.max_num_patches}
    vision: dict[str, Any] = {
        "version": "c-radio_v4-h",
        "architectures": ["RADIOModel"],
        "patch_size": towers.patch_size,
        "max_resolution": towers.max_resolution,
        "preferred_resolution": [768, 768],
        "vitdet_window_size": None,
        "video_prompt_version": 2,
        **patches,
        "video_target_num_patches": towers.video_target_num_patches,
        "video_maintain_aspect_ratio": True,
        "video_temporal_patch_size": FRAMES_PER_TUBELET,
        "separate_video_embedder": True,
        "args": {
            "cpe_max_size": towers.max_resolution,
            "register_multiple": NUM_PREFIX_TOKENS,
            "cls_token_per_teacher": True,
            **patches,
            "teachers": teachers,
        },
    }
    sizes = _vision_sizes(towers)
    names = [name for name, named in _NAMED_TOWERS.items() if named == sizes]
    if names:
        vision["args"]["model"] = names[0]
    else:
        # no name stands for these sizes: they are told one by one, as transformers spells them (the ratio is the
        # only form of the last that its RadioConfig reads)
        hidden, layers, heads, intermediate = sizes
        vision |= {
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": intermediate,
            "mlp_ratio": intermediate / hidden,
        }
    return vision


def _sound_sizes(towers: TowerSpec) -> dict[str, Any]:
    return {
        "conv_kernel_size": towers.sound_conv_kernel_size,
        "convolution_bias": False,
        "hidden_size": towers.sound_hidden_size,
        "intermediate_size": towers.sound_intermediate_size,
        "num_attention_heads": towers.sound_num_attention_heads,
        "num_hidden_layers": towers.sound_num_hidden_layers,
        "num_mel_bins": towers.num_mel_bins,
        "projection_bias": False,
        "projection_hidden_size": towers.sound_projection_hidden_size,
        "sampling_rate": 16000,
        "subsampling_conv_channels": towers.sound_subsampling_conv_channels,
        "subsampling_conv_kernel_size": 3,
        "subsampling_conv_stride": 2,
        "subsampling_factor": SUBSAMPLING_FACTOR,
    }


# fields that transformers writes into a nested config that its class has no default of
_NESTED_DEFAULTS: dict[str, Any] = {
    "_name_or_path": "",
    "architectures": None,
    "chunk_size_feed_forward": 0,
    "dtype": None,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "is_encoder_decoder": False,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "output_attentions": False,
    "output_hidden_states": False,
    "problem_type": None,
    "return_dict": True,
}


def _transformers_sound(towers: TowerSpec) -> dict[str, Any]:
    dropouts = dict.fromkeys(("activation_dropout", "attention_dropout", "dropout", "layerdrop"), 0.1)
    sound = {
        **_NESTED_DEFAULTS,
        **_sound_sizes(towers),
        **dropouts,
        "attention_bias": False,
        "dropout_positions": 0.0,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": 5000,
        "model_type": "parakeet_encoder",
        "num_key_value_heads": towers.sound_num_attention_heads,
        "scale_input": False,
    }
    return dict(sorted(sound.items()))


def _transformers_vision(towers: TowerSpec) -> dict[str, Any]:
    hidden, layers, heads, intermediate = _vision_sizes(towers)
    vision = {
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": hidden,
        "image_size": 224,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-6,
        "layerscale_value": 1.0,
        "max_img_size": towers.max_resolution,
        "max_num_patches": towers.max_num_patches,
        "min_num_patches": towers.min_num_patches,
        "mlp_ratio": intermediate / hidden,
        "model_type": "radio",
        "norm_mean": list(PIXEL_MEAN),
        "norm_std": list(PIXEL_STD),
        "num_attention_heads": heads,
        "num_channels": NUM_CHANNELS,
        "num_cls_tokens": 3,
        "num_hidden_layers": layers,
        "num_registers": NUM_PREFIX_TOKENS - 3,
        "patch_dim": towers.patch_dim,
        "patch_size": towers.patch_size,
        "qkv_bias": True,
        "summary_idxs": [0, 1],
        "use_swiglu_ffn": False,
        "video_maintain_aspect_ratio": True,
        "video_patch_dim": FRAMES_PER_TUBELET * towers.patch_dim,
        "video_target_num_patches": towers.video_target_num_patches,
        "video_temporal_patch_size": FRAMES_PER_TUBELET,
    }
    return dict(sorted(vision.items()))
