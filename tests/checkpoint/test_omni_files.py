"""What lies on disk of an Omni checkpoint: config, weight names, dtypes, and what is quantised."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sglang_nemotron.checkpoint.config_files import config_json
from sglang_nemotron.checkpoint.mel_filters import hann_window, mel_filter_bank
from sglang_nemotron.checkpoint.quant_layout import excluded_modules, hf_quant_config, layer_algorithms
from sglang_nemotron.checkpoint.spec import OMNI_PRESETS, PRESETS
from sglang_nemotron.checkpoint.tower_spec import TowerSpec
from sglang_nemotron.checkpoint.writer import all_tensors, stored_tensors, write_checkpoint
from sglang_nemotron.config.decoder import decoder_spec
from sglang_nemotron.config.omni import is_nano_omni, omni_spec

FULL, TOY = OMNI_PRESETS["full"], OMNI_PRESETS["toy"]
# reconstructed from a transcription of the published config.json
PUBLISHED = json.loads((Path(__file__).parent.parent / "data" / "nano-omni-30b-a3b.config.json").read_text())
# stored, but no parameters: statistics, constants and the routers' correction biases
BUFFERS = ("running_mean", "running_var", "norm_mean", "norm_std", "num_batches_tracked", "fb", "window")


@pytest.fixture(scope="module")
def toy_omni(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("omni") / "checkpoint"
    write_checkpoint(TOY, out)
    return out


@pytest.fixture(scope="module")
def tensors(toy_omni: Path) -> dict[str, torch.Tensor]:
    return load_file(toy_omni / "model.safetensors")


def test_full_config_is_the_published_one():
    published = {name: value for name, value in PUBLISHED.items() if name != "_provenance"}
    assert config_json(FULL) == published


def test_full_inventory_has_the_published_counts():
    # 33,015,546,816 parameters; 7,349 tensors = 7,300 BF16 + 24 int64 + 25 float32 = 6,243 + 393 + 713
    stored = [tensor for source in all_tensors(FULL) for tensor in stored_tensors(FULL, source, {})]
    assert len(stored) == len({tensor.name for tensor in stored}) == 7349
    assert Counter(tensor.dtype for tensor in stored) == {torch.bfloat16: 7300, torch.int64: 24, torch.float32: 25}
    rooms = Counter(tensor.name.split(".")[0] for tensor in stored)
    assert rooms["language_model"] == 6243
    assert rooms["vision_model"] + rooms["mlp1"] == 393 and rooms["sound_encoder"] + rooms["sound_projection"] == 713
    sizes = Counter()
    for tensor in stored:
        if not tensor.name.endswith((*BUFFERS, "e_score_correction_bias")):
            sizes[tensor.name.split(".")[0]] += math.prod(tensor.shape)
    assert sizes == {
        "language_model": 31_577_937_344,
        # transformers counts 81,920 more: layer scales, which the published checkpoint lacks
        "vision_model": 653_693_440 - 2 * 32 * 1280,
        "mlp1": 159_912_960,
        "sound_encoder": 608_879_616,
        "sound_projection": 15_205_376,
    }
    assert sum(sizes.values()) == 33_015_546_816


def test_full_is_what_transformers_builds():
    # names, shapes and dtypes of transformers' own module on the meta device: nothing is allocated
    from transformers.models.nemotron_h_omni.configuration_nemotron_h_omni import NemotronH_Omni_Reasoning_V3_Config
    from transformers.models.nemotron_h_omni.modeling_nemotron_h_omni import NemotronH_Omni_Reasoning_V3

    # with classes of transformers' own inside, whatever another test registered for the text
    from sglang_nemotron.parity.reference_omni import _for_transformers

    config: Any = NemotronH_Omni_Reasoning_V3_Config(**_for_transformers(json.loads(json.dumps(config_json(FULL)))))
    with torch.device("meta"):
        model = NemotronH_Omni_Reasoning_V3(config)
    total = sum(parameter.numel() for parameter in model.parameters())
    # a layer scale before and after each of 32 blocks, which no published checkpoint has
    assert total - 2 * 32 * 1280 == 33_015_546_816


@pytest.mark.parametrize("size", ["toy", "tiny", "small"])
@pytest.mark.parametrize("spelling", ["published", "transformers"])
def test_the_config_is_read_as_it_was_meant(size: str, spelling: str):
    spec = replace(OMNI_PRESETS[size], spelling=spelling)
    # through text, as an engine reads it
    config = json.loads(json.dumps(config_json(spec)))
    assert is_nano_omni(config) is None
    read, towers = omni_spec(config), spec.towers
    assert towers is not None and read.sound is not None
    vision = (towers.vision_hidden_size, towers.vision_num_hidden_layers, towers.vision_num_attention_heads)
    assert (read.vision.hidden_size, read.vision.num_layers, read.vision.num_heads) == vision
    assert read.vision.intermediate_size == towers.vision_intermediate_size and read.vision.position_grid == 128
    sound = (towers.sound_hidden_size, towers.sound_num_hidden_layers, towers.sound_num_attention_heads)
    assert (read.sound.hidden_size, read.sound.num_layers, read.sound.num_heads) == sound
    assert not read.sound.attention_bias and not read.sound.scale_input and not read.sound.conv_bias
    assert read.projector_hidden_size == towers.projector_hidden_size
    assert read.sound.projection_hidden_size == towers.sound_projection_hidden_size
    assert read.video.pruning_rate == 0.7 and (read.tokens.image_id, read.tokens.sound_id) == (18, 27)
    text = config_json(replace(PRESETS[size], time_step_limit=(0.0, 1e30), max_position_embeddings=32768))
    expected = decoder_spec(text)
    assert read.decoder.max_positions == max(32768, PRESETS[size].max_position_embeddings)
    for name in ("layers", "hidden_size", "ssm_dtype"):
        assert getattr(read.decoder, name) == getattr(expected, name)


def test_transformers_spelling_is_what_transformers_writes(tmp_path: Path):
    from transformers.models.nemotron_h import NemotronHConfig
    from transformers.models.nemotron_h_omni.configuration_nemotron_h_omni import NemotronH_Omni_Reasoning_V3_Config
    from transformers.models.parakeet import ParakeetEncoderConfig
    from transformers.models.radio import RadioConfig

    ours = json.loads(json.dumps(config_json(replace(TOY, spelling="transformers"))))
    nested = {"text_config": NemotronHConfig, "vision_config": RadioConfig, "audio_config": ParakeetEncoderConfig}
    read = {name: kind(**_without_type(ours[name])) for name, kind in nested.items()}
    rest: Any = {name: value for name, value in ours.items() if name not in (*nested, "model_type")}
    NemotronH_Omni_Reasoning_V3_Config(**rest, **read).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == ours


def _without_type(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "model_type"}


def test_the_language_model_is_the_same_alone_and_inside(tensors: dict[str, torch.Tensor], toy: Path):
    alone = load_file(toy / "model.safetensors")
    inside = {name.removeprefix("language_model."): value for name, value in tensors.items()}
    assert sum(name.startswith("language_model.") for name in tensors) == len(alone)
    assert all(torch.equal(inside[name], value) for name, value in alone.items())


def test_constants_are_constants(tensors: dict[str, torch.Tensor]):
    featurizer = "sound_encoder.encoder.feature_extractor.featurizer"
    window = tensors[f"{featurizer}.window"]
    assert torch.allclose(window, torch.hann_window(400, periodic=False), atol=1e-6, rtol=0)
    filters = tensors[f"{featurizer}.fb"]
    assert filters.shape == (1, 128, 257) and filters.dtype == torch.float32
    counter = tensors["sound_encoder.encoder.layers.0.conv.norm.num_batches_tracked"]
    assert counter.shape == () and counter.dtype == torch.int64
    conditioner = "vision_model.radio_model.input_conditioner"
    assert tensors[f"{conditioner}.norm_mean"].shape == (3, 1, 1)
    assert tensors[f"{conditioner}.norm_std"].flatten().tolist() == pytest.approx(PUBLISHED["norm_std"], rel=4e-3)
    assert all(value.min() > 0 for name, value in tensors.items() if name.endswith("running_var"))


def test_mel_filters_are_slaneys():
    import librosa

    golden = librosa.filters.mel(sr=16000, n_fft=512, n_mels=128, fmin=0.0, fmax=8000.0, norm="slaney")
    assert torch.allclose(mel_filter_bank(128, 257)[0], torch.from_numpy(golden), atol=1e-7, rtol=1e-4)
    assert hann_window(5).tolist() == pytest.approx([0, 0.5, 1, 0.5, 0])


@pytest.mark.parametrize("quantization", ["fp8", "nvfp4", "mixed"])
def test_only_the_language_model_is_quantised(quantization: str):
    spec = replace(OMNI_PRESETS["tiny"], quantization=quantization)
    algorithms = layer_algorithms(spec)
    assert algorithms and all(module.startswith("language_model.backbone.layers.") for module in algorithms)
    assert not any(module.endswith(("q_proj", "k_proj", "v_proj", "gate")) for module in algorithms)
    excluded = excluded_modules(spec)
    assert excluded[0] == "language_model.lm_head"
    assert set(excluded) >= {"vision_model*", "mlp1*", "sound_encoder*", "sound_projection*"}
    linears = {t.module for t in all_tensors(spec) if t.role == "linear"}
    assert linears == set(algorithms) | linears & set(excluded) and not set(algorithms) & set(excluded)
    # towers keep the checkpoint's dtype, without scales
    stored = [tensor for source in all_tensors(spec) for tensor in stored_tensors(spec, source, algorithms)]
    towers = [tensor for tensor in stored if not tensor.name.startswith("language_model.")]
    plain = [tensor for source in all_tensors(TOY) for tensor in stored_tensors(TOY, source, {})]
    assert towers == [tensor for tensor in plain if not tensor.name.startswith("language_model.")]


def test_quantised_layers_of_full_are_as_many_as_published():
    # MIXED: 5,888 NVFP4 (routed experts) and 98 FP8 (Mamba, shared experts, attention outputs)
    section = hf_quant_config(replace(FULL, quantization="mixed"))["quantization"]
    assert section["quant_algo"] == "MIXED_PRECISION"
    layers = section["quantized_layers"]
    assert Counter(layer["quant_algo"] for layer in layers.values()) == {"NVFP4": 5888, "FP8": 98}
    assert set(layer_algorithms(replace(FULL, quantization="fp8"))) == set(layers)


@pytest.mark.parametrize(("quantization", "gib"), [("none", 61.5), ("fp8", 32.8), ("mixed", 20.9)])
def test_full_is_as_large_as_published(quantization: str, gib: float):
    spec = replace(FULL, quantization=quantization)
    algorithms = layer_algorithms(spec)
    num_bytes = sum(t.num_bytes for source in all_tensors(spec) for t in stored_tensors(spec, source, algorithms))
    assert num_bytes / 2**30 == pytest.approx(gib, abs=0.06)


def test_files_of_an_omni_checkpoint(toy_omni: Path):
    assert sorted(path.name for path in toy_omni.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    generation = json.loads((toy_omni / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [2, 11] and (generation["temperature"], generation["top_p"]) == (0.6, 0.95)
    preprocessor = json.loads((toy_omni / "preprocessor_config.json").read_text())
    assert preprocessor["norm_mean"] == PUBLISHED["norm_mean"] and preprocessor["max_model_len"] == 16384
    # no remote code is needed, and none is offered
    assert "auto_map" not in json.loads((toy_omni / "config.json").read_text())


def test_a_text_checkpoint_over_an_omni_one_leaves_nothing_of_it(tmp_path: Path, toy: Path):
    write_checkpoint(TOY, tmp_path / "out")
    write_checkpoint(PRESETS["toy"], tmp_path / "out", overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {
        path.name: path.read_bytes() for path in toy.iterdir()
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vision_num_attention_heads": 5}, "vision_hidden_size is 64; it must be a multiple of 5"),
        ({"sound_num_attention_heads": 3}, "sound_hidden_size is 64; it must be a multiple of 3"),
        ({"sound_conv_kernel_size": 8}, "sound_conv_kernel_size is 8; it must be odd"),
        ({"video_pruning_rate": 1.0}, "video_pruning_rate is 1.0"),
        ({"min_num_patches": 20000}, "must not exceed max_num_patches"),
        ({"max_resolution": 100}, "max_resolution is 100; it must be a multiple of 16"),
        ({"num_mel_bins": 20}, "num_mel_bins is 20"),
        ({"projector_hidden_size": 0}, "projector_hidden_size is 0"),
        ({"template": "upside down"}, "template is 'upside down'"),
    ],
)
def test_towers_that_cannot_be(changes: dict[str, Any], words: str):
    assert TOY.towers is not None and set(changes) <= {field.name for field in fields(TowerSpec)}
    with pytest.raises(ValueError) as error:
        replace(TOY.towers, **changes)
    assert words in str(error.value)


def test_the_alt_spelling_is_for_text_only():
    with pytest.raises(ValueError, match="no Omni checkpoint"):
        replace(TOY, spelling="alt")
