"""Media files come in as paths, measured features go out, each read by one of a few worker processes.

A worker that hangs, dies or grows is replaced, and its item alone is refused. Nothing here blocks an event loop: the
waiting is done in threads, which hold no lock of the interpreter while they wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from sglang_nemotron.media.features import Kind, MediaFeatures, ReadRequest
from sglang_nemotron.prompt.errors import MediaError
from sglang_nemotron.reader import answers
from sglang_nemotron.reader.arena import SharedTensor, clear_after
from sglang_nemotron.reader.settings import WorkerConfig

logger = logging.getLogger(__name__)

# not pebble (5.2.3, LGPL): its workers share one pipe each way, under locks that one killed while it holds them keeps;
# they start together, through multiprocessing, without an environment of their own (OMP, CUDA, Pillow's blocks); which
# one takes an item cannot be said; and deaths are looked for every 0.1 s. What is left to it would be the timeouts

# variables that may hold a password: of the hub, of clouds, of whatever a server was started with
_SECRET = re.compile("TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|AUTH|PROXY", re.IGNORECASE)

# seconds a worker may take until it is ready: torch is imported, on a machine that may be busy loading a model
START_SECONDS = 120.0
# not -m: what the module defines would be pickled as __main__'s
_PROGRAM = "from sglang_nemotron.reader.worker import main; main()"


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a process may have which decodes what strangers send."""
    return {name: value for name, value in environment.items() if not _SECRET.search(name)}


class _Worker:
    def __init__(self, config: WorkerConfig) -> None:
        ours, theirs = socket.socketpair()
        environment = {
            **without_secrets(os.environ),
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
        self._config = config
        self.connection = Connection(ours.detach())

    def wait_ready(self) -> None:
        """RuntimeError for a worker that cannot start: the installation's fault, not a request's."""
        try:
            self.connection.send(self._config)
            ready = self.connection.poll(START_SECONDS) and answers.receive(self.connection) == "ready"
        except (EOFError, OSError):
            ready = False
        except BaseException:
            self.kill()
            raise
        if not ready:
            self.kill()
            raise RuntimeError("a media worker cannot start; its error is in the log above")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.connection.close()
        # a file that stays is bad, an error here worse: whoever calls would not get to its own work
        with contextlib.suppress(OSError):
            clear_after(self.process.pid, self._config.stamp)


class _IdleWorkers(queue.LifoQueue["_Worker | None"]):
    """Of every place its idle worker, the one that was used last first; None for one that has none comes last."""

    def _put(self, item: _Worker | None) -> None:
        if item is None:
            self.queue.insert(0, item)
        else:
            super()._put(item)


class Pool:
    """`num_workers` workers, started one after the other from the first moment on; an item takes what is ready first.

    receive: makes a tensor, or what stands for one, out of a worker's file, and owns the file. reading: entered while
    a worker reads an item, with the item's kind, by whoever counts that.
    """

    def __init__(
        self,
        config: WorkerConfig,
        num_workers: int,
        receive: Callable[[SharedTensor], Any],
        reading: Callable[[Kind], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self._config = config
        self._receive = receive
        self._reading = reading
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="nemotron-media")
        # one at a time: their imports must not take every core of a server that is starting, or has just lost one
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="nemotron-media-start")
        # without those whose worker reads, or is being started; None if that failed: who takes it tries again
        self._idle = _IdleWorkers()
        self._starting: set[_Worker] = set()
        self._closed = threading.Event()
        self._refill(num_workers)

    async def measure(self, request: ReadRequest, path: str) -> list[MediaFeatures]:
        """The features of one item; MediaError for a file that is bad, too slow or too large to read."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._measure, request, path)

    @property
    def ready(self) -> list[int]:
        """Process ids of the workers that wait for an item, in the order in which they will be taken."""
        return [worker.process.pid for worker in reversed(list(self._idle.queue)) if worker is not None]

    @property
    def starting(self) -> list[int]:
        """Process ids of the workers that are not ready yet."""
        return [worker.process.pid for worker in list(self._starting)]

    @property
    def missing(self) -> int:
        """Places whose worker could not be started; an item that comes to one tries again."""
        return sum(worker is None for worker in list(self._idle.queue))

    def close(self) -> None:
        self._closed.set()
        for threads in (self._threads, self._starter):
            threads.shutdown(wait=False, cancel_futures=True)
        for worker in list(self._starting):
            worker.process.kill()
        self._empty()

    def _empty(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                if (worker := self._idle.get_nowait()) is not None:
                    worker.kill()
        # for whoever waits
        self._idle.put(None)

    def _refill(self, num_places: int = 1) -> None:
        """Starts what is missing now, so that the next item need not wait for its imports."""
        try:
            self._starter.submit(self._fill, num_places)
        except RuntimeError:
            # the pool is closed, or the interpreter ends
            for _ in range(num_places):
                self._put(None)

    def _fill(self, num_places: int) -> None:
        worker = None
        try:
            worker = self._start()
        except (OSError, RuntimeError) as error:
            logger.warning("No media worker could be started; an item that needs it tries again: %s", error)
        finally:
            # whatever it was: a place that is lost would make items wait for ever
            self._put(worker)
            if num_places > 1:
                # a job for each: an interpreter that ends waits for all that it was given
                self._refill(num_places - 1)

    def _start(self) -> _Worker:
        worker = _Worker(self._config)
        self._starting.add(worker)
        try:
            # asked with the worker in the set: `close` ends it, or it ends here
            if self._closed.is_set():
                worker.kill()
                raise RuntimeError("no media are read any more: the server ends")
            worker.wait_ready()
        finally:
            self._starting.discard(worker)
        return worker

    def _put(self, worker: _Worker | None) -> None:
        self._idle.put(worker)
        # asked afterwards, so that none is put where nobody looks again
        if self._closed.is_set():
            self._empty()

    def _take(self) -> _Worker:
        """There are as many threads as places, so one comes free for each: no thread waits for ever."""
        while (worker := self._idle.get()) is not None:
            if worker.process.poll() is None:
                return worker
            worker.kill()
            self._refill()
        try:
            return self._start()
        except BaseException:
            # the place is still to be filled
            self._put(None)
            raise

    def _measure(self, request: ReadRequest, path: str) -> list[MediaFeatures]:
        worker = self._take()
        try:
            with self._reading(request.kind):
                answer = self._ask(worker, request, path)
        except BaseException:
            worker.kill()
            self._refill()
            raise
        self._put(worker)
        if isinstance(answer, MediaError):
            raise answer
        return [item.carrying(self._receive(item.feature)) for item in answer]

    def _ask(self, worker: _Worker, request: ReadRequest, path: str) -> list[MediaFeatures] | MediaError:
        """What the worker answers; MediaError if it ends or takes too long, and is of no use any more."""
        timeout, began = self._config.timeout, time.monotonic()
        try:
            worker.connection.send((request, path))
            if worker.connection.poll(timeout):
                return answers.receive(worker.connection)
        except (EOFError, OSError) as error:
            code = worker.process.wait()
            logger.warning("A media worker ended with %s while it read %s.", code, request.name)
            raise MediaError(
                request.name,
                "cannot be read: its reader came to an end",
                f"at most {self._config.memory >> 20} MB of memory",
            ) from error
        logger.warning("A media worker is ended after %.0f s with %s.", time.monotonic() - began, request.name)
        raise MediaError(request.name, "takes too long to read", f"at most {timeout:g} s")
