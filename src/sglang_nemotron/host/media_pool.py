"""Media files come in as paths, measured parcels go out, each read by one of a few worker processes.

A worker that hangs, dies or grows is replaced, and its item alone is refused. Nothing here blocks an event loop: the
waiting is done in threads, which hold no lock of the interpreter while they wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from sglang_nemotron.host.media_worker import Laid, Terms, clear_after
from sglang_nemotron.prompt.cargo import MediaError
from sglang_nemotron.prompt.parcel import Order, Parcel

logger = logging.getLogger(__name__)

# seconds a worker may take until it is ready: torch is imported, on a machine that may be busy loading a model
START_SECONDS = 120.0
# not -m: what the module defines would be pickled as __main__'s
_PROGRAM = "from sglang_nemotron.host.media_worker import main; main()"


class _Worker:
    def __init__(self, terms: Terms) -> None:
        ours, theirs = socket.socketpair()
        environment = {
            **os.environ,
            # every thread of ours would else start as many as the machine has cores, and fail where those are many
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
            # no worker ever needs a device, and a context on one costs hundreds of MB
            "CUDA_VISIBLE_DEVICES": "",
            # a large picture's memory in one piece: what lies in several must be copied
            "PILLOW_BLOCK_SIZE": "1024m",
        }
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        self._stamp = terms.stamp
        self.connection = Connection(ours.detach())
        self.connection.send(terms)
        self._ready = False

    def wait_ready(self) -> None:
        """RuntimeError for a worker that cannot start: the installation's fault, not a request's."""
        if self._ready:
            return
        try:
            self._ready = self.connection.poll(START_SECONDS) and self.connection.recv() == "ready"
        except (EOFError, OSError):
            self._ready = False
        if not self._ready:
            self.kill()
            raise RuntimeError("a media worker cannot start; its error is in the log above")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.connection.close()
        clear_after(self.process.pid, self._stamp)


class Pool:
    """Up to `num_workers` workers, started when there is work for them (the first one at once).

    receive: makes a tensor, or what stands for one, out of the file that a worker laid it in, and owns the file.
    """

    def __init__(self, terms: Terms, num_workers: int, receive: Callable[[Laid], Any]) -> None:
        self._terms = terms
        self._receive = receive
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="nemotron-media")
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        self._closed = threading.Event()
        self._threads.submit(self._warm)

    async def measure(self, order: Order, path: str) -> list[Parcel]:
        """The parcels of one item; MediaError for a file that is bad, too slow or too large to read."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._measure, order, path)

    def close(self) -> None:
        self._closed.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().kill()

    def _warm(self) -> None:
        worker = _Worker(self._terms)
        worker.wait_ready()
        self._idle.put(worker)

    def _worker(self) -> _Worker:
        """One that waits, or a new one: there are as many threads as workers, so there is always one to be had."""
        with contextlib.suppress(queue.Empty):
            while True:
                worker = self._idle.get_nowait()
                if worker.process.poll() is None:
                    return worker
                worker.kill()
        return _Worker(self._terms)

    def _measure(self, order: Order, path: str) -> list[Parcel]:
        worker = self._worker()
        worker.wait_ready()
        answer = self._ask(worker, order, path)
        if self._closed.is_set():
            worker.kill()
        else:
            self._idle.put(worker)
        if isinstance(answer, MediaError):
            raise answer
        return [parcel.carrying(self._receive(parcel.feature)) for parcel in answer]

    def _ask(self, worker: _Worker, order: Order, path: str) -> list[Parcel] | MediaError:
        timeout, began = self._terms.timeout, time.monotonic()
        try:
            worker.connection.send((order, path))
            if worker.connection.poll(timeout):
                return worker.connection.recv()
        except (EOFError, OSError) as error:
            code = worker.process.wait()
            worker.kill()
            self._replace()
            logger.warning("A media worker ended with %s while it read %s.", code, order.name)
            raise MediaError(
                order.name,
                "cannot be read: its reader came to an end",
                f"at most {self._terms.memory >> 20} MB of memory",
            ) from error
        worker.kill()
        self._replace()
        logger.warning("A media worker was ended after %.0f s with %s.", time.monotonic() - began, order.name)
        raise MediaError(order.name, "takes too long to read", f"at most {timeout:g} s")

    def _replace(self) -> None:
        """Starts the next one now, so that the next item need not wait for its imports."""
        if not self._closed.is_set():
            with contextlib.suppress(OSError):
                self._idle.put(_Worker(self._terms))
