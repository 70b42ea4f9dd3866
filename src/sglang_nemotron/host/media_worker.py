"""A process that reads media files: orders come in over a socket, parcels whose tensors lie in shared memory go out.

Started by `media_pool`, with the number of its end of a socket. It imports no SGLang and touches no GPU, and a
file that kills it kills nothing else: its memory is capped, and so is its time.
"""

from __future__ import annotations

import contextlib
import gc
import math
import mmap
import os
import signal
import stat
import sys
import traceback
import uuid
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from sglang_nemotron.config_omni import OmniSpec
from sglang_nemotron.host.media_helpers import Helpers
from sglang_nemotron.host.media_places import in_shared_or_temporary, places
from sglang_nemotron.prompt.cargo import MediaError
from sglang_nemotron.prompt.measure import Bounds, measure
from sglang_nemotron.prompt.parcel import Order, Parcel


@dataclass(frozen=True, slots=True)
class Terms:
    """What a worker is told first. pixels: dtype of images and frames. stamp: begins the names of its files."""

    spec: OmniSpec
    bounds: Bounds
    pixels: torch.dtype
    memory: int
    max_file: int
    timeout: float
    stamp: str


@dataclass(frozen=True, slots=True)
class Laid:
    """A tensor in a file: contiguous, from byte 0."""

    path: str
    shape: tuple[int, ...]
    dtype: torch.dtype


def serve(connection: Connection) -> None:
    """Answers orders until the other side is gone."""
    terms: Terms = connection.recv()
    # small operations: threads inside one cost more than they bring, and several items are read at once anyway
    torch.set_num_threads(1)
    # nothing may be reported as measured that is not: errors of the first import are found now
    _import_libraries()
    # what is there by now stays; it need not be looked at again
    gc.freeze()
    with Helpers(2) as helpers:
        _cap_memory(terms.memory)
        connection.send("ready")
        while True:
            try:
                order, path = connection.recv()
            except EOFError:
                return
            # where the other side is gone too, nobody else would end a decoder that hangs
            signal.setitimer(signal.ITIMER_REAL, terms.timeout + 10)
            shelf = Shelf(terms)
            helpers.keep_away()
            answer = _answer(order, path, terms, shelf, helpers)
            signal.setitimer(signal.ITIMER_REAL, 0)
            try:
                connection.send(answer)
            except OSError:
                shelf.clear()
                return
            # takes 10 ms for a video, for which nobody waits any more
            shelf.unmap()
            if isinstance(answer, MediaError):
                # an error mostly refers to itself, by way of the frames it passed through, and those to a whole picture
                gc.collect()


def _answer(order: Order, path: str, terms: Terms, shelf: Shelf, pool: Executor) -> list[Parcel] | MediaError:
    try:
        data = read_file(path, order.name, terms.max_file)
        parcels = measure(order, data, terms.spec, terms.bounds, pool, shelf.new)
        return [parcel.carrying(shelf.laid(parcel.feature)) for parcel in parcels]
    # the one boundary where any fault of a decoder becomes the request's own
    except Exception as fault:
        shelf.clear()
        return _told(order, fault, terms)


def _told(order: Order, fault: Exception, terms: Terms) -> MediaError:
    if isinstance(fault, MediaError):
        return MediaError(fault.item, fault.problem, fault.limit)
    if isinstance(fault, MemoryError) or "can't allocate memory" in str(fault):
        return MediaError(order.name, "needs too much memory to read", f"at most {terms.memory >> 20} MB")
    # no reader foresaw it: it may be a fault of ours
    traceback.print_exception(fault)
    if isinstance(fault, ValueError):
        return MediaError(order.name, str(fault))
    return MediaError(order.name, f"cannot be read ({type(fault).__name__}: {str(fault)[:200]})")


def read_file(path: str, name: str, max_file: int) -> bytes:
    """The bytes of a regular file of at most `max_file` bytes; MediaError."""
    try:
        # a pipe or a device would block or never end
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise MediaError(name, f"the file cannot be opened: {error.strerror}") from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise MediaError(name, "the path is no regular file")
    with os.fdopen(descriptor, "rb") as file:
        if found.st_size > max_file:
            raise MediaError(name, f"the file has {found.st_size} bytes", f"at most {max_file}")
        # a file that grows meanwhile is cut; more must not be asked for than is there, since that much is allocated
        return file.read(found.st_size)


class Shelf:
    """The files of one order, in which its features are made: to copy a video takes 0.1 s and 400 MB."""

    def __init__(self, terms: Terms) -> None:
        self._pixels, self._stamp = terms.pixels, terms.stamp
        self._made: list[tuple[torch.Tensor, Laid]] = []
        self._finished: list[str] = []

    def new(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Uninitialised memory in a file; pixels are of the type that the server takes."""
        laid, mapped = reserve(shape, dtype or self._pixels, self._stamp)
        tensor = torch.frombuffer(mapped, dtype=laid.dtype).view(shape)
        self._made.append((tensor, laid))
        return tensor

    def laid(self, feature: torch.Tensor) -> Laid:
        """The file that a feature was made in, under the name of one that is finished."""
        laid = next(laid for made, laid in self._made if made.data_ptr() == feature.data_ptr())
        assert feature.is_contiguous() and laid.dtype == feature.dtype, (laid, feature.dtype)
        assert math.prod(laid.shape) == feature.numel(), (laid, feature.shape)
        path = laid.path.removesuffix(_unfinished(os.getpid()))
        os.rename(laid.path, path)
        self._finished.append(path)
        return Laid(path, tuple(feature.shape), laid.dtype)

    def unmap(self) -> None:
        """Gives up the memory, and the files that nothing was laid in; the others are the server's."""
        _remove(laid.path for _, laid in self._made)
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
    for folder in places():
        for path in folder.glob(f"{stamp}*{_unfinished(pid)}"):
            path.unlink(missing_ok=True)


def reserve(shape: tuple[int, ...], dtype: torch.dtype, stamp: str) -> tuple[Laid, mmap.mmap]:
    """A new file in shared memory, or where that is full, on disk; and its memory, unmapped once nothing refers to it.

    OSError where there is no room at all.
    """
    size = math.prod(shape) * dtype.itemsize
    path, mapped = in_shared_or_temporary(lambda folder: _reserve_in(folder, size, stamp))
    return Laid(str(path), shape, dtype), mapped


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


def _import_libraries() -> None:
    import av  # noqa: F401
    import librosa  # noqa: F401
    import soundfile  # noqa: F401
    import soxr  # noqa: F401
    from PIL import Image  # noqa: F401

    # compiles: neither the first request's time nor its memory
    from sglang_nemotron.prompt import resize_columns, resize_rows  # noqa: F401


def _cap_memory(memory: int) -> None:
    """Allows so much data beyond what the process has now; shared memory does not count."""
    if not sys.platform.startswith("linux"):
        return
    import resource

    with open("/proc/self/status") as status:
        kilobytes = next(int(line.split()[1]) for line in status if line.startswith("VmData"))
    limit = kilobytes * 1024 + memory
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


def main() -> None:
    # an interrupt at the terminal goes to the server, which then closes the socket
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # a server that is gone before this worker is ready has no use for it
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        serve(Connection(int(sys.argv[1])))
