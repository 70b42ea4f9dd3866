"""What the image tests share: the published rule, the reference processor, photo-like pixels, encoded files."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from sglang_nemotron.config_omni import ImageRule

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="session")
def image_rule() -> ImageRule:
    return ImageRule(patch_size=16, merge_size=2, min_patches=1024, max_patches=13312, mean=MEAN, std=STD)


@pytest.fixture(scope="session")
def reference() -> Callable[[int], object]:
    """context length -> transformers' own image processor, on the published settings."""
    from transformers.models.nemotron_h_omni import image_processing_nemotron_h_omni as module

    def make(context_length: int) -> object:
        return module.NemotronH_Omni_Reasoning_V3ImageProcessor(
            norm_mean=MEAN, norm_std=STD, max_model_len=context_length
        )

    return make


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """(pixels or PIL image, format, save options) -> file bytes."""

    def make(pixels: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    return make
