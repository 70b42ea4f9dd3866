"""The first bytes of a file come in; what it is, for the error of whoever cannot read it, goes out. Nothing is decoded.

Where a file's bytes decide what it is, its name and the type that a client claims do not.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

# container: of video or of sound alone. other: neither picture nor video nor sound
Sort = Literal["image", "audio", "container", "other"]
Wanted = Literal["image", "video", "audio"]


class FileKind(NamedTuple):
    """label: with its article, "a PNG picture"."""

    label: str
    sort: Sort


_BEGINS: tuple[tuple[bytes, FileKind], ...] = (
    (b"\x89PNG\r\n\x1a\n", FileKind("a PNG picture", "image")),
    (b"\xff\xd8\xff", FileKind("a JPEG picture", "image")),
    # a video in this server, where it moves
    (b"GIF8", FileKind("a GIF picture", "image")),
    (b"BM", FileKind("a BMP picture", "image")),
    (b"II*\0", FileKind("a TIFF picture", "image")),
    (b"MM\0*", FileKind("a TIFF picture", "image")),
    (b"\xff\x0a", FileKind("a JPEG XL picture", "image")),
    (b"\0\0\0\x0cJXL ", FileKind("a JPEG XL picture", "image")),
    (b"ID3", FileKind("an MP3 file", "audio")),
    (b"fLaC", FileKind("a FLAC file", "audio")),
    (b"RIFX", FileKind("a WAV file", "audio")),
    (b"RF64", FileKind("a WAV file", "audio")),
    (b"FORM", FileKind("an AIFF file", "audio")),
    (b".snd", FileKind("an AU file", "audio")),
    (b"caff", FileKind("a CAF file", "audio")),
    (b"#!AMR", FileKind("an AMR file", "audio")),
    (b"\x1aE\xdf\xa3", FileKind("a WebM or MKV file", "container")),
    (b"OggS", FileKind("an OGG file", "container")),
    (b"FLV\x01", FileKind("an FLV file", "container")),
    (b"\x00\x00\x01\xba", FileKind("an MPEG file", "container")),
    (b"0&\xb2u\x8ef\xcf\x11", FileKind("an ASF file", "container")),
    (b"%PDF", FileKind("a PDF document", "other")),
    (b"PK\x03\x04", FileKind("a ZIP archive or an Office document", "other")),
    (b"\x1f\x8b", FileKind("a gzip archive", "other")),
    (b"#EXTM3U", FileKind("a playlist, which is not followed", "other")),
)
_RIFF = {
    b"WAVE": FileKind("a WAV file", "audio"),
    b"WEBP": FileKind("a WebP picture", "image"),
    b"AVI ": FileKind("an AVI file", "container"),
}
# major brands of ISO/IEC 14496-12 files; "mif1" is followed by what it is in detail
_STILLS = {
    b"avif": FileKind("an AVIF picture", "image"),
    # one that moves, of which FFmpeg sees the first picture first
    b"avis": FileKind("an AVIF picture", "image"),
    b"heic": FileKind("a HEIC picture", "image"),
    b"heix": FileKind("a HEIC picture", "image"),
}
_SOUNDS = (b"M4A ", b"M4B ", b"M4P ", b"F4A ")
_MARKUP = ((b"<svg", FileKind("an SVG drawing", "other")), (b"<html", FileKind("an HTML page", "other")))
# bytes that decide
HEAD = 1024


def kind_of(data: bytes) -> FileKind | None:
    """None for what is not known here."""
    head = bytes(data[:HEAD])
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12])
    if head[4:8] == b"ftyp":
        return _of_brands(head)
    for begin, kind in _BEGINS:
        if head.startswith(begin):
            return kind
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return FileKind("an AAC file" if head[1] & 0xF6 == 0xF0 else "an MP3 file", "audio")
    if len(data) > 188 and data[0] == data[188] == 0x47:
        return FileKind("an MPEG-TS file", "container")
    return _of_text(head)


def _of_brands(head: bytes) -> FileKind:
    size = int.from_bytes(head[:4], "big")
    major, brands = head[8:12], [head[at : at + 4] for at in range(16, min(size, len(head)) - 3, 4)]
    if major in _SOUNDS:
        return FileKind("an M4A file", "audio")
    for brand in (major, *(brands if major == b"mif1" else ())):
        if brand in _STILLS:
            return _STILLS[brand]
    return FileKind("an MP4 or QuickTime file", "container")


def _of_text(head: bytes) -> FileKind | None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<", b"<?xml", b"<!doctype")):
        return next((kind for begin, kind in _MARKUP if begin in text), FileKind("a page of HTML or XML", "other"))
    if text.startswith((b"{", b"[")):
        return FileKind("JSON", "other")
    return None


def other_than(wanted: Wanted, data: bytes) -> tuple[str, str] | None:
    """(what the file is, how an advice begins) if it is something else than what it was sent as; None if not known.

    A container may hold a video or sound alone, and a GIF may move: whether they do is for whoever opens them. The
    advice goes on with what else could be sent: "send it as audio, or ".
    """
    kind = kind_of(data)
    if kind is None or kind.sort == wanted or (kind.sort == "container" and wanted != "image"):
        return None
    advice = {
        "image": "send it as an image, or ",
        "audio": "send it as audio, or ",
        "container": "send it as a video, or as audio if it is only heard, or ",
        "other": "",
    }
    return kind.label, advice[kind.sort]


def is_still(data: bytes) -> bool:
    """Whether it is a picture that FFmpeg would take for a video, of which it may see one tile."""
    kind = kind_of(data)
    return kind is not None and kind in _STILLS.values()
