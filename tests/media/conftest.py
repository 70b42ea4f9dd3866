"""What the image tests share: the published rule, the reference processor, photo-like pixels, encoded files."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from sglang_nemotron.config.omni import ImageRule
from support.published import SPEC


@pytest.fixture(scope="session")
def image_rule() -> ImageRule:
    return SPEC.image


@pytest.fixture(scope="session")
def reference() -> Callable[[int], object]:
    """context length -> transformers' own image processor, on the published settings."""
    from transformers.models.nemotron_h_omni import image_processing_nemotron_h_omni as module

    def make(context_length: int) -> object:
        return module.NemotronH_Omni_Reasoning_V3ImageProcessor(
            norm_mean=SPEC.image.mean, norm_std=SPEC.image.std, max_model_len=context_length
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
