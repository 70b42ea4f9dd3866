"""The chunks of a JSON body come in as they arrive; the body goes out with its long base64 strings left in files.

A video of 60 MB would hold the event loop for half a second while its body is joined and parsed. Here each long string
of base64 goes to a file in memory chunk by chunk, and a reference stands in the body in its place. A reference is a
random name that lives as long as the request that brought it, so that no other request can mean it.
"""

from __future__ import annotations

import functools
import os
import re
import tempfile
import uuid
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, BinaryIO

from sglang_nemotron.host.door import Door
from sglang_nemotron.host.http.base64_text import ALPHABET
from sglang_nemotron.host.packages import wants_media
from sglang_nemotron.reader.scratch import in_shared_or_temporary, write_all
from sglang_nemotron.sglang_api.wrapping import Wrap

# shorter strings stay where they are; the first so many bytes also decide whether a string is base64
LONG = 2**18
REFERENCE = "nemotron-spool:"
# where media are sent: after a key that texts do not have (quotes in a text are escaped), and the head of a data URI,
# in which a type may have quotes, and some encoders escape a slash
_BEGIN = re.compile(
    rb'"(?:url|data|image_url|image_data|video_data|audio_data)"[ \n]{0,4}:[ \n]{0,4}\[?[ \n]{0,4}'
    rb'"(?:data:(?:[A-Za-z0-9.+/;=_, -]|\\[/"]){0,80}; ?base64,)?'
)
_BEFORE = 160
# bytes copied at once from memory to disk
_PIECE = 2**20
# of base64 as it may be written in a JSON string; what it means is for whoever reads it, in a thread
_BASE64 = ALPHABET + b"=-_%\\ "
# the rest of a JSON string, up to its closing quote, or to a backslash whose character is still to come
_REST = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_SERVER = "sglang.srt.entrypoints.http_server"
# how the names of files begin; None where no server of Omni reads bodies
_stamp: str | None = None
_ENDPOINTS = ("/v1/chat/completions", "/generate", "/v1/messages")


class Spool:
    """Base64 in a file without a name, which goes with this object, as it was sent: with the escapes of JSON.

    broken: other characters followed the file's.
    """

    broken = False

    def __init__(self, stamp: str) -> None:
        self.file: BinaryIO = in_shared_or_temporary(functools.partial(_nameless, stamp))
        self._stamp = stamp
        self._on_disk = False

    def size(self) -> int:
        return self.file.tell()

    def write(self, data: bytes) -> None:
        """Appends; where memory is full, the file goes on on disk. OSError where that is full too."""
        begin = self.size()
        try:
            write_all(self.file, data)
        except OSError:
            if self._on_disk:
                raise
            self._move_to_disk()
            # memory may have taken a part
            write_all(self.file, data[self.size() - begin :])

    def _move_to_disk(self) -> None:
        size = self.size()
        with self.file as full:
            self.file = _nameless(self._stamp, Path(tempfile.gettempdir()))
            self._on_disk = True
            for start in range(0, size, _PIECE):
                write_all(self.file, os.pread(full.fileno(), min(_PIECE, size - start), start))


_spools: weakref.WeakValueDictionary[str, Spool] = weakref.WeakValueDictionary()


def spooled(text: str) -> Spool | None:
    """The spool that a reference means; None for anything else."""
    return _spools.get(text) if text.startswith(REFERENCE) else None


def let_go(request: Any) -> None:
    """For a request that fails: the error's frames would keep it, and its files, until Python collects its garbage.

    Whoever reads one of the files at this moment holds it himself.
    """
    getattr(request, "nemotron_spools", []).clear()


def spool_bodies(stamp: str) -> None:
    """From now on this process leaves long base64 of its requests in files whose names begin with `stamp`."""
    global _stamp
    _stamp = stamp


def _short(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def body(self: Any) -> bytes:
        # endpoints that keep what they were sent would keep references that are gone
        if _stamp is None or self.url.path not in _ENDPOINTS or hasattr(self, "_body"):
            return await original(self)
        self._body, self.nemotron_spools = await short_body(self.stream(), _stamp)
        return self._body

    return body


class BodySpool:
    """Takes a body's chunks and gives the short body. `spools` live as long as somebody holds them."""

    def __init__(self, stamp: str) -> None:
        self._stamp = stamp
        self._kept: list[bytes] = []
        # bytes whose place is not decided: the end of a chunk where a long string may have begun
        self._pending = b""
        self._spool: Spool | None = None
        # whether a chunk ended with a backslash whose character is still to come
        self._escaped = False
        self.spools: list[Spool] = []

    def add(self, chunk: bytes) -> None:
        if not chunk:
            return
        if self._spool is None:
            self._pending += chunk
            # a body of short strings stays what it is; only a tail as long as a long string is looked at
            if len(self._pending) > 2 * LONG:
                self._look()
        else:
            self._go_on(chunk)

    def finish(self) -> bytes:
        """The short body. One that ends inside a string stays no JSON."""
        return b"".join([*self._kept, self._pending])

    def _look(self) -> None:
        """Spools the string that goes on at the end of what is pending, if it is long and all base64."""
        quote = self._pending.rfind(b'"')
        if quote < 0 or len(self._pending) - quote < LONG + _BEFORE:
            # no long string so far; what may become one starts a little before the last quote
            cut = max(0, quote - _BEFORE) if quote >= 0 else len(self._pending)
            self._keep(self._pending[:cut], self._pending[cut:])
            return
        begins = (found for found in _BEGIN.finditer(self._pending, max(0, quote - _BEFORE), quote + 128))
        begin = next((found for found in begins if found.end() > quote), None)
        rest = self._pending[begin.end() :] if begin is not None else b" "
        if begin is None or not _all_base64(rest):
            self._keep(self._pending, b"")
            return
        self._spool = Spool(self._stamp)
        name = REFERENCE + uuid.uuid4().hex
        _spools[name] = self._spool
        self.spools.append(self._spool)
        self._keep(self._pending[: begin.end()] + name.encode(), b"")
        self._escaped = (len(rest) - len(rest.rstrip(b"\\"))) % 2 == 1
        self._spool.write(rest)

    def _go_on(self, chunk: bytes) -> None:
        spool = self._spool
        assert spool is not None
        end = self._closing_quote(chunk)
        part = chunk if end < 0 else chunk[:end]
        if not spool.broken and _all_base64(part):
            spool.write(part)
        else:
            # whoever reads the item says so. The rest is let go: to parse it would hold the event loop
            spool.broken = True
        if end >= 0:
            self._spool = None
            self._pending = b""
            # the quote ends the string: it must not look like the begin of another
            self._keep(b'"', b"")
            self.add(chunk[end + 1 :])

    def _closing_quote(self, chunk: bytes) -> int:
        """Where the string ends in this chunk; -1 if it goes on."""
        if not self._escaped and b"\\" not in chunk:
            return chunk.find(b'"')
        rest = _REST.match(chunk, 1 if self._escaped else 0)
        end = rest.end() if rest is not None else len(chunk)
        self._escaped = chunk[end : end + 1] == b"\\"
        return end if chunk[end : end + 1] == b'"' else -1

    def _keep(self, kept: bytes, pending: bytes) -> None:
        self._kept.append(kept)
        self._pending = pending


def _all_base64(data: bytes) -> bool:
    """Whether these characters, from anywhere within a text, could be base64. In the event loop: it must be quick."""
    return not data.translate(None, _BASE64)


async def short_body(chunks: AsyncIterator[bytes], stamp: str) -> tuple[bytes, list[Spool]]:
    """Reads a body to its end."""
    body = BodySpool(stamp)
    async for chunk in chunks:
        body.add(chunk)
    return body.finish(), body.spools


def _nameless(stamp: str, folder: Path) -> BinaryIO:
    path = folder / f"{stamp}{uuid.uuid4().hex}"
    # nobody else's to open, in the moment in which it has a name
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.unlink(path)
    # unbuffered: the bytes are copied once, by the kernel, without the interpreter's lock
    return os.fdopen(descriptor, "r+b", buffering=0)


MEDIA_BODIES = Door(
    "media bodies",
    "http",
    "long base64 of a request's body goes to files",
    needs=(_SERVER,),
    # SGLang's class has this method from Starlette's
    wraps=(Wrap(_SERVER, "ORJSONRequest", "body", _short, inherited=True),),
    without="does not leave long base64 in files",
    wanted=wants_media,
)
