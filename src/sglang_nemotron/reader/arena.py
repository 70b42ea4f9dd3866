"""Memory of features in files that other processes map: made by a worker, handed on by name, removed when unwanted.

Knows nothing of media, and imports no SGLang.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from sglang_nemotron.reader.scratch import in_shared_or_temporary, scratch_folders


@dataclass(frozen=True, slots=True)
class SharedTensor:
    """A tensor in a file that processes share: contiguous, from byte 0."""

    path: str
    shape: tuple[int, ...]
    dtype: torch.dtype


class Arena:
    """The files of one item, in which its features are made: to copy a video takes 0.1 s and 400 MB.

    pixels: the type of images and frames. stamp: begins the names of the files.
    """

    def __init__(self, pixels: torch.dtype, stamp: str) -> None:
        self._pixels, self._stamp = pixels, stamp
        self._made: list[tuple[torch.Tensor, SharedTensor]] = []
        self._finished: list[str] = []

    def new(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Uninitialised memory in a file; pixels are of the type that the server takes."""
        shared, mapped = reserve(shape, dtype or self._pixels, self._stamp)
        tensor = torch.frombuffer(mapped, dtype=shared.dtype).view(shape)
        self._made.append((tensor, shared))
        return tensor

    def share(self, feature: torch.Tensor) -> SharedTensor:
        """The file that a feature was made in, under the name of one that is finished."""
        shared = next(shared for made, shared in self._made if made.data_ptr() == feature.data_ptr())
        assert feature.is_contiguous() and shared.dtype == feature.dtype, (shared, feature.dtype)
        assert math.prod(shared.shape) == feature.numel(), (shared, feature.shape)
        path = shared.path.removesuffix(_unfinished(os.getpid()))
        os.rename(shared.path, path)
        self._finished.append(path)
        return SharedTensor(path, tuple(feature.shape), shared.dtype)

    def unmap(self) -> None:
        """Gives up the memory, and the files that nothing was shared of; the others are the server's."""
        _remove(shared.path for _, shared in self._made)
        self._made.clear()

    def clear(self) -> None:
        """Gives up everything."""
        _remove(self._finished)
        self.unmap()


def _remove(paths: Iterable[str]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _unfinished(pid: int) -> str:
    """How the names of files end that a worker is still writing to."""
    return f".{pid}"


def clear_after(pid: int, stamp: str) -> None:
    """Removes the files that a worker which is gone had not finished, a video of hundreds of MB perhaps."""
    for folder in scratch_folders():
        for path in folder.glob(f"{stamp}*{_unfinished(pid)}"):
            path.unlink(missing_ok=True)


def clear_all(stamp: str) -> None:
    """Removes the files of a server that is gone: nobody would read or remove them any more."""
    _remove(str(path) for folder in scratch_folders() for path in folder.glob(f"{stamp}*"))


def reserve(shape: tuple[int, ...], dtype: torch.dtype, stamp: str) -> tuple[SharedTensor, mmap.mmap]:
    """A new file in shared memory, or where that is full, on disk; and its memory, unmapped once nothing refers to it.

    OSError where there is no room at all.
    """
    size = math.prod(shape) * dtype.itemsize
    path, mapped = in_shared_or_temporary(lambda folder: _reserve_in(folder, size, stamp))
    return SharedTensor(str(path), shape, dtype), mapped


def _reserve_in(folder: Path, size: int, stamp: str) -> tuple[Path, mmap.mmap]:
    path = folder / f"{stamp}{uuid.uuid4().hex}{_unfinished(os.getpid())}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        # reserved at once: a page that is missing later would kill the process that writes it
        os.posix_fallocate(descriptor, 0, size)
        return path, mmap.mmap(descriptor, size)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)
