"""A Pillow image of 8-bit RGB comes in; its pixels, where Pillow keeps them, go out.

`numpy.asarray(image)` would copy them, twice for a while. As measured in a media worker (2026-11-30,
`benchmarks/photo_memory.json`), a 12 MP photo takes 71 MB instead of 138 MB at most, and a JPEG 85 ms instead of 117
(a PNG, 372 instead of 401); at 1080p it is 21 instead of 30 MB, and 16 ms both. pyarrow could look there for us, at
42 MB more in each worker.

Pillow shows its memory by the Arrow C data interface (https://arrow.apache.org/docs/format/CDataInterface.html): one
list per pixel, whose child array has the bytes.

Shape letters: H W pixels.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

# red, green, blue, and one that means nothing
PIXEL_BYTES = 4
# pixels copied at a time; each takes three times PIXEL_BYTES meanwhile
COPIED_AT_ONCE = 1 << 20


class _Kept:
    """Memory of somebody else's for numpy to look into. Pillow's lives as long as its capsule does."""

    def __init__(self, address: int, num_bytes: int, capsule: object) -> None:
        self._capsule = capsule
        self.__array_interface__ = {
            "version": 3,
            "shape": (num_bytes,),
            "typestr": "|u1",
            "data": (address, True),
        }


class _ArrowArray(ctypes.Structure):
    """The fields of ArrowArray up to those that are read; `children` are pointers to more of them."""


_ArrowArray._fields_ = [
    *((name, ctypes.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
]

_address_in_capsule = ctypes.pythonapi.PyCapsule_GetPointer
_address_in_capsule.restype = ctypes.c_void_p
_address_in_capsule.argtypes = [ctypes.py_object, ctypes.c_char_p]


def pixels_of(image: Image) -> np.ndarray:
    """(H, W, 4) uint8, read-only; copied if they lie in several pieces, as those beyond PILLOW_BLOCK_SIZE (16 MB) do.

    image: mode RGB.
    """
    assert image.mode == "RGB", image.mode
    seen = _in_place(image)
    return _copied(image) if seen is None else seen


def _copied(image: Image) -> np.ndarray:
    pixels_HW4 = np.empty((image.height, image.width, PIXEL_BYTES), dtype=np.uint8)
    num_rows = max(1, COPIED_AT_ONCE // image.width)
    for top in range(0, image.height, num_rows):
        part = image.crop((0, top, image.width, min(top + num_rows, image.height)))
        pixels_HW4[top : top + num_rows].reshape(-1)[:] = np.frombuffer(part.tobytes("raw", "RGBX"), dtype=np.uint8)
    pixels_HW4.flags.writeable = False
    return pixels_HW4


def _in_place(image: Image) -> np.ndarray | None:
    """None where they cannot be seen."""
    try:
        _, capsule = image.__arrow_c_array__()
    except (AttributeError, ValueError):
        # Pillow before 11.2, or several pieces
        return None
    array = _ArrowArray.from_address(_address_in_capsule(capsule, b"arrow_array"))
    num_bytes = image.height * image.width * PIXEL_BYTES
    if array.n_children != 1 or array.offset:
        return None
    child = array.children[0].contents
    if child.length != num_bytes or child.n_buffers != 2 or child.offset:
        return None
    flat = np.asarray(_Kept(child.buffers[1], num_bytes, capsule))
    return flat.reshape(image.height, image.width, PIXEL_BYTES)
