"""The bytes of an image file come in; its upright size, or its upright pixels as uint8 RGB, go out.

The content decides the format, never a name. Nothing here may know grids, prompts or where the bytes came from.

Pixels that are not 8-bit RGB become what the reference processor makes of them (Pillow's conversion to RGB):
transparency is dropped, not blended, so hidden colours show; CMYK converts without a profile. Orientation is applied
(EXIF, else XMP), as transformers' own image loader does; SGLang's and torchvision's leave photos lying. One difference:
16-bit grey keeps its high byte, where the reference cuts everything above 255 to white.

Shape letters: H W pixels, C colour channels (3: red, green, blue).
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from sglang_nemotron.media.features import CHANNELS
from sglang_nemotron.media.file_kinds import kind_of, other_than
from sglang_nemotron.media.image.memory import pixels_of
from sglang_nemotron.prompt.errors import MediaError

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose
    from PIL.ImageFile import ImageFile

# as Pillow names them; the last is read where Pillow can
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
FORMAT_NAMES = "PNG, JPEG, WebP, GIF, BMP or TIFF"
FORMAT_NAMES_WITH_AVIF = "PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF"
# MPO is a JPEG with further pictures behind it, as many phones write it
JPEGS = ("JPEG", "MPO")
UNREAD = ("a HEIC picture", "a JPEG XL picture")
# decoding a progressive JPEG costs one pass over the image per scan; cameras and browsers' encoders write up to a dozen
PASSES_AT_FULL_SIZE = 16
MAX_PNG_CHUNKS = 1_000_000
# bytes of a JPEG in which scans are counted at a time
COUNTED_AT_ONCE = 1 << 20
# what a damaged file leads Pillow's decoders into: OSError is mere truncation, the rest comes of hostile values
DECODER_ERRORS = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError),
    *(RuntimeError, AssertionError, struct.error, zlib.error),
)
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_SCAN = b"\xff\xda"
_ORIENTATION = 0x0112


@cache
def reads_avif() -> bool:
    """Whether Pillow was built with AVIF: its wheels are, from 11.3 on."""
    from PIL import features

    return "avif" in features.modules and bool(features.check("avif"))


def format_names() -> str:
    """What can be sent, for errors."""
    return FORMAT_NAMES_WITH_AVIF if reads_avif() else FORMAT_NAMES


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What a file may cost. max_pixels: width * height; decoding takes up to 9 bytes of memory for each.

    The default is where Pillow begins to speak of decompression bombs, and covers 8192 x 8192. max_bytes: of the file.
    """

    max_pixels: int = 89_478_485
    max_bytes: int = 256 * 1024 * 1024


def image_size(data: bytes, *, name: str, limits: ImageLimits | None = None) -> tuple[int, int]:
    """(width, height) of the upright image, from the header alone: no pixel is decoded. Errors as of `read_image`."""
    limits = limits or ImageLimits()
    with _opened(data, name, limits) as image:
        return _upright(image.size, _transposition(image, data))


def read_image(
    data: bytes,
    *,
    name: str,
    limits: ImageLimits | None = None,
    on_size: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """uint8 (H, W, 3) RGB, upright, of the first frame, read-only. A view: pixels are four bytes apart.

    name: which item, for the error ("image 2"). on_size: gets the upright width and height before a pixel is decoded,
    and may raise MediaError. A file that is empty, of another format, broken, too large for `limits` (refused from its
    header) or a decompression bomb is a MediaError.
    """
    with _opened(data, name, limits or ImageLimits()) as image:
        method = _transposition(image, data)
        if on_size is not None:
            on_size(*_upright(image.size, method))
        # in one go: between pieces, the decoder would wait for the interpreter's lock
        image.decodermaxblock = max(image.decodermaxblock, len(data))
        image.load()
        rgb = _to_rgb(image)
        return pixels_of(rgb if method is None else rgb.transpose(method))[:, :, :CHANNELS]


@contextmanager
def _opened(data: bytes, name: str, limits: ImageLimits) -> Iterator[ImageFile]:
    """The image with its header read and its costs checked; whatever a decoder raises inside becomes a MediaError."""
    from PIL import Image, UnidentifiedImageError

    _check_file(data, name, limits)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS if reads_avif() else FORMATS[:-1]) as image:
            _check_costs(image, data, name, limits)
            yield image
    except UnidentifiedImageError:
        raise _unknown(data, name) from None
    except Image.DecompressionBombError as error:
        raise MediaError(name, _claim(error), f"at most {limits.max_pixels:,} pixels") from None
    except MemoryError:
        raise MediaError(name, "too large to decode in the memory there is", "send a smaller image") from None
    except MediaError:
        raise
    except DECODER_ERRORS as error:
        raise MediaError(name, f"damaged or incomplete image file: {_first_line(error)}") from error


def _unknown(data: bytes, name: str) -> MediaError:
    send = f"send {format_names()}"
    other = other_than("image", data)
    if other is not None:
        return MediaError(name, f"not an image, but {other[0]}", other[1] + send)
    kind = kind_of(data)
    if kind is not None and kind.label == "an AVIF picture" and not reads_avif():
        return MediaError(
            name, "an AVIF picture, which this server's Pillow cannot read", f"install Pillow 11.3 or later, or {send}"
        )
    if kind is not None and kind.label in UNREAD:
        return MediaError(name, f"{kind.label}, which is not read", send)
    return MediaError(name, "not an image, or one whose header is broken", send)


def _claim(error: Exception) -> str:
    """Pillow's count without Pillow's own limit, which is not ours."""
    claimed = re.search(r"\((\d+) pixels\)", str(error))
    return f"claims {int(claimed[1]):,} pixels" if claimed else "claims too many pixels"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _check_file(data: bytes, name: str, limits: ImageLimits) -> None:
    if not data:
        raise MediaError(name, "the file is empty", f"send {format_names()}")
    if len(data) > limits.max_bytes:
        raise MediaError(name, f"the file has {len(data):,} bytes", f"at most {limits.max_bytes:,} bytes")


def _check_costs(image: Image, data: bytes, name: str, limits: ImageLimits) -> None:
    """From the header, before anything is allocated for pixels."""
    width, height = image.size
    if width < 1 or height < 1:
        raise MediaError(name, f"{width} x {height} pixels", "at least 1 x 1")
    if width * height > limits.max_pixels:
        raise MediaError(name, f"{width} x {height} pixels", f"at most {limits.max_pixels:,} pixels")
    if image.format in JPEGS:
        num_scans = _num_scans(data)
        allowed = PASSES_AT_FULL_SIZE * limits.max_pixels // (width * height)
        if num_scans > allowed:
            raise MediaError(name, f"a JPEG of {num_scans:,} scans", f"at most {allowed:,} at {width} x {height}")


def _num_scans(data: bytes) -> int:
    """Of a JPEG and its thumbnails: inside a scan, ff is always followed by 00 or a restart marker."""
    start, marker = _JPEG_SCAN
    file, found = np.frombuffer(data, dtype=np.uint8), 0
    # eight times as fast as bytes.count, which matters for a file of half a megabyte
    for at in range(0, len(file) - 1, COUNTED_AT_ONCE):
        piece = file[at : at + COUNTED_AT_ONCE + 1]
        found += int(np.count_nonzero((piece[:-1] == start) & (piece[1:] == marker)))
    return found


def _upright(size: tuple[int, int], method: Transpose | None) -> tuple[int, int]:
    """(width, height) of an image that `method` makes upright."""
    from PIL.Image import Transpose

    turned = (Transpose.TRANSPOSE, Transpose.TRANSVERSE, Transpose.ROTATE_90, Transpose.ROTATE_270)
    return (size[1], size[0]) if method in turned else size


def _transposition(image: Image, data: bytes) -> Transpose | None:
    """What makes the image upright; None if nothing. Asks the header only, and never decodes."""
    from PIL import Image

    if image.format == "TIFF":
        # Pillow turns these itself, size and pixels
        return None
    if image.format == "PNG" and "exif" not in image.info:
        exif = _png_exif(data)
        if exif is not None:
            image.info["exif"] = b"Exif\x00\x00" + exif
    try:
        # the base class's: a PNG's own would decode the pixels in search of a later chunk, which was found above
        orientation = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except DECODER_ERRORS:
        # a photo with broken metadata is still a photo
        return None
    transpose = Image.Transpose
    return {
        2: transpose.FLIP_LEFT_RIGHT,
        3: transpose.ROTATE_180,
        4: transpose.FLIP_TOP_BOTTOM,
        5: transpose.TRANSPOSE,
        6: transpose.ROTATE_270,
        7: transpose.TRANSVERSE,
        8: transpose.ROTATE_90,
    }.get(orientation)


def _png_exif(data: bytes) -> bytes | None:
    """The payload of the eXIf chunk, which may stand after the pixels; walks chunk headers, reads no pixel."""
    position = len(_PNG_SIGNATURE)
    for _ in range(MAX_PNG_CHUNKS):
        if position + 8 > len(data):
            return None
        length = int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] == b"eXIf":
            return data[position + 8 : position + 8 + length]
        position += 12 + length
    return None


def _to_rgb(image: Image) -> Image:
    """First frame as 8-bit RGB."""
    from PIL import Image

    # 16-bit grey; older Pillow calls a PNG's "I"
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        high_HW = (np.asarray(image).astype(np.int32) >> 8).clip(0, 255).astype(np.uint8)
        image = Image.fromarray(high_HW)
    return image if image.mode == "RGB" else image.convert("RGB")
