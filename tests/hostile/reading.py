"""Bytes sent as an image, a video or a sound come in; what a media worker says of them goes out.

The workers are those of a server, with their bounds on memory. What may not happen is asserted here, for every file.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from hostile.files import Kind
from sglang_nemotron.media.features import MediaFeatures, ReadRequest, Sound, VideoClip
from sglang_nemotron.prompt.errors import MediaError
from sglang_nemotron.prompt.options import MediaOptions
from sglang_nemotron.reader.arena import SharedTensor
from sglang_nemotron.reader.pool import Pool
from sglang_nemotron.reader.scratch import SHARED
from sglang_nemotron.reader.settings import worker_config
from support.published import SPEC
from support.waiting import NET_S, eventually

# what a worker may take for one item; the least that an operator can set
MEMORY = 1024 << 20
# most patches of an image: small, since pixels are not what is tried here
BUDGET = 1024
# a fault that no reader foresaw is refused under the name of Python's error
_UNFORESEEN = re.compile(r"cannot be read \(\w+: ")


@dataclass
class Reading:
    """A pool of one worker, the file that it reads, its process when it began, and what it printed."""

    pool: Pool
    path: Path
    worker: int
    log: Path

    def read(self, kind: Kind, data: bytes) -> str | None:
        """The refusal; None for a file that is read.

        AssertionError for a refusal that does not name the item, for a fault that nobody foresaw, for anything printed,
        for features that contradict their own bounds, and for a worker that came to its end.
        """
        self.path.write_bytes(data)
        request = ReadRequest(kind, f"{kind} 7", MediaOptions(max_frames=8), BUDGET)
        try:
            made = asyncio.run(self.pool.measure(request, str(self.path)))
        except MediaError as error:
            said = str(error)
            # a fault that nobody foresaw leaves its traceback here
            assert not (printed := self.log.read_text()), printed
            assert said.startswith(f"{kind} 7: ") and len(said) < 1000, said
            assert not _UNFORESEEN.search(said), said
            assert self.pool.ready == [self.worker], f"the worker came to its end: {said}"
            return said
        assert not (printed := self.log.read_text()), printed
        for features in made:
            _check(features)
        assert self.pool.ready == [self.worker]
        return None

    def peak_bytes(self) -> int:
        """The most memory that the worker ever had, shared memory included."""
        status = Path(f"/proc/{self.worker}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


def _received(shared: SharedTensor) -> torch.Tensor:
    """A tensor of its own, without SGLang, whose pointers to shared memory a server has."""
    data = bytearray(Path(shared.path).read_bytes())
    os.unlink(shared.path)
    return torch.frombuffer(data, dtype=shared.dtype).view(shared.shape)


def _check(features: MediaFeatures) -> None:
    assert torch.isfinite(features.feature.float()).all()
    if isinstance(features, VideoClip):
        assert len(features.headings) <= 8
    elif isinstance(features, Sound):
        assert sum(features.num_frames_N) <= 100 * 3600 + 200


@contextmanager
def _printing_to(log: Path) -> Iterator[None]:
    """What is started meanwhile prints its errors there."""
    ours = os.dup(2)
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(ours, 2)
        os.close(ours)


@contextmanager
def reading(folder: Path, stamp: str = "hostile", *, memory: int = MEMORY) -> Iterator[Reading]:
    """A worker of its own; afterwards nothing of it lies in shared memory."""
    stamp = f"sgl_shm_mm_{os.getpid()}_{stamp}_"
    config = worker_config({}, SPEC, pixels=torch.bfloat16, stamp=stamp)
    log = folder / "log"
    with _printing_to(log):
        pool = Pool(replace(config, memory=memory, max_file=1 << 30, timeout=NET_S), 1, _received)
        assert eventually(lambda: bool(pool.ready))
    try:
        yield Reading(pool, folder / "item", pool.ready[0], log)
    finally:
        pool.close()
    assert not [name for name in os.listdir(SHARED) if name.startswith(stamp)]
