"""Every kind of image file becomes the reference's pixels, upright; every bad one a MediaError, in bounded memory."""

from __future__ import annotations

import base64
import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin, features

from sglang_nemotron.prompt import image_file
from sglang_nemotron.prompt.cargo import MediaError
from sglang_nemotron.prompt.image_file import ImageLimits, image_size, read_image
from support.costs import assert_cheap, cost, memory_peak
from support.waiting import NET_S

ORIENTATION = 0x0112
AVIF = pytest.param("AVIF", marks=pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF"))
SMOOTH = np.add.outer(np.arange(40) * 3, np.arange(60) * 2)[..., None].repeat(3, 2).astype(np.uint8) + np.uint8(
    [0, 9, 5]
)


def png_chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def png(width: int, height: int, *, colour: int = 2, depth: int = 8, chunks: bytes = b"", rows: bytes = b"") -> bytes:
    """A PNG written chunk by chunk; rows: its unpacked pixel data, filter bytes included."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = png_chunk(b"IHDR", header) + chunks + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def gif(width: int, height: int, frame: tuple[int, int] = (1, 1), frames: int = 1) -> bytes:
    """A GIF of hardly any bytes that claims a canvas and frames of any size."""
    start = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    image = b"\x2c" + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x44\x01\x00"
    return start + image * frames + b"\x3b"


def read(data: bytes) -> np.ndarray:
    sizes: list[tuple[int, int]] = []
    made = read_image(data, name="image 1", on_size=lambda *size: sizes.append(size))
    assert made.dtype == np.uint8 and made.ndim == 3 and made.shape[2] == 3
    assert [image_size(data, name="image 1")] == sizes == [(made.shape[1], made.shape[0])]
    return made


def as_reference(data: bytes) -> np.ndarray:
    """transformers' loader: upright, then converted."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


# --- good files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        *[("PNG", mode, {}) for mode in ("RGB", "RGBA", "L", "LA", "P", "1")],
        *[("JPEG", mode, {}) for mode in ("RGB", "L", "CMYK")],
        ("JPEG", "RGB", {"progressive": True, "subsampling": 2}),
        *[("WEBP", mode, {"lossless": lossless}) for mode in ("RGB", "RGBA") for lossless in (True, False)],
        *[("GIF", mode, {}) for mode in ("RGB", "L", "P")],
        *[("BMP", mode, {}) for mode in ("RGB", "L", "P", "1")],
        *[("TIFF", mode, {}) for mode in ("RGB", "RGBA", "CMYK", "L", "LAB", "F")],
        *[("TIFF", "RGB", {"compression": how}) for how in ("tiff_lzw", "jpeg", "tiff_adobe_deflate")],
    ],
)
def test_formats_and_modes_equal_the_reference(kind: str, mode: str, options: dict, encode: Callable) -> None:
    if mode == "LAB":
        picture = Image.merge("LAB", Image.fromarray(SMOOTH).split())
    else:
        picture = Image.fromarray(SMOOTH).convert(mode)
    if mode.endswith("A"):
        picture.putalpha(Image.fromarray((SMOOTH[..., 0] > 100).astype(np.uint8) * 200))
    data = encode(picture, kind, **options)
    np.testing.assert_array_equal(read(data), as_reference(data))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_is_dropped_not_blended(kind: str, encode: Callable) -> None:
    """As the reference does: the colour under a transparent pixel shows."""
    rgba = np.dstack([np.full((8, 8), value, np.uint8) for value in (200, 10, 30, 0)])
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    assert (read(encode(rgba, kind, **options)) == [200, 10, 30]).all()


@pytest.mark.parametrize("transparency", [3, bytes([255, 255, 255, 0])])
def test_palette_with_transparency(transparency: int | bytes, encode: Callable) -> None:
    indexed = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) % 4, "P")
    indexed.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    data = encode(indexed, "PNG", transparency=transparency)
    np.testing.assert_array_equal(read(data)[0], [[10, 20, 30], [40, 50, 60], [70, 80, 90], [100, 110, 120]])
    np.testing.assert_array_equal(read(data), as_reference(data))


@pytest.mark.parametrize(("kind", "big_endian"), [("PNG", False), ("TIFF", False), ("TIFF", True)])
def test_16_bit_grey_keeps_its_high_byte(kind: str, big_endian: bool, encode: Callable) -> None:
    grey = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    image = Image.fromarray(grey.astype(">u2")) if big_endian else Image.fromarray(grey)
    assert image.mode == ("I;16B" if big_endian else "I;16")
    data = encode(image, kind)
    np.testing.assert_array_equal(read(data), (grey >> 8).astype(np.uint8)[..., None].repeat(3, 2))
    # the reference turns nearly all of it white: a divergence on purpose
    assert (as_reference(data) == 255).mean() > 0.9


def test_16_bit_colour_keeps_its_high_byte() -> None:
    values = np.linspace(0, 65535, 10 * 7 * 3).astype(np.uint16).reshape(7, 10, 3)
    rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in values)
    data = png(10, 7, depth=16, rows=rows)
    np.testing.assert_array_equal(read(data), (values >> 8).astype(np.uint8))
    np.testing.assert_array_equal(read(data), as_reference(data))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_first_frame_of_many(kind: str, encode: Callable) -> None:
    first = Image.new("RGB", (20, 10), (255, 0, 0))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(first, kind, save_all=True, append_images=[Image.new("RGB", (20, 10), (0, 0, 255))] * 3, **options)
    assert (read(data) == [255, 0, 0]).all()


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "MPO", AVIF])
def test_orientation(kind: str, orientation: int, encode: Callable) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encode(SMOOTH, kind, exif=exif)
    made = read(data)
    np.testing.assert_array_equal(made, as_reference(data))
    assert made.shape == ((60, 40, 3) if orientation in (5, 6, 7, 8) else (40, 60, 3))


def test_orientation_of_png_behind_the_pixels_and_in_xmp(encode: Callable) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    plain = encode(SMOOTH, "PNG")
    late = plain[:-12] + png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\x00\x00")) + plain[-12:]
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="8"/>')
    for data in (late, encode(SMOOTH, "PNG", pnginfo=text)):
        assert read(data).shape == (60, 40, 3)
        np.testing.assert_array_equal(read(data), as_reference(data))


def test_broken_exif_is_ignored(encode: Callable) -> None:
    data = encode(SMOOTH, "JPEG", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff")
    assert read(data).shape == (40, 60, 3)


@pytest.mark.parametrize("size", [(1, 8000), (8000, 1), (1, 1)])
def test_long_and_tiny_images_are_legal(size: tuple[int, int], encode: Callable) -> None:
    assert read(encode(Image.new("RGB", size, (1, 2, 3)), "PNG")).shape == (size[1], size[0], 3)


def test_the_content_decides_the_format(encode: Callable) -> None:
    """A reader never sees a name or a declared type, so a mislabelled image is simply read."""
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        assert read(encode(SMOOTH, kind)).shape == (40, 60, 3)


def test_header_size_decodes_nothing(encode: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(np.zeros((3000, 2000, 3), np.uint8), "PNG")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    assert image_size(data, name="image 1") == (2000, 3000)


# --- bad files --------------------------------------------------------------------------------------------------------


@cache
def cost_of_photo() -> float:
    """Of reading an honest JPEG of 6 million pixels."""
    noise_HWC = np.random.default_rng(0).integers(0, 256, (2000, 3000, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise_HWC).save(file, "JPEG", quality=90)
    return cost(lambda: read_image(file.getvalue(), name="image 1"))


def refused(data: bytes, *, times: float = 2.0, megabytes: float = 32.0, limits: ImageLimits | None = None) -> str:
    """The message of the MediaError; by size and by pixels, it costs little memory, and less time than an honest photo.

    times: what both ways may cost together, in `cost_of_photo`.
    """
    messages: list[str] = []

    def both() -> None:
        messages.clear()
        for way in (image_size, read_image):
            try:
                way(data, name="image 2", limits=limits)
            except MediaError as error:
                messages.append(str(error))

    with memory_peak() as peak:
        both()
    assert messages and messages[-1].startswith("image 2: ")
    assert peak.num_bytes < megabytes * 1e6
    assert_cheap(both, beside=cost_of_photo(), times=times, what="an honest photo")
    return messages[-1]


def test_empty_and_foreign_files() -> None:
    assert refused(b"") == f"image 2: the file is empty (send {image_file.format_names()})"
    for data in (
        b"hello",
        b"<html></html>" * 100,
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"\x00" * 5000,
    ):
        assert "not an image" in refused(data) and "send PNG, JPEG" in refused(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", AVIF])
def test_truncated_files(kind: str, encode: Callable) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    whole = encode(noise, kind)
    for share in (0.002, 0.05, 0.3, 0.6, 0.9):
        refused(whole[: int(len(whole) * share)])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", AVIF])
def test_damaged_files_never_raise_anything_else(kind: str, encode: Callable) -> None:
    pick = np.random.default_rng(7)
    whole = encode(SMOOTH, kind)
    for _ in range(150):
        data = bytearray(whole)
        for place in pick.integers(0, min(len(data), 400), pick.integers(1, 8)):
            data[place] = pick.integers(0, 256)
        try:
            width, height = image_size(bytes(data), name="image 2")
            if width * height < 2_000_000:
                assert read_image(bytes(data), name="image 2").shape == (height, width, 3)
        except MediaError as error:
            assert error.item == "image 2"


# name -> (file, what it is told; Pillow 13 looks at the claim of a WebP before libwebp reserves its canvas)
ABSURD = {
    "png": (png(60_000, 60_000), "claims 3,600,000,000 pixels"),
    "png 2^31": (png(2**31 - 1, 2**31 - 1), "claims 4,611,686,014,132,420,609 pixels"),
    "png row": (png(89_478_486, 1), "89478486 x 1 pixels"),
    "gif": (gif(65_535, 65_535), "claims 4,294,836,225 pixels"),
    "gif frame": (gif(1, 1, frame=(65_535, 65_535)), "claims 4,294,836,225 pixels"),
    "bmp": (
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "claims 3,600,000,000 pixels",
    ),
    "webp": (
        b"RIFF\x16\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x00\x00\x00\x00" + b"\xfe\x3f\x00" * 2,
        "claims 268,402,689 pixels",
    ),
}
# reads each file with 64 MB of address space to spare, far less than any of the claimed images
CONFINED = """
import base64, resource, sys
import PIL.Image, torch
from sglang_nemotron.prompt.image_file import MediaError, read_image
PIL.Image.init()
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 64_000_000,) * 2)
for line in sys.stdin:
    try:
        print(tuple(read_image(base64.b64decode(line), name="image 2").shape))
    except MediaError as error:
        print(error)
"""


def too_many(claim: str) -> str:
    return f"image 2: {claim} (at most 89,478,485 pixels)"


@pytest.mark.parametrize("name", ABSURD)
def test_claims_of_absurd_sizes_are_refused_from_the_header(name: str) -> None:
    data, claim = ABSURD[name]
    assert refused(data, times=0.2, megabytes=2) == too_many(claim)


def test_absurd_claims_allocate_nothing(encode: Callable) -> None:
    honest = [encode(np.zeros((side, side, 3), np.uint8), "PNG") for side in (100, 7000)]
    files, claims = zip(*ABSURD.values(), strict=True)
    lines = "".join(base64.b64encode(data).decode() + "\n" for data in [*files, *honest])
    command = [sys.executable, "-c", CONFINED]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=NET_S, check=True)
    *refusals, small, large = done.stdout.splitlines()
    assert refusals == [too_many(claim) for claim in claims]
    # the confinement lets honest files through and bites where pixels are allocated
    assert small == "(100, 100, 3)"
    assert large == "image 2: too large to decode in the memory there is (send a smaller image)"


def test_own_limits(encode: Callable) -> None:
    data = encode(SMOOTH, "PNG")
    assert "60 x 40 pixels (at most 2,399 pixels)" in refused(data, limits=ImageLimits(max_pixels=2399))
    assert read_image(data, name="image 1", limits=ImageLimits(max_pixels=2400)).shape == (40, 60, 3)
    message = refused(data, limits=ImageLimits(max_bytes=10))
    assert message == f"image 2: the file has {len(data):,} bytes (at most 10 bytes)"


def test_gif_bomb_of_many_frames_costs_one_frame() -> None:
    data = gif(4000, 4000, frames=20_000)
    assert read(data).shape == (4000, 4000, 3)
    alone = cost(lambda: read(gif(4000, 4000, frames=1)))
    assert_cheap(lambda: read(data), beside=alone, times=4, what="the same picture in one frame")


def test_pixels_are_never_held_more_often_than_said() -> None:
    """The documented 9 bytes a pixel, of a file of 0.1 % of that."""
    import resource

    data = png(6000, 6000, rows=bytes(6000 * (6000 * 3 + 1)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_image(data, name="image 1").shape == (6000, 6000, 3)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert len(data) < 200_000 and grown < 10 * 6000 * 6000


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_compressed_text_bombs(kind: bytes) -> None:
    """100 MB of zeros in a metadata chunk: refused or skipped, never unpacked."""
    packed = zlib.compress(bytes(100_000_000), 9)
    head = b"Comment\x00\x01\x00\x00\x00" if kind == b"iTXt" else b"Comment\x00\x00"
    data = png(2, 2, chunks=png_chunk(kind, head + packed), rows=bytes(2 * 7))

    def skip_or_refuse() -> None:
        try:
            assert read_image(data, name="image 2").shape == (2, 2, 3)
        except MediaError as error:
            assert "too large" in str(error)

    with memory_peak() as peak:
        skip_or_refuse()
    assert peak.num_bytes < 16e6
    unpacked = cost(lambda: zlib.decompress(packed))
    assert_cheap(skip_or_refuse, beside=unpacked, times=0.25, what="unpacking them")


@pytest.mark.parametrize("at_once", [1, 2, 3, 7, 100])
def test_scans_are_counted_wherever_the_file_is_cut(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.random.default_rng(0).choice([0, 0xFF, 0xDA], 500).astype(np.uint8).tobytes()
    monkeypatch.setattr(image_file, "COUNTED_AT_ONCE", at_once)
    assert image_file._num_scans(data) == data.count(b"\xff\xda") > 30


def test_progressive_jpeg_of_endless_scans(encode: Callable) -> None:
    """Each scan of a few bytes costs a pass over the whole image."""
    whole = encode(np.zeros((4000, 4000, 3), np.uint8), "JPEG", progressive=True)
    assert read_image(whole, name="image 1").shape == (4000, 4000, 3)
    last = whole.rindex(image_file._JPEG_SCAN)
    data = whole[:-2] + whole[last:-2] * 3000 + whole[-2:]
    assert "scans (at most 89 at 4000 x 4000)" in refused(data, times=0.2, megabytes=8)


def test_the_bounds_can_fail(encode: Callable) -> None:
    """A file that is decoded whole does not pass as refused cheaply."""
    with pytest.raises(AssertionError):
        refused(encode(np.zeros((2000, 2000, 3), np.uint8), "PNG"))
    big = encode(np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), dtype=np.uint8), "PNG")
    with pytest.raises(AssertionError):
        refused(big[:-2000], times=0.02)
