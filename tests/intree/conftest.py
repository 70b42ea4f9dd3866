"""One checkpoint, and on it SGLang's own Omni code and ours, made once."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sglang.cli.serve  # noqa: F401 - SGLang's command imports first, or its platform meets ours half-imported
import torch
from PIL import Image

from sglang_nemotron.checkpoint.spec import OMNI_PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.host import packages
from sglang_nemotron.host.http import chat_body, history, media, media_reader
from support import intree_sides
from support.intree_sides import Side

# what the published model is served with where nothing else is said
CONTEXT = 131072


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "intree: shows what SGLang's own code gets wrong, and ours right")


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("omni")
    write_checkpoint(OMNI_PRESETS["toy"], made)
    return made


@pytest.fixture(scope="package")
def omni_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.fixture(scope="package")
def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="package")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def video_decoder_loads() -> bool:
    """Whether in-tree's decoder finds the FFmpeg that it needs, which it looks for at its first video alone."""
    from sglang.srt.utils.video_decoder import VideoDecoderWrapper

    try:
        VideoDecoderWrapper((Path(__file__).parents[1] / "data" / "media" / "clip.mp4").read_bytes())
    except (ImportError, RuntimeError):
        return False
    return True


@pytest.fixture(scope="package")
def published() -> Iterator[Any]:
    """SGLang's process-wide settings, as a start without flags leaves them; --context-length among the unset."""
    from sglang.srt.runtime_context import get_context
    from sglang.srt.utils import common

    with pytest.MonkeyPatch.context() as patch, get_context().override_server_args(mm_process_config={}) as args:
        if not video_decoder_loads():
            patch.setattr(common, "VideoDecoderWrapper", intree_sides.PlainDecoder)
        yield args


@pytest.fixture(scope="package")
def in_tree_of(omni_config: dict[str, Any], tokenizer: Any, published: Any, loop: Any) -> Iterator[Any]:
    """`in_tree_of(field=value)`: SGLang's side on the checkpoint's config with these fields changed."""
    from sglang.srt.configs.nano_nemotron_vl import NemotronH_Nano_Omni_Reasoning_V3_Config
    from sglang.srt.multimodal.processors.nano_nemotron_vl import NanoNemotronVLImageProcessor

    made: list[Any] = []

    def make(**changes: Any) -> Side:
        theirs = NemotronH_Nano_Omni_Reasoning_V3_Config(**{**omni_config, **changes})
        with pytest.MonkeyPatch.context() as patch:
            # it ends Pillow's protection against huge images for the whole process, and so for every later test
            patch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
            processor = NanoNemotronVLImageProcessor(theirs, published, tokenizer, "default")
        made.append(processor)
        model = intree_sides.in_tree_model(theirs, omni_config["llm_config"]["hidden_size"])
        return Side(intree_sides.serving(tokenizer, processor), processor, model, tokenizer, loop)

    yield make
    for processor in made:
        processor.shutdown()


@pytest.fixture(scope="package")
def in_tree(in_tree_of: Any) -> Side:
    return in_tree_of()


@pytest.fixture(scope="package")
def ours(omni_config: dict[str, Any], tokenizer: Any, published: Any, loop: Any) -> Iterator[Side]:
    """Our side, with the workers that a server would start."""
    from sglang_nemotron.host.hf_config_omni import NanoOmniConfig
    from sglang_nemotron.processors.nemotron_omni import NemotronOmniProcessor

    # a process that has SGLang's models has a use for media
    importlib.import_module(packages.REGISTRY)
    importlib.import_module(chat_body.SERVER)
    media.MEDIA.open()
    history.HISTORIES.open()
    assert media.MEDIA.is_ours() is None and history.HISTORIES.is_ours() is None
    hf_config = NanoOmniConfig(**omni_config)
    processor = NemotronOmniProcessor(hf_config, published, tokenizer, "default")
    media_reader.serve(
        SimpleNamespace(
            mm_processor=processor,
            model_config=SimpleNamespace(hf_config=hf_config, dtype=torch.float32),
            context_len=CONTEXT,
            num_reserved_tokens=0,
        )
    )
    service = processor.nemotron_service
    yield Side(
        intree_sides.serving(tokenizer, processor), processor, intree_sides.our_model(service.spec), tokenizer, loop
    )
    service.reader.close()
    processor.shutdown()
