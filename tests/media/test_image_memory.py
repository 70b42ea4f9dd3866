"""Pixels in Pillow's own memory: the right ones, not copied, and there for as long as somebody looks at them."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from PIL import Image

from sglang_nemotron.media.image.memory import pixels_of


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# the last is more than Pillow keeps in one piece
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (1920, 1080), (5000, 1000)])
def test_pixels_are_pillows(size: tuple[int, int]) -> None:
    rgb_HWC = noise(*size)
    pixels_HW4 = pixels_of(Image.fromarray(rgb_HWC))
    assert pixels_HW4.shape == (size[1], size[0], 4) and not pixels_HW4.flags.writeable
    assert np.array_equal(pixels_HW4[:, :, :3], rgb_HWC)


def test_pixels_are_not_copied() -> None:
    image = Image.fromarray(noise(640, 480))
    assert pixels_of(image).ctypes.data == pixels_of(image).ctypes.data
    image.putpixel((3, 2), (1, 2, 3))
    assert pixels_of(image)[2, 3, :3].tolist() == [1, 2, 3]


def test_an_image_in_pieces_is_copied() -> None:
    image = Image.fromarray(noise(5000, 1000))
    first_HW4, second_HW4 = pixels_of(image), pixels_of(image)
    assert not np.shares_memory(first_HW4, second_HW4)


def test_pixels_outlive_their_image() -> None:
    image = Image.fromarray(noise(640, 480))
    pixels_HW4 = pixels_of(image)
    del image
    gc.collect()
    # would take the memory if it had been given back
    others = [Image.fromarray(noise(640, 480, seed)) for seed in range(1, 9)]
    assert len(others) == 8 and np.array_equal(pixels_HW4[:, :, :3], noise(640, 480))


def test_a_pillow_that_shows_no_memory_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Image.Image, "__arrow_c_array__")
    assert np.array_equal(pixels_of(Image.fromarray(noise(64, 48)))[:, :, :3], noise(64, 48))
