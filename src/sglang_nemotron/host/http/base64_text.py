"""Base64 as clients write it comes in, cut anywhere; its bytes go out. ValueError for what is no base64.

What is read is the forgiving-base64 of the WHATWG (Infra, section 4.6), and of a data URI what its rule for data: URLs
makes of the payload (Fetch, section 6): ASCII whitespace counts nowhere, padding may be left out, and percent-encoding
is undone in a URI. Beyond it, `-` and `_` mean `+` and `/`, as in the URL-safe alphabet (RFC 4648, section 5).
"""

from __future__ import annotations

import json
import re
from urllib.parse import unquote_to_bytes

import pybase64

ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
WHITESPACE = b"\t\n\f\r "
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
# what a cut may leave of one character: the rest comes with the next piece
_CUT_ESCAPE = re.compile(rb"\\(?:u[0-9A-Fa-f]{0,3})?\Z")
_CUT_PERCENT = re.compile(rb"%[0-9A-Fa-f]?\Z")


class Decoder:
    """Decodes one text piece by piece: `feed` each, then `finish`. Both give bytes, and raise ValueError.

    uri: whether it is the payload of a data URI. escaped: whether it is the inside of a JSON string, as it was sent.
    """

    def __init__(self, *, uri: bool, escaped: bool) -> None:
        self._uri, self._escaped = uri, escaped
        self._escape = self._percent = self._quad = b""
        self._padding = 0

    def feed(self, piece: bytes) -> bytes:
        if self._escaped:
            piece, self._escape = _held(self._escape + piece, _CUT_ESCAPE)
            piece = _unescaped(piece)
        if self._uri:
            piece, self._percent = _held(self._percent + piece, _CUT_PERCENT)
            piece = unquote_to_bytes(piece) if b"%" in piece else piece
        return self._decoded(piece)

    def finish(self) -> bytes:
        """What the last characters mean."""
        # half a character stands for nothing
        if self._escape or self._percent or len(self._quad) == 1:
            raise ValueError("base64 ends in the middle of a character")
        if self._padding and len(self._quad) + self._padding != 4:
            raise ValueError("base64 ends in wrong padding")
        quad, self._quad = self._quad, b""
        return pybase64.b64decode(quad + b"==="[len(quad) - 1 :], validate=True) if quad else b""

    def _decoded(self, text: bytes) -> bytes:
        # most texts need no more: this look costs less than decoding
        if text.translate(None, ALPHABET):
            text = text.translate(_URL_SAFE, WHITESPACE)
            text = self._unpadded(text)
        elif self._padding and text:
            raise ValueError("base64 goes on after its padding")
        text = self._quad + text
        whole = len(text) // 4 * 4
        self._quad = text[whole:]
        return pybase64.b64decode(text[:whole], validate=True)

    def _unpadded(self, text: bytes) -> bytes:
        """Without the padding, of which there may be two characters at the very end."""
        bare = text.rstrip(b"=")
        if b"=" in bare or (self._padding and bare):
            raise ValueError("base64 goes on after its padding")
        self._padding += len(text) - len(bare)
        if self._padding > 2:
            raise ValueError("base64 has too much padding")
        return bare


def _held(text: bytes, cut: re.Pattern[bytes]) -> tuple[bytes, bytes]:
    """(what can be read, what waits for the next piece)."""
    found = cut.search(text, max(0, len(text) - 6))
    return (text, b"") if found is None else (text[: found.start()], text[found.start() :])


def _unescaped(piece: bytes) -> bytes:
    return json.loads(b'"' + piece + b'"').encode("ascii") if b"\\" in piece else piece
