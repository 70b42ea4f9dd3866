"""A process that reads media files: requests come in over a socket, features whose tensors lie in shared memory go out.

Started by `pool.py`, with the number of its end of a socket. It imports no SGLang and touches no GPU, and a
file that kills it kills nothing else: its memory is capped, and so is its time.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import stat
import sys
import time
import traceback
import warnings
from concurrent.futures import Executor
from multiprocessing.connection import Connection
from typing import TextIO

import torch

from sglang_nemotron.media.features import MediaFeatures, ReadRequest
from sglang_nemotron.media.measure import measure
from sglang_nemotron.prompt.errors import MediaError
from sglang_nemotron.reader.arena import Arena, clear_all
from sglang_nemotron.reader.settings import WorkerConfig
from sglang_nemotron.reader.threads import SideThreads

# 2 s in all: nobody waits for a worker whose server is gone
_LAST_LOOKS = 40


def serve(connection: Connection) -> None:
    """Answers requests until the other side is gone."""
    config: WorkerConfig = connection.recv()
    server = os.getppid()
    # small operations: threads inside one cost more than they bring, and several items are read at once anyway
    torch.set_num_threads(1)
    # nothing may be reported as measured that is not: errors of the first import are found now
    _import_libraries()
    # what is there by now stays; it need not be looked at again
    gc.freeze()
    with SideThreads(2) as beside:
        _cap_memory(config.memory)
        connection.send("ready")
        while True:
            try:
                request, path = connection.recv()
            except (EOFError, ConnectionResetError):
                _clear_if_orphaned(server, config.stamp)
                return
            # where the other side is gone too, nobody else would end a decoder that hangs
            signal.setitimer(signal.ITIMER_REAL, config.timeout + 10)
            arena = Arena(config.pixels, config.stamp)
            beside.keep_away()
            answer = _answer(request, path, config, arena, beside)
            signal.setitimer(signal.ITIMER_REAL, 0)
            try:
                connection.send(answer)
            except OSError:
                arena.clear()
                _clear_if_orphaned(server, config.stamp)
                return
            # takes 10 ms for a video, for which nobody waits any more
            arena.unmap()
            if isinstance(answer, MediaError):
                # an error mostly refers to itself, by way of the frames it passed through, and those to a whole picture
                gc.collect()


def _clear_if_orphaned(server: int, stamp: str) -> None:
    """A server that was killed removes nothing; one that closes the socket and lives may still need its files."""
    # a process that ends closes its sockets a moment before its children have another parent
    for _ in range(_LAST_LOOKS):
        if os.getppid() != server:
            clear_all(stamp)
            return
        time.sleep(0.05)


def _answer(
    request: ReadRequest, path: str, config: WorkerConfig, arena: Arena, beside: Executor
) -> list[MediaFeatures] | MediaError:
    try:
        data = read_file(path, request.name, config.max_file)
        measured = measure(request, data, config.spec, config.limits, beside, arena.new, config.threads)
        return [item.carrying(arena.share(item.feature)) for item in measured]
    # the one boundary where any fault of a decoder becomes the request's own
    except Exception as fault:
        arena.clear()
        return media_error(request, fault, config)


def media_error(request: ReadRequest, fault: Exception, config: WorkerConfig) -> MediaError:
    """A fault as its request's owner is shown it; what no reader foresaw leaves its traceback in the log."""
    if isinstance(fault, MediaError):
        return MediaError(fault.item, fault.problem, fault.limit)
    if isinstance(fault, MemoryError) or "can't allocate memory" in str(fault):
        return MediaError(request.name, "needs too much memory to read", f"at most {config.memory >> 20} MB")
    # it may be a fault of ours
    traceback.print_exception(fault)
    if isinstance(fault, ValueError):
        return MediaError(request.name, str(fault))
    return MediaError(request.name, f"cannot be read ({type(fault).__name__}: {str(fault)[:200]})")


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


def _import_libraries() -> None:
    import av  # noqa: F401
    import librosa  # noqa: F401
    import soundfile  # noqa: F401
    import soxr  # noqa: F401
    from PIL import Image  # noqa: F401

    # compiles: neither the first request's time nor its memory
    from sglang_nemotron.media.pixels import columns, rows  # noqa: F401


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


def _stderr_of_python() -> TextIO:
    """Where errors went; what libraries in C print of a file goes nowhere from now on. How a worker ended is logged."""
    ours = os.fdopen(os.dup(2), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    return ours


def main() -> None:
    # an interrupt at the terminal goes to the server, which then closes the socket
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Pillow warns of what a file says of itself, and libtiff writes it: no stranger fills a server's log
    warnings.simplefilter("ignore")
    # a server that is gone before this worker is ready has no use for it
    gone = contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError)
    with contextlib.redirect_stderr(_stderr_of_python()), gone:
        serve(Connection(int(sys.argv[1])))
