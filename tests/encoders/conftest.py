"""The tiny random Omni model that this room's tests compare with, made once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sglang_nemotron.config.omni import omni_spec
from support.encoder_rig import TINY, Tiny, scatter


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    from safetensors.torch import load_file
    from transformers.models.nemotron_h import NemotronHConfig
    from transformers.models.nemotron_h_omni import modeling_nemotron_h_omni as modeling
    from transformers.models.nemotron_h_omni.configuration_nemotron_h_omni import NemotronH_Omni_Reasoning_V3_Config

    torch.manual_seed(0)
    fields = {name: value for name, value in TINY.items() if name != "model_type"}
    # of transformers' own class, whatever another test registered for the text
    text = {name: value for name, value in fields.pop("llm_config").items() if name != "model_type"}
    fields["text_config"] = NemotronHConfig(**text)
    config = NemotronH_Omni_Reasoning_V3_Config(**fields)
    config.vision_config.dtype = torch.float32
    reference = modeling.NemotronH_Omni_Reasoning_V3(config).eval()
    scatter(reference)
    folder: Path = tmp_path_factory.mktemp("tiny")
    reference.save_pretrained(folder)
    tensors = {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}
    # what transformers wrote is what we read, the config included
    spec = omni_spec(json.loads((folder / "config.json").read_text()))
    return Tiny(reference, spec, tensors)
