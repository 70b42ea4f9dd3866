"""Omni configs of two spellings give one reading, also when rebuilt; those of other families are SGLang's alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sglang.srt.configs import nano_nemotron_vl
from sglang.srt.configs.nemotron_h import NemotronHConfig

from sglang_nemotron.checkpoint.config_files import config_json
from sglang_nemotron.checkpoint.spec import OMNI_PRESETS
from sglang_nemotron.config.omni import omni_spec, omni_spec_of
from sglang_nemotron.host.config_tables import CLASSES
from sglang_nemotron.host.hf_config import NanoConfig
from sglang_nemotron.host.hf_config_omni import NanoOmniConfig, TransformersOmniConfig
from sglang_nemotron.sglang_api.args import config_registry

PUBLISHED: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data" / "nano-omni-30b-a3b.config.json").read_text()
)
TOY = config_json(OMNI_PRESETS["toy"])


def transformers_spelling() -> dict[str, Any]:
    from dataclasses import replace

    return config_json(replace(OMNI_PRESETS["toy"], spelling="transformers"))


CASES = [(NanoOmniConfig, PUBLISHED), (NanoOmniConfig, TOY), (TransformersOmniConfig, transformers_spelling())]


@pytest.mark.parametrize(("cls", "fields"), CASES, ids=["published", "toy", "transformers"])
def test_our_reading(cls: type, fields: dict[str, Any]) -> None:
    config = cls(**json.loads(json.dumps(fields)))
    spec = omni_spec(fields)
    assert config.omni_spec == omni_spec_of(config) == spec
    assert isinstance(config.llm_config, NanoConfig)
    assert config.get_text_config() is config.llm_config
    assert config.llm_config.nano_spec.pattern == spec.decoder.pattern
    # what SGLang looks for: images, sound, the place of an image, where a generation ends
    assert config.vision_config and config.sound_config
    assert config.image_token_id == spec.tokens.image_id
    ends = config.eos_token_id
    assert tuple(ends if isinstance(ends, list) else [ends]) == spec.decoder.eos_token_ids
    # SGLang keeps states in the steps of the outer config, and the scan gives them in those of the text config
    assert config.mamba_chunk_size == config.llm_config.mamba_chunk_size == spec.decoder.mamba.chunk_size


@pytest.mark.parametrize(("cls", "fields"), CASES, ids=["published", "toy", "transformers"])
def test_rebuilt_from_its_own_output(cls: type, fields: dict[str, Any]) -> None:
    config = cls(**fields)
    written = json.loads(json.dumps(config.to_dict()))
    assert "omni_spec" not in written
    assert cls(**written).omni_spec == config.omni_spec
    config.to_diff_dict()


def test_text_takes_the_dtype_that_only_the_whole_has() -> None:
    assert PUBLISHED["llm_config"].get("torch_dtype") is None
    assert NanoOmniConfig(**PUBLISHED).llm_config.dtype == torch.bfloat16


def test_given_fields_are_not_changed() -> None:
    fields = json.loads(json.dumps(PUBLISHED))
    NanoOmniConfig(**fields)
    assert fields == PUBLISHED


def test_other_families_are_sglangs() -> None:
    text = {**PUBLISHED["llm_config"], "moe_latent_size": 64}
    fields = {**PUBLISHED, "model_type": "nemotron_h_omni", "llm_config": text}
    given = {name: value for name, value in fields.items() if name != "model_type"}
    ours, theirs = TransformersOmniConfig(**given), nano_nemotron_vl.NemotronH_Omni_Reasoning_V3_Config(**given)
    assert ours.omni_spec is None
    assert type(ours.llm_config) is NemotronHConfig
    assert {**ours.to_dict(), "omni_spec": None} == {**theirs.to_dict(), "omni_spec": None}


def test_what_is_claimed_and_not_supported_is_refused() -> None:
    with pytest.raises(ValueError, match="downsample_ratio=0.25 is not supported"):
        NanoOmniConfig(**{**PUBLISHED, "downsample_ratio": 0.25})


def test_only_our_three_types_are_replaced() -> None:
    replaced = {kind for kind, cls in config_registry.items() if cls.__module__.startswith("sglang_nemotron")}
    assert replaced == {cls.model_type for cls in CLASSES}
    assert config_registry["NemotronH_Nano_VL_V2"] is nano_nemotron_vl.NemotronH_Nano_VL_V2_Config
