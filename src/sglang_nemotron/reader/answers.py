"""What a media worker sent comes in as bytes; the records that a worker may send go out, and nothing else is ever made.

A worker decodes what strangers send. Should a file ever take one over, its answers must not run in the server.
"""

from __future__ import annotations

import io
import pickle
from multiprocessing.connection import Connection
from typing import Any

from sglang_nemotron.media.features import PIXELS, Picture, Sound, VideoClip
from sglang_nemotron.prompt.errors import MediaError
from sglang_nemotron.reader.arena import SharedTensor

_CLASSES = (Picture, VideoClip, Sound, SharedTensor, MediaError)
_NAMES: dict[tuple[str, str], Any] = {(made.__module__, made.__qualname__): made for made in _CLASSES}
# torch's types are pickled as names of its own
_NAMES |= {("torch", str(dtype).removeprefix("torch.")): dtype for dtype in PIXELS}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _NAMES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"a media worker sent {module}.{name}, which is no answer") from None


def receive(connection: Connection) -> Any:
    """The next answer of a worker. UnpicklingError for anything else; EOFError and OSError as of the connection."""
    return _Reader(io.BytesIO(connection.recv_bytes())).load()
