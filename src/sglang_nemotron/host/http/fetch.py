"""What a client sent for one media item comes in (URL, data URI, base64, path, bytes); the path of a file goes out.

SGLang's rules for URLs hold. Nothing is decoded here, and nothing holds the interpreter's lock for long: the bytes go
to a file piece by piece.
"""

from __future__ import annotations

import contextlib
import io
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pybase64

from sglang_nemotron.host.http.body_spool import Spool, spooled
from sglang_nemotron.prompt.errors import MediaError
from sglang_nemotron.reader.scratch import in_shared_or_temporary, write_all
from sglang_nemotron.sglang_api.media import ImageData, VideoData, download_remote_media

# base64 characters decoded at once; a multiple of 4
_PIECE = 2**20
_MOST_PATH = 4096


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file to read. ours: whether it is to be removed afterwards."""

    path: str
    ours: bool

    def drop(self) -> None:
        if self.ours:
            with contextlib.suppress(OSError):
                os.unlink(self.path)


def fetch(item: Any, *, name: str, max_file: int, seconds: float, stamp: str) -> Fetched:
    """Makes a file of an item. Blocks: for a thread. MediaError naming the item and the limit."""
    if isinstance(item, ImageData | VideoData):
        item = item.url
    elif isinstance(item, dict) and isinstance(item.get("url"), str):
        item = item["url"]
    if isinstance(item, str):
        return _fetch_text(item, name, max_file, seconds, stamp)
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


def _fetch_text(text: str, name: str, max_file: int, seconds: float, stamp: str) -> Fetched:
    scheme = text[:8].lower()
    if scheme.startswith(("http://", "https://")):
        downloaded = _download(text, name, seconds)
        return _keep(lambda: [downloaded], name, max_file, stamp)
    if scheme.startswith("data:"):
        head, comma, _ = text[:1024].partition(",")
        if not comma:
            raise MediaError(name, "the data URI has no comma after its type")
        return _keep(lambda: _decoded(text, len(head) + 1, name, max_file), name, max_file, stamp)
    if scheme.startswith("file://"):
        return Fetched(unquote(urlparse(text).path), ours=False)
    if len(text) < _MOST_PATH and "\0" not in text and os.path.isfile(text):
        return Fetched(text, ours=False)
    return _keep(lambda: _decoded(text, 0, name, max_file), name, max_file, stamp)


def _download(url: str, name: str, seconds: float) -> bytes:
    try:
        return download_remote_media(url, timeout=seconds)
    # what requests raises is an OSError too
    except (ValueError, OSError) as error:
        raise MediaError(name, f"cannot be fetched: {str(error)[:300]}", f"{seconds:g} s at most") from error


def _decoded(text: str, start: int, name: str, max_file: int) -> Iterator[bytes]:
    spool = spooled(text[start : start + 100])
    if spool is not None:
        yield from _unspooled(spool, name, max_file)
        return
    num_chars = len(text) - start
    if num_chars * 3 // 4 > max_file + 2:
        raise MediaError(name, f"the file has about {num_chars * 3 // 4} bytes", f"at most {max_file}")
    if not num_chars:
        raise MediaError(name, "the file is empty (0 bytes)")
    # padding ends the data: without this, each piece could bring its own
    padding = text.find("=", start)
    if 0 <= padding < len(text) - 2:
        raise _no_media(name, text, start)
    for begin in range(start, len(text), _PIECE):
        try:
            yield pybase64.b64decode(text[begin : begin + _PIECE], validate=True)
        except ValueError as error:
            raise _no_media(name, text, start) from error


def _unspooled(spool: Spool, name: str, max_file: int) -> Iterator[bytes]:
    """As `_decoded`, of base64 that never was in the body."""
    num_chars, descriptor = spool.size(), spool.file.fileno()
    if num_chars * 3 // 4 > max_file + 2:
        raise MediaError(name, f"the file has about {num_chars * 3 // 4} bytes", f"at most {max_file}")
    if spool.broken:
        raise _no_media(name, os.pread(descriptor, 60, 0).decode("ascii"), 0)
    for begin in range(0, num_chars, _PIECE):
        piece = os.pread(descriptor, min(_PIECE, num_chars - begin), begin)
        padding = piece.find(b"=")
        if padding >= 0 and begin + padding < num_chars - 2:
            raise _no_media(name, piece[:60].decode("ascii"), 0)
        try:
            yield pybase64.b64decode(piece, validate=True)
        except ValueError as error:
            raise _no_media(name, piece[:60].decode("ascii"), 0) from error


def _no_media(name: str, text: str, start: int) -> MediaError:
    shown = text[start : start + 60]
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
