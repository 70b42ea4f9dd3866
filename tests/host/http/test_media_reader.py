"""What the process that answers HTTP makes of a server of ours before its first request."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_nemotron.config.omni import omni_spec
from sglang_nemotron.host.hf_config_omni import NanoOmniConfig
from sglang_nemotron.host.http import media, media_reader

FIELDS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "data" / "nano-omni-30b-a3b.config.json").read_text())


def test_a_config_is_read_once_whatever_sglang_changes_in_it_since(monkeypatch: pytest.MonkeyPatch) -> None:
    config = NanoOmniConfig(**json.loads(json.dumps(FIELDS)))
    config.norm_mean, config.vision_config, config.llm_config.num_hidden_layers = [0.0, 0.0, 0.0], {}, 1
    # no worker, no tokenizer, no HTTP server
    pools: list[Any] = []
    monkeypatch.setattr(media_reader, "Pool", lambda terms, *_: pools.append(terms) or SimpleNamespace())
    monkeypatch.setattr(media_reader, "TagEncoder", lambda tokenizer, tokens: tokens)
    monkeypatch.setattr(media_reader, "spool_bodies", lambda stamp: None)
    flags = SimpleNamespace(allowed_media_domains=["Media.Example"], media_url_max_file_size_mb=7)
    monkeypatch.setattr(media_reader, "get_mm", lambda: flags)
    processor = SimpleNamespace(
        transport_mode="default", skip_tokenizer_init=False, _tokenizer=None, nemotron_service=None
    )
    manager = SimpleNamespace(
        mm_processor=processor,
        model_config=SimpleNamespace(hf_config=config, dtype=torch.bfloat16),
        context_len=100,
        num_reserved_tokens=2,
    )
    media_reader.serve(manager)
    service = media.service_of(manager)
    assert service is not None and service.spec == pools[0].spec == omni_spec(FIELDS)
    # SGLang's rules for URLs hold, and ours beside them
    origins = service.reader._origins
    assert (origins.domains, origins.max_bytes, origins.public) == (("media.example",), 7 << 20, True)
    assert service.encoder == service.spec.tokens and (service.context_length, service.max_prompt) == (100, 97)
