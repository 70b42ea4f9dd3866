"""Media files that were made to do harm, each by a builder of some lines: bombs, lies, nests, endless ones, strangers.

Nothing here is random. `CASES` says of each what it is sent as, and what its refusal says if it must be refused.
"""

from __future__ import annotations

import gzip
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import soundfile
from PIL import Image

from hostile.files import Kind, film, moving, muxed, plain, still

MEGABYTE = 1 << 20
# of what may stand in each other
DEPTH = 100_000


class Case(NamedTuple):
    """says: words of the refusal; None for a file that may be read as well."""

    kind: Kind
    make: Callable[[], bytes]
    says: str | None


# ---- PNG


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *before: bytes, bits: int = 8, colour: int = 2, rows: bytes = bytes(100)) -> bytes:
    """Claims this size; `before` stand between header and pixels, which are `rows`, packed."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@cache
def packed_zeros(megabytes: int) -> bytes:
    """Zlib of so many megabytes: a thousandth of that."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(MEGABYTE)) for _ in range(megabytes)) + packer.flush()


def png_text_bomb(kind: bytes) -> bytes:
    head = {b"zTXt": b"Comment\0\0", b"iTXt": b"Comment\0\1\0\0\0", b"iCCP": b"profile\0\0"}[kind]
    return png(4, 4, chunk(kind, head + packed_zeros(1024)))


def png_pixels_bomb() -> bytes:
    """4 x 4 pixels, and a gigabyte of rows behind them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", packed_zeros(1024)) + chunk(b"IEND", b"")


# ---- GIF, WebP, TIFF, BMP, JPEG, AVIF


def gif(width: int, height: int, num_frames: int) -> bytes:
    """A canvas, and so many frames of 1 x 1."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(3) + b"\xff" * 3
    frame = b"!\xf9\4\0\1\0\0\0" + b",\0\0\0\0\1\0\1\0\0" + b"\2\2D\1\0"
    return head + frame * num_frames + b";"


def webp(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_canvas(num_frames: int) -> bytes:
    """16,384 x 16,384 in some hundred bytes, with frames of a pixel each."""
    pixel = io.BytesIO()
    Image.new("RGB", (1, 1)).save(pixel, "WEBP", lossless=True)
    picture = pixel.getvalue()[12:]
    size = struct.pack("<I", 16_383)[:3] * 2
    frame = bytes(6) + bytes(6) + struct.pack("<I", 100)[:3] + b"\0" + picture
    return webp((b"VP8X", b"\2\0\0\0" + size), (b"ANIM", bytes(6)), *[(b"ANMF", frame)] * num_frames)


def tiff(*tags: tuple[int, int, int, int], data: bytes = bytes(100), next_page: int = 0) -> bytes:
    """One page. tags: number, type, count, value. data: behind the tags."""
    page = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<I", 8) + page + struct.pack("<I", next_page) + data


def grey_tiff(width: int, height: int, *more: tuple[int, int, int, int], **options: int) -> bytes:
    own = {tag[0] for tag in more}
    usual = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    usual += [(273, 4, 1, 150), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 100)]
    tags = sorted([tag for tag in usual if tag[0] not in own] + list(more))
    return tiff(*tags, **options)


def bmp(width: int, height: int, *, bits: int = 24, packing: int = 0, data: bytes = bytes(64)) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, packing, 0, 0, 0, 256 if bits == 8 else 0, 0)
    palette = bytes(1024) if bits == 8 else b""
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54 + len(palette)) + head + palette + data


def sized_jpeg(width: int, height: int) -> bytes:
    """The frame header of a small JPEG says so."""
    data = bytearray(still("JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def jpeg_of_scans(num_scans: int) -> bytes:
    """8,192 x 8,192, of which every scan goes over all."""
    file = io.BytesIO()
    Image.new("L", (8192, 8192)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    at = data.rindex(b"\xff\xda")
    return data[:at] + data[at:-2] * num_scans + b"\xff\xd9"


def sized_avif() -> bytes:
    from sglang_nemotron.media.image.file import reads_avif

    if not reads_avif():
        return b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(200)
    data = bytearray(still("AVIF"))
    at = data.index(b"ispe") + 8
    data[at : at + 8] = struct.pack(">II", 65_535, 65_535)
    return bytes(data)


# ---- ISO boxes, Matroska, AVI


def box(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", 8 + len(data)) + kind + data


_TYPE = box(b"ftyp", b"isom\0\0\2\0isomiso2avc1mp41")


def nested_boxes(kinds: tuple[bytes, ...]) -> bytes:
    return _TYPE + b"".join(
        struct.pack(">I", 8 * (DEPTH - level)) + (kinds[level % len(kinds)] if level else b"moov")
        for level in range(DEPTH)
    )


def lying_mp4(table: bytes, skip: int, value: bytes) -> bytes:
    """A film of which one field of one table is another. skip: bytes between the table's name and the field."""
    data = bytearray(film("libx264", "mp4"))
    at = data.index(table) + len(table) + skip
    data[at : at + len(value)] = value
    return bytes(data)


def compressed_moov() -> bytes:
    """QuickTime lets the header itself be packed: here a gigabyte of it."""
    packed = packed_zeros(1024)
    inner = box(b"dcom", b"zlib") + box(b"cmvd", struct.pack(">I", 1 << 30) + packed)
    return _TYPE + box(b"moov", box(b"cmov", inner))


def mp4_of_another_file() -> bytes:
    """The media of its track lie in another file, it says."""
    data = film("libx264", "mp4")
    at = data.index(b"dref")
    entry = box(b"alis", bytes(4) + b"/etc/passwd\0" + bytes(200))
    return data[: at - 4] + box(b"dref", bytes(4) + struct.pack(">I", 1) + entry) + data[at + 24 :]


def element(identity: bytes, data: bytes, *, length: int | None = None) -> bytes:
    size = len(data) if length is None else length
    return identity + struct.pack(">Q", size | 1 << 56) + data


def nested_matroska() -> bytes:
    # chapters in chapters, which may be nested
    inner = b"".join(b"\xb6" + struct.pack(">Q", 9 * (DEPTH - level - 1) | 1 << 56) for level in range(DEPTH))
    head = element(b"\x1a\x45\xdf\xa3", element(b"\x42\x82", b"webm"))
    return head + element(b"\x18\x53\x80\x67", element(b"\x10\x43\xa7\x70", element(b"\x45\xb9", inner)))


def lying_matroska(length: int) -> bytes:
    head = element(b"\x1a\x45\xdf\xa3", element(b"\x42\x82", b"webm"))
    return head + element(b"\x18\x53\x80\x67", element(b"\x16\x54\xae\x6b", b"", length=length), length=length)


def nested_lists(form: bytes) -> bytes:
    inner = b"".join(b"LIST" + struct.pack("<I", 4 + 12 * (DEPTH - level - 1)) + b"hdrl" for level in range(DEPTH))
    return b"RIFF" + struct.pack("<I", 4 + len(inner)) + form + inner


# ---- sound


def wav(
    *,
    rate: int = 8000,
    channels: int = 1,
    bits: int = 16,
    form: int = 1,
    size: int | None = None,
    samples: bytes = bytes(4000),
    before: bytes = b"",
) -> bytes:
    align = max(0, min(channels * bits // 8, 65_535))
    fmt = struct.pack("<HHIIHH", form, channels, rate, min(rate * align, 2**32 - 1), align, bits)
    length = len(samples) if size is None else size
    body = (
        b"WAVE" + before + b"fmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", length) + samples
    )
    return b"RIFF" + struct.pack("<I", min(len(body), 2**32 - 1)) + body


def lying_flac(*, rate: int = 8000, channels: int = 1, samples: int = 1200) -> bytes:
    """Of STREAMINFO, the fields that tell rate (20 bits), channels and count of samples (36 bits)."""
    data = bytearray(plain("FLAC"))
    data[18:26] = struct.pack(">Q", rate << 44 | (channels - 1) << 41 | 15 << 36 | samples)
    return bytes(data)


def flac_of_blocks(count: int) -> bytes:
    """So many empty blocks of padding before the first frame."""
    data = plain("FLAC")
    return data[:42].replace(data[4:5], b"\0", 1) + b"\1\0\0\0" * count + data[42:]


def silent_flac(*, hours: float, channels: int, rate: int) -> bytes:
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, channels, format="FLAC", subtype="PCM_16") as made:
        minute = np.zeros((60 * rate, channels), np.int16)
        for _ in range(int(hours * 60)):
            made.write(minute)
    return file.getvalue()


def lying_aiff(*, frames: int = 1200, rate: bytes = b"") -> bytes:
    data = bytearray(plain("AIFF"))
    at = data.index(b"COMM") + 8
    data[at + 2 : at + 6] = struct.pack(">I", frames)
    if rate:
        data[at + 8 : at + 18] = rate
    return bytes(data)


def lying_au(size: int, rate: int = 8000, channels: int = 1) -> bytes:
    return b".snd" + struct.pack(">IIIII", 24, size, 3, rate, channels) + bytes(4000)


def tagged_mp3(claimed: int) -> bytes:
    """An ID3 tag that says it is so long."""
    size = bytes(claimed >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\4\0\0" + size + muxed("mp3", "libmp3lame")


def ogg_streams(count: int) -> bytes:
    """So many tracks, each of which begins and has nothing."""
    head = b"OpusHead\1\1" + struct.pack("<HIhB", 0, 48_000, 0, 0)
    pages = [
        b"OggS\0\2" + bytes(8) + struct.pack("<III", serial, 0, 0) + bytes((1, len(head))) + head
        for serial in range(count)
    ]
    return b"".join(pages)


def late_ogg() -> bytes:
    """Its last page says that it ends in three hundred thousand years."""
    data = bytearray(plain("OGG", "VORBIS"))
    at = data.rindex(b"OggS")
    data[at + 6 : at + 14] = struct.pack("<q", 2**63 - 1)
    return bytes(data)


# ---- what is no media at all


def archive(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr(name, bytes(10 * MEGABYTE))
    return file.getvalue()


LAUGHS = (
    b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a "ha">'
    + b"".join(b'<!ENTITY %c "%s">' % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(9))
    + b']><svg xmlns="http://www.w3.org/2000/svg"><text>&j;</text><image href="file:///etc/passwd"/></svg>'
)
STRANGERS: dict[str, Callable[[], bytes]] = {
    "SVG": lambda: LAUGHS,
    "SVG that asks elsewhere": lambda: b'<svg xmlns:xlink="x"><image xlink:href="http://169.254.169.254/"/></svg>',
    "PDF": lambda: b"%PDF-1.7\n1 0 obj<</Length 99999999>>stream\n" + bytes(2000),
    "PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
    "ZIP": lambda: archive("a.png"),
    "ZIP in a ZIP": lambda: archive("a.zip") + archive("b.zip"),
    "gzip": lambda: gzip.compress(still("PNG")),
    "xz": lambda: lzma.compress(bytes(MEGABYTE)),
    "HTML": lambda: b"<!DOCTYPE html><html><script>alert(1)</script></html>",
    "JSON": lambda: b'{"error": "not found"}',
    "a playlist": lambda: b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "a list of files": lambda: b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "DASH": lambda: b'<?xml version="1.0"?><MPD><BaseURL>http://127.0.0.1/</BaseURL></MPD>',
    "SDP": lambda: b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n",
    "a pickle": lambda: b"\x80\x04cos\nsystem\n\x8c\x04true\x85R.",
    "an ELF program": lambda: b"\x7fELF\2\1\1" + bytes(2000),
    "blanks": lambda: b" " * MEGABYTE,
    "nothing but zeros": lambda: bytes(MEGABYTE),
    "a MIDI file": lambda: b"MThd\0\0\0\6\0\1\xff\xff\0\x60" + b"MTrk\xff\xff\xff\xff",
    "a cursor": lambda: b"\0\0\2\0\1\0\0\0\0\0\0\0\xff\xff\xff\x7f\x16\0\0\0",
    "a PSD": lambda: b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 300_000, 300_000, 8, 3),
}
_SENT_AS: tuple[Kind, ...] = ("image", "video", "sound")

_TOO_MANY = "at most 89,478,485 pixels"
CASES: dict[str, Case] = {
    # claims of size
    "PNG of 60,000 x 60,000": Case("image", lambda: png(60_000, 60_000), _TOO_MANY),
    "PNG of 2**31 x 2**31": Case("image", lambda: png(2**31 - 1, 2**31 - 1), _TOO_MANY),
    "PNG of nothing": Case("image", lambda: png(0, 0), "image 7: "),
    "GIF of 65,535 x 65,535": Case("image", lambda: gif(65_535, 65_535, 1), _TOO_MANY),
    "WebP of 16,384 x 16,384": Case("image", lambda: webp_canvas(1), _TOO_MANY),
    "TIFF of 2**32 x 2**32": Case("image", lambda: grey_tiff(2**32 - 1, 2**32 - 1), _TOO_MANY),
    "BMP of 2**31 x 2**31": Case("image", lambda: bmp(2**31 - 1, 2**31 - 1), _TOO_MANY),
    "BMP upside down": Case("image", lambda: bmp(2**31 - 1, -(2**31) + 1), _TOO_MANY),
    "JPEG of 65,535 x 65,535": Case("image", lambda: sized_jpeg(65_535, 65_535), _TOO_MANY),
    "AVIF of 65,535 x 65,535": Case("image", sized_avif, "image 7: "),
    "PNG of as many pixels as are read, of one bit": Case(
        "image", lambda: png(9459, 9459, bits=1, colour=0, rows=bytes((9459 + 7) // 8 + 1) * 9459), None
    ),
    "PNG of as many pixels as are read, of 16 bits": Case(
        "image", lambda: png(9459, 9459, bits=16, colour=0, rows=bytes(9459 * 2 + 1) * 9459), None
    ),
    # bombs
    **{
        f"a gigabyte in {kind.decode()}": Case("image", lambda kind=kind: png_text_bomb(kind), None)
        for kind in (b"zTXt", b"iTXt", b"iCCP")
    },
    "a gigabyte behind the pixels": Case("image", png_pixels_bomb, None),
    "a million chunks": Case("image", lambda: png(4, 4, chunk(b"tEXt", b"a\0b") * 1_000_000), None),
    "TIFF, deflated gigabyte": Case(
        "image",
        lambda: grey_tiff(4, 4, (259, 3, 1, 8), (279, 4, 1, 2**31), data=packed_zeros(1024)),  # type: ignore[arg-type]
        None,
    ),
    "TIFF that leads back to itself": Case("image", lambda: grey_tiff(4, 4, next_page=8), None),
    "TIFF of 2**32 strips": Case("image", lambda: grey_tiff(4, 4, (273, 4, 2**32 - 1, 150)), None),
    "BMP that repeats itself": Case("image", lambda: bmp(9459, 9459, bits=8, packing=1, data=b"\xff\0" * 40_000), None),
    "JPEG of 20,000 scans": Case("image", lambda: jpeg_of_scans(20_000), "scans"),
    # a million frames
    "GIF of a million frames, a picture": Case("image", lambda: gif(8, 8, 1_000_000), None),
    "GIF of a million frames, a video": Case("video", lambda: gif(32, 32, 1_000_000), "video 7: "),
    "WebP of a hundred thousand frames": Case("image", lambda: webp_canvas(100_000), _TOO_MANY),
    "PNG that claims 2**32 frames": Case(
        "image", lambda: moving("PNG").replace(b"acTL\0\0\0\3", b"acTL\xff\xff\xff\xff"), None
    ),
    # video
    **{
        f"MP4 whose {table.decode()} claims 2**32": Case(
            "video", lambda table=table, skip=skip: lying_mp4(table, skip, b"\xff" * 4), None
        )
        for table, skip in ((b"stsz", 8), (b"stco", 4), (b"stts", 4), (b"stsc", 4), (b"stss", 4), (b"elst", 4))
    },
    "MP4 whose track lasts a century": Case("video", lambda: lying_mp4(b"mdhd", 16, b"\x7f" + b"\xff" * 3), None),
    "MP4 that lasts a century": Case("video", lambda: lying_mp4(b"mvhd", 16, b"\x7f" + b"\xff" * 3), None),
    "MP4 without a clock": Case("video", lambda: lying_mp4(b"mdhd", 12, bytes(4)), None),
    "MP4 of 65,535 x 65,535": Case("video", lambda: lying_mp4(b"avc1", 24, b"\xff" * 4), None),
    "MP4 of 100,000 boxes in each other": Case(
        "video", lambda: nested_boxes((b"trak", b"mdia", b"minf", b"stbl")), "video 7: "
    ),
    "MP4 of a million boxes": Case("video", lambda: _TYPE + box(b"free") * 1_000_000, "video 7: "),
    "MP4 whose header is packed": Case("video", compressed_moov, "video 7: "),
    "MP4 of another file": Case("video", mp4_of_another_file, None),
    "Matroska of chapters in chapters": Case("video", nested_matroska, "video 7: "),
    "Matroska that claims 2**56 bytes": Case("video", lambda: lying_matroska(2**56 - 2), "video 7: "),
    "AVI of lists in lists": Case("video", lambda: nested_lists(b"AVI "), "video 7: "),
    # sound
    "WAV of 65,535 channels": Case("sound", lambda: wav(channels=65_535), "sound 7: "),
    "WAV of no channel": Case("sound", lambda: wav(channels=0), "sound 7: "),
    "WAV at 2**32 Hz": Case("sound", lambda: wav(rate=2**32 - 1), "sound 7: "),
    "WAV at 0 Hz": Case("sound", lambda: wav(rate=0), "sound 7: "),
    "WAV of 65,535 bits": Case("sound", lambda: wav(bits=65_535), "sound 7: "),
    "WAV that claims 2**31 bytes": Case("sound", lambda: wav(size=2**31 - 2**17), "sound 7: "),
    "WAV of an unknown form": Case("sound", lambda: wav(form=0x4242), "sound 7: "),
    "WAV of a million lists": Case("sound", lambda: wav(before=b"LIST\0\0\0\0" * 1_000_000), None),
    "WAV of lists in lists": Case("sound", lambda: nested_lists(b"WAVE"), "sound 7: "),
    "FLAC that claims 2**36 samples": Case("sound", lambda: lying_flac(samples=2**36 - 1), "at most 3600 s"),
    "FLAC at 1 Hz": Case("sound", lambda: lying_flac(rate=1), "sound 7: "),
    "FLAC at 655,350 Hz": Case("sound", lambda: lying_flac(rate=655_350), "sound 7: "),
    "FLAC of a hundred thousand blocks": Case("sound", lambda: flac_of_blocks(100_000), None),
    "FLAC of nine hours": Case("sound", lambda: silent_flac(hours=9, channels=1, rate=8000), "at most 3600 s"),
    "AIFF that claims 2**32 frames": Case("sound", lambda: lying_aiff(frames=2**32 - 1), None),
    "AIFF at an infinite rate": Case("sound", lambda: lying_aiff(rate=b"\x7f\xff" + b"\xff" * 8), "sound 7: "),
    "AIFF at a negative rate": Case("sound", lambda: lying_aiff(rate=b"\xc0\x0b\xfa" + bytes(7)), "sound 7: "),
    "AU of 2**31 channels": Case("sound", lambda: lying_au(4000, channels=2**31), "sound 7: "),
    "AU that claims 2**31 bytes": Case("sound", lambda: lying_au(2**31), None),
    "MP3 behind a tag of 256 MB": Case("sound", lambda: tagged_mp3(2**28 - 1), "sound 7: "),
    "OGG of a thousand tracks": Case("sound", lambda: ogg_streams(1000), "sound 7: "),
    "OGG that never ends": Case("sound", late_ogg, None),
    # of another kind
    **{
        f"{name}, sent as {kind}": Case(kind, make, f"{kind} 7: ")
        for name, make in STRANGERS.items()
        for kind in _SENT_AS
    },
}
