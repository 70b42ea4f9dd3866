"""Rows that are told while a JPEG is decoded: only those that are there, and that they get over."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from sglang_nemotron.prompt.cargo import MediaError
from sglang_nemotron.prompt.image_file import read_image
from sglang_nemotron.prompt.image_memory import PIXEL_BYTES
from sglang_nemotron.prompt.image_progress import Decoding
from support.waiting import NET_S, eventually

WIDTH, HEIGHT = 1280, 960


def picture(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Noise, large enough that its decoding is seen by another thread."""
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


class Watcher:
    """Copies every row of a decoding as soon as it is told that it is there, in a thread of its own."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding
        self.copied = np.zeros_like(decoding.pixels_HW4)
        self.early = 0
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        for row in range(len(self.copied)):
            while not self._decoding.has(row + 1):
                if self._decoding.over and not self._decoding.whole:
                    return
            self.early += not self._decoding.over
            self.copied[row] = self._decoding.pixels_HW4[row]


def watched(data: bytes) -> tuple[np.ndarray, list[Watcher]]:
    watchers: list[Watcher] = []
    rgb_HWC = read_image(data, name="image 1", on_pixels=lambda decoding: watchers.append(Watcher(decoding)))
    for watcher in watchers:
        watcher.thread.join(NET_S)
    return rgb_HWC, watchers


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 90, "subsampling": 0},
        {"quality": 75, "subsampling": 1},
        {"quality": 50, "subsampling": 2},
        {"quality": 95, "subsampling": 2, "restart_marker_rows": 1},
        {"quality": 90, "keep_rgb": True},
    ],
)
def test_rows_are_there_when_they_are_told(options: dict[str, object]) -> None:
    data = encoded(picture(), **options)

    def seen_early() -> bool:
        rgb_HWC, (watcher,) = watched(data)
        assert np.array_equal(watcher.copied[:, :, :3], rgb_HWC)
        assert np.array_equal(rgb_HWC, np.asarray(Image.open(io.BytesIO(data))))
        return watcher.early > 0

    assert eventually(seen_early, poll_s=0), "nothing was seen before the end"


def test_a_progressive_file_is_told_too() -> None:
    rgb_HWC, (watcher,) = watched(encoded(picture(), progressive=True))
    assert np.array_equal(watcher.copied[:, :, :3], rgb_HWC)


def test_the_first_of_several_pictures() -> None:
    image = picture(700, 500)
    data = encoded(image, "MPO", save_all=True, append_images=[picture(300, 200)])
    rgb_HWC, (watcher,) = watched(data)
    assert rgb_HWC.shape == (500, 700, 3) and np.array_equal(watcher.copied[:, :, :3], rgb_HWC)


def test_a_broken_file_gets_over() -> None:
    data = encoded(picture(), quality=90)
    decodings: list[Decoding] = []
    with pytest.raises(MediaError, match="image 1: damaged or incomplete"):
        read_image(data[: len(data) // 2], name="image 1", on_pixels=decodings.append)
    assert len(decodings) == 1 and decodings[0].over and not decodings[0].whole


def turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, exif=exif)


@pytest.mark.parametrize(
    "make",
    [
        lambda image: encoded(image, "PNG"),
        lambda image: encoded(image.convert("L")),
        lambda image: encoded(image.convert("CMYK")),
        # what is returned is another memory
        turned,
        # more than Pillow keeps in one piece, by default
        lambda image: encoded(image.resize((5000, 1000))),
    ],
    ids=["png", "grey", "cmyk", "turned", "large"],
)
def test_others_are_read_without(make: Callable[[Image.Image], bytes]) -> None:
    rgb_HWC, watchers = watched(make(picture(200, 100)))
    assert rgb_HWC.ndim == 3 and watchers == []


def test_a_row_is_told_by_the_next() -> None:
    # as memory that somebody else used before
    pixels_HW4 = np.full((4, 2, PIXEL_BYTES), 255, dtype=np.uint8)
    decoding = Decoding(pixels_HW4)
    assert [decoding.has(number) for number in range(5)] == [False] * 5
    pixels_HW4[:2] = 255
    assert [decoding.has(number) for number in range(5)] == [True, True, False, False, False]
    pixels_HW4[2:] = 255
    assert [decoding.has(number) for number in range(5)] == [True, True, True, True, False]
    decoding.over = True
    assert not decoding.has(4)
    decoding.whole = True
    assert decoding.has(4) and not decoding.pixels_HW4.flags.writeable
