"""The folders for files between a request and its features: in memory, or where that is full, on disk.

Knows nothing of media, and imports no SGLang: workers may use it too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

SHARED = Path("/dev/shm")

_Made = TypeVar("_Made")


def scratch_folders() -> tuple[Path, Path]:
    """Shared memory, and the folder for temporary files."""
    return SHARED, Path(tempfile.gettempdir())


def in_shared_or_temporary(make: Callable[[Path], _Made]) -> _Made:
    """What `make` makes in shared memory, or if that raises OSError, in the folder for temporary files.

    A full place shows itself late: a file can be opened there, and only writing fails. So `make` opens and writes, and
    leaves nothing behind when it raises; it may be called twice.
    """
    shared, temporary = scratch_folders()
    try:
        return make(shared)
    except OSError:
        return make(temporary)


def write_all(file: BinaryIO, data: bytes) -> None:
    """Writes every byte to an unbuffered file, which may take fewer at once. OSError for a place that is full."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
