"""A JPEG that Pillow has opened comes in; its pixels go out, and while they are decoded, which rows are there already.

Pillow does not tell how far it is, and must not be interrupted to find out: each time, its thread would have to wait
for the interpreter's lock. But its decoder writes whole rows from the top down, each once, and gives every pixel a
fourth byte that is not zero. So a row is there if the next one's last pixel has that byte, where all of them were
cleared before; were it ever zero, rows would only be seen late. That holds on processors that show a thread's writes in
their order and read in order, as x86 does.

Shape letters: H W pixels.
"""

from __future__ import annotations

import io
import platform
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from sglang_nemotron.media.image.memory import pixels_being_decoded

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

# as Pillow names them. MPO is a JPEG with further pictures behind it, as many phones write it
JPEGS = ("JPEG", "MPO")
WRITES_IN_ORDER = platform.machine() in ("x86_64", "AMD64")


class WatchedFile(io.BytesIO):
    """The bytes of a file in memory, which says once when more of them are about to be read."""

    before_read: Callable[[], None] | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        watcher, self.before_read = self.before_read, None
        if watcher is not None:
            watcher()
        return super().read(size)


class Decoding:
    """Pixels that another thread decodes, from the first row down.

    pixels_HW4: uint8, read-only, of which the first rows are there. over: no more will come. whole: all of them are
    there; never where the file is broken.
    """

    def __init__(self, pixels_HW4: np.ndarray) -> None:
        self._tells_H = pixels_HW4[:, -1, 3]
        self._tells_H[:] = 0
        self.pixels_HW4 = pixels_HW4.view()
        self.pixels_HW4.flags.writeable = False
        self.over = self.whole = False

    def has(self, num_rows: int) -> bool:
        """Whether the first `num_rows` rows are there; the last row only counts once they are whole."""
        return self.whole or (num_rows < len(self._tells_H) and bool(self._tells_H[num_rows]))


def load(image: ImageFile, begun: Callable[[Decoding], None] | None = None) -> None:
    """`image.load()`, which calls `begun` before the first row, where rows can be told: mostly those of a JPEG in RGB.

    image: opened from a WatchedFile. What `begun` gets is over in the end, whether the file is broken or not.
    """
    if begun is None or not WRITES_IN_ORDER or image.format not in JPEGS or image.mode != "RGB":
        image.load()
        return
    decodings: list[Decoding] = []

    def look() -> None:
        pixels_HW4 = pixels_being_decoded(image)
        if pixels_HW4 is not None:
            decodings.append(Decoding(pixels_HW4))
            begun(decodings[0])

    file = image.fp
    assert isinstance(file, WatchedFile), file
    file.before_read = look
    try:
        image.load()
        for decoding in decodings:
            decoding.whole = True
    finally:
        file.before_read = None
        for decoding in decodings:
            decoding.over = True
