"""A context that is longer than the config says: taken up to what the model was measured at, refused beyond."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sglang.srt.configs.model_config import ModelConfig

from sglang_nemotron.checkpoint.config_files import config_json
from sglang_nemotron.checkpoint.spec import OMNI_PRESETS, PRESETS
from sglang_nemotron.host.context import CONTEXT, LONGEST

ALLOW = "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN"


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """SGLang lets everything pass where it believes to be in its own CI."""
    monkeypatch.delenv(ALLOW, raising=False)
    monkeypatch.setattr("sglang.srt.configs.model_config.is_in_ci", lambda: False)


@pytest.fixture(params=["text", "omni"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    spec = PRESETS["toy"] if request.param == "text" else OMNI_PRESETS["toy"]
    (tmp_path / "config.json").write_text(json.dumps(config_json(spec)))
    return tmp_path


def length(folder: Path, wanted: int | None) -> int:
    config = ModelConfig(str(folder), context_length=wanted)
    assert config.hf_config.context_len == config.context_len
    return config.context_len


def test_the_config_speaks_where_nobody_asks(folder: Path) -> None:
    written = json.loads((folder / "config.json").read_text())
    said = length(folder, None)
    assert said == written.get("llm_config", written)["max_position_embeddings"]
    assert length(folder, said // 2) == said // 2


def test_a_million_tokens(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert length(folder, LONGEST) == LONGEST == 1 << 20
    assert any(f"--context-length {LONGEST}: longer than" in line for line in caplog.messages)
    # what one start asked for is no other's
    assert length(folder, None) < LONGEST


def test_beyond_it_is_refused_by_name(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=rf"--context-length {LONGEST + 1} is longer than {LONGEST} tokens.*ask for less"
    ):
        length(folder, LONGEST + 1)


def test_sglangs_variable_has_the_last_word(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW, "1")
    assert length(folder, 2 * LONGEST) == 2 * LONGEST


def test_other_models_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    CONTEXT.open()
    text: Any = SimpleNamespace(max_position_embeddings=4096)
    other = SimpleNamespace(hf_config=SimpleNamespace(architectures=["LlamaForCausalLM"]), hf_text_config=text)
    other.is_draft_model = False
    with pytest.raises(ValueError, match="greater than the derived context_length"):
        ModelConfig._derive_context_length(other, 8192)
    assert text.max_position_embeddings == 4096
