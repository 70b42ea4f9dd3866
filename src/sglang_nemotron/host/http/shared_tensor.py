"""A tensor that a worker made in shared memory comes in; what SGLang sends to its scheduler in its place goes out.

SGLang would copy every feature into shared memory inside the event loop, 0.2 s for a video. Here it is there already.
"""

from __future__ import annotations

import contextlib
import os
import uuid
import weakref
from pathlib import Path
from typing import Any

import torch

from sglang_nemotron.reader.arena import SharedTensor
from sglang_nemotron.reader.scratch import SHARED
from sglang_nemotron.sglang_api.media import ShmPointerMMData


class SharedTensorPointer(ShmPointerMMData):
    """SGLang's pointer to shared memory, for a file that is already there, and that this object owns.

    Every message gets a hard link of its own, which the scheduler that maps it removes: a request with n > 1 is sent
    n times, and one that never is sent leaves nothing behind.
    """

    def __init__(self, shared: SharedTensor) -> None:
        # not the base's, which would copy
        self._shm_handle = None
        self.tensor = None
        self._materialization_error = None
        self.shape = torch.Size(shared.shape)
        self.dtype = shared.dtype
        self.precomputed_hash = None
        self.shm_name = Path(shared.path).name
        self._owned = weakref.finalize(self, _unlink, shared.path)

    def release(self) -> None:
        """Removes the file; it is never sent after this. Otherwise the end of this object does so."""
        self._owned()

    def __getstate__(self) -> dict[str, Any]:
        # a name of the same form, so that SGLang's sweep knows whose it was
        stamp, _, _ = self.shm_name.rpartition("_")
        name = f"{stamp}_{uuid.uuid4().hex}"
        os.link(SHARED / self.shm_name, SHARED / name)
        return {**super().__getstate__(), "shm_name": name}

    def __reduce__(self) -> tuple[Any, ...]:
        return object.__new__, (ShmPointerMMData,), self.__getstate__()


# SGLang's encoder of messages knows the type by its two names, not by its ancestry
SharedTensorPointer.__name__ = ShmPointerMMData.__name__
SharedTensorPointer.__module__ = ShmPointerMMData.__module__


def receive_shared(shared: SharedTensor) -> Any:
    """For a scheduler on this machine. A tensor on disk, where shared memory was full, becomes an ordinary one."""
    return SharedTensorPointer(shared) if Path(shared.path).parent == SHARED else receive_inline(shared)


def receive_inline(shared: SharedTensor) -> torch.Tensor:
    """A tensor over the file, whose name is gone at once. For schedulers on other machines."""
    size = 1
    for side in shared.shape:
        size *= side
    try:
        return torch.from_file(shared.path, shared=False, size=size, dtype=shared.dtype).view(shared.shape)
    finally:
        _unlink(shared.path)


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
