"""Config objects of three makers give one spec, also after SGLang padded them for its own CPU kernels."""

from __future__ import annotations

import json

import pytest
from sglang.srt.configs.nemotron_h import NemotronHConfig

from sglang_nemotron.checkpoint.config_files import config_json
from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.config.decoder import decoder_spec, spec_of
from sglang_nemotron.family import STATE_DTYPES
from sglang_nemotron.host import hf_config
from sglang_nemotron.host.hf_config import NanoConfig

FIELDS = config_json(PRESETS["toy"])


@pytest.mark.parametrize("maker", [NanoConfig, NemotronHConfig])
@pytest.mark.parametrize("padded", [False, True])
def test_one_spec(maker: type, padded: bool) -> None:
    config = maker(**json.loads(json.dumps(FIELDS)))
    if padded:
        config.original_moe_intermediate_size, config.moe_intermediate_size = config.moe_intermediate_size, 64
        config.original_num_attention_heads, config.num_attention_heads = config.num_attention_heads, 8
        config.original_total_num_kv_heads, config.num_key_value_heads = config.num_key_value_heads, 4
    assert spec_of(config) == decoder_spec(FIELDS)
    # what SGLang reads of the config stays what SGLang wrote
    assert not padded or config.moe_intermediate_size == 64


def test_spec_is_no_part_of_the_saved_config() -> None:
    assert "nano_spec" not in NanoConfig(**FIELDS).to_dict()
    json.dumps(NanoConfig(**FIELDS).to_dict())


@pytest.mark.parametrize("name", STATE_DTYPES)
def test_a_state_dtype_is_taken_from_the_flag(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # SGLang hands --mamba-ssm-dtype on in this variable
    monkeypatch.setenv("SGLANG_MAMBA_SSM_DTYPE", name)
    assert hf_config._ssm_dtype(decoder_spec(FIELDS)) == name


def test_another_state_dtype_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLANG_MAMBA_SSM_DTYPE", "float8_e4m3fn")
    with pytest.raises(ValueError, match=f"--mamba-ssm-dtype='float8_e4m3fn' .* allowed: {', '.join(STATE_DTYPES)}"):
        hf_config._ssm_dtype(decoder_spec(FIELDS))
    monkeypatch.delenv("SGLANG_MAMBA_SSM_DTYPE")
    assert hf_config._ssm_dtype(decoder_spec(FIELDS)) == "float32"
