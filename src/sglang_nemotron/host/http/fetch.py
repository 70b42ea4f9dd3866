"""What a client sent for one media item comes in (URL, data URI, base64, path, bytes); the path of a file goes out.

Where it may come from is the operator's to say (`Origins`). Nothing is decoded here, and nothing holds the
interpreter's lock for long: the bytes go to a file piece by piece. No error shows more of what was sent than a few
characters, as errors are logged, and URLs hold passwords and signatures.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlparse

from sglang_nemotron.host.http.base64_text import ALPHABET, Decoder
from sglang_nemotron.host.http.body_spool import REFERENCE, Spool, spooled
from sglang_nemotron.host.http.download import NotFetched, download
from sglang_nemotron.prompt.errors import MediaError
from sglang_nemotron.reader.origins import FOLDERS, Origins
from sglang_nemotron.reader.scratch import in_shared_or_temporary, write_all
from sglang_nemotron.sglang_api.media import ImageData, VideoData

# characters of base64 decoded at once
_PIECE = 2**20
_MOST_PATH = 4096
# where the payload of a data URI begins: types have commas of their own ("codecs=vp9,opus"), and a client may wrap one
# data URI into another
_PAYLOAD = re.compile(r"; *base64 *,", re.IGNORECASE)
_MOST_HEAD = 1024
# characters of an item that an error may show: of base64, what kind of file it is
_SHOWN = 12
# what another scheme than those above begins with; no base64 has a colon
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file to read. ours: whether it is to be removed afterwards."""

    path: str
    ours: bool

    def drop(self) -> None:
        if self.ours:
            with contextlib.suppress(OSError):
                os.unlink(self.path)


def fetch(item: Any, *, name: str, max_file: int, seconds: float, stamp: str, origins: Origins) -> Fetched:
    """Makes a file of an item. Blocks: for a thread. MediaError naming the item and the limit."""
    if isinstance(item, ImageData | VideoData):
        item = item.url
    elif isinstance(item, dict) and isinstance(item.get("url"), str):
        item = item["url"]
    if isinstance(item, str):
        return _fetch_text(item, name, max_file, seconds, stamp, origins)
    if isinstance(item, bytes | bytearray | memoryview):
        return _keep(lambda: [bytes(item)], name, max_file, stamp)
    save = getattr(item, "save", None)
    if save is not None and hasattr(item, "getbands"):
        # a picture of Pillow's, from a program that calls the engine directly
        buffer = io.BytesIO()
        save(buffer, format="PNG", compress_level=1)
        return _keep(lambda: [buffer.getvalue()], name, max_file, stamp)
    raise MediaError(
        name, f"cannot be read from a {type(item).__name__}", "give a URL, a data URI, base64, a path or bytes"
    )


def _fetch_text(text: str, name: str, max_file: int, seconds: float, stamp: str, origins: Origins) -> Fetched:
    if text[:1].isspace():
        text = text.lstrip()
    scheme = text[:8].lower()
    if scheme.startswith(("http://", "https://")):
        url = text.rstrip()
        return _keep(lambda: _downloaded(url, name, seconds, origins), name, max_file, stamp)
    if scheme.startswith("data:"):
        start = _payload(text[:_MOST_HEAD])
        if not start:
            raise MediaError(name, "the data URI has no comma after its type")
        return _keep(lambda: _decoded(text, start, name, max_file), name, max_file, stamp)
    if scheme.startswith("file://"):
        return _file(unquote(urlparse(text).path), name, origins)
    other = _SCHEME.match(text[:60])
    if other is not None and not text.startswith(REFERENCE):
        raise MediaError(name, f"{other[1]}: is no scheme that is read", "give a URL of http or https, or base64")
    # whether another file exists is nobody's business
    if origins.names_files and len(text) < _MOST_PATH and "\0" not in text:
        real = origins.file(text)
        if real is not None and os.path.isfile(real):
            return Fetched(real, ours=False)
    return _keep(lambda: _decoded(text, 0, name, max_file), name, max_file, stamp)


def _file(path: str, name: str, origins: Origins) -> Fetched:
    real = None if "\0" in path else origins.file(path)
    if real is None:
        raise MediaError(
            name,
            "it names a file of the server, which is none that may be read",
            f"send its bytes as base64; the operator may name folders in {FOLDERS}",
        )
    return Fetched(real, ours=False)


def _payload(head: str) -> int:
    """Where the payload of a data URI that begins so begins; 0 if nowhere. One that claims no base64 is base64 too."""
    ends = [found.end() for found in _PAYLOAD.finditer(head)]
    return ends[-1] if ends else head.find(",") + 1


def _downloaded(url: str, name: str, seconds: float, origins: Origins) -> Iterator[bytes]:
    try:
        yield from download(url, origins, seconds=seconds)
    except NotFetched as error:
        raise MediaError(name, f"cannot be fetched: {error}", f"{seconds:g} s at most") from error


def _decoded(text: str, start: int, name: str, max_file: int) -> Iterator[bytes]:
    """The bytes of base64 that begins at `start`, after the head of a data URI if that is not 0."""
    spool = spooled(text[start : start + 100])
    if spool is not None:
        yield from _unspooled(spool, start > 0, name, max_file)
        return
    if start == len(text):
        raise MediaError(name, "the file is empty (0 bytes)")
    pieces = (text[begin : begin + _PIECE] for begin in range(start, len(text), _PIECE))
    yield from _bytes_of(
        _Text((piece.encode("ascii") for piece in pieces), len(text) - start, text[start : start + 60]),
        Decoder(uri=start > 0, escaped=False),
        name,
        max_file,
    )


def _unspooled(spool: Spool, uri: bool, name: str, max_file: int) -> Iterator[bytes]:
    """As `_decoded`, of base64 that never was in the body."""
    size, descriptor = spool.size(), spool.file.fileno()
    begin = os.pread(descriptor, 60, 0).decode("ascii")
    if spool.broken:
        raise _no_media(name, begin)
    pieces = (os.pread(descriptor, min(_PIECE, size - at), at) for at in range(0, size, _PIECE))
    yield from _bytes_of(_Text(pieces, size, begin), Decoder(uri=uri, escaped=True), name, max_file)


class _Text(NamedTuple):
    """Base64 in pieces, so many characters in all, which begin so."""

    pieces: Iterator[bytes]
    num_chars: int
    begin: str


def _bytes_of(text: _Text, decoder: Decoder, name: str, max_file: int) -> Iterator[bytes]:
    found = looked = False
    try:
        for piece in text.pieces:
            # of the usual form, whose last line may have an end; others are counted as they are decoded
            if not looked and text.num_chars * 3 // 4 > max_file + 10 and not piece.translate(None, ALPHABET + b"="):
                raise MediaError(name, f"the file has about {text.num_chars * 3 // 4} bytes", f"at most {max_file}")
            looked = True
            made = decoder.feed(piece)
            found = found or bool(made)
            yield made
        made = decoder.finish()
    except MediaError:
        raise
    except ValueError as error:
        raise _no_media(name, text.begin) from error
    if not found and not made:
        raise MediaError(name, "the file is empty (0 bytes)")
    yield made


def _no_media(name: str, begin: str) -> MediaError:
    shown = begin if len(begin) <= _SHOWN else f"{begin[:_SHOWN]}..."
    return MediaError(name, f"{shown!r} is no URL, no file here and no base64", "give one of these")


def _keep(pieces: Callable[[], Iterable[bytes]], name: str, max_file: int, stamp: str) -> Fetched:
    """Writes bytes into a file in memory, or where that is full, on disk, for which `pieces` begins anew."""

    def keep_in(folder: Path) -> Fetched:
        path = str(folder / f"{stamp}{uuid.uuid4().hex}")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                _write(file, pieces(), name, max_file)
        except BaseException:
            os.unlink(path)
            raise
        return Fetched(path, ours=True)

    return in_shared_or_temporary(keep_in)


def _write(file: io.FileIO, pieces: Iterable[bytes], name: str, max_file: int) -> None:
    total = 0
    for piece in pieces:
        total += len(piece)
        if total > max_file:
            raise MediaError(name, f"the file has {total} bytes or more", f"at most {max_file}")
        write_all(file, piece)
