"""A Pillow image of 8-bit RGB comes in; its pixels, where Pillow keeps them, go out: to copy them takes longer than to
resize them.

Pillow shows its memory by the Arrow C data interface (https://arrow.apache.org/docs/format/CDataInterface.html): one
list per pixel, whose child array has the bytes.

Shape letters: H W pixels.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

# red, green, blue, and one that means nothing
PIXEL_BYTES = 4
# pixels copied at a time; each takes three times PIXEL_BYTES meanwhile
COPIED_AT_ONCE = 1 << 20


class _Kept:
    """Memory of somebody else's for numpy to look into. Pillow's lives as long as its capsule does."""

    def __init__(self, address: int, num_bytes: int, capsule: object, read_only: bool) -> None:
        self._capsule = capsule
        self.__array_interface__ = {
            "version": 3,
            "shape": (num_bytes,),
            "typestr": "|u1",
            "data": (address, read_only),
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
    seen = _in_place(image, lambda: image.__arrow_c_array__()[1], read_only=True)
    return _copied(image) if seen is None else seen


def pixels_being_decoded(image: Image) -> np.ndarray | None:
    """As `pixels_of`, writeable, of an image whose decoder has memory; None where it cannot be seen."""
    # Image's own method would first have the decoder finish
    return _in_place(image, lambda: image.im.__arrow_c_array__(), read_only=False)


def _copied(image: Image) -> np.ndarray:
    pixels_HW4 = np.empty((image.height, image.width, PIXEL_BYTES), dtype=np.uint8)
    num_rows = max(1, COPIED_AT_ONCE // image.width)
    for top in range(0, image.height, num_rows):
        part = image.crop((0, top, image.width, min(top + num_rows, image.height)))
        pixels_HW4[top : top + num_rows].reshape(-1)[:] = np.frombuffer(part.tobytes("raw", "RGBX"), dtype=np.uint8)
    pixels_HW4.flags.writeable = False
    return pixels_HW4


def _in_place(image: Image, shown: Callable[[], Any], *, read_only: bool) -> np.ndarray | None:
    """shown: gives the capsule of an array."""
    try:
        capsule = shown()
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
    flat = np.asarray(_Kept(child.buffers[1], num_bytes, capsule, read_only))
    return flat.reshape(image.height, image.width, PIXEL_BYTES)
