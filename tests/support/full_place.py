"""A place in memory that is full: files can be opened there, and writing fails after so many bytes."""

from __future__ import annotations

import errno
import io
import os
from typing import Any

from sglang_nemotron.reader.scratch import SHARED


class Full(io.FileIO):
    """What a file on a full tmpfs does: it takes what fits, fewer bytes than it was given, then nothing."""

    room = 0

    def write(self, data: Any) -> int:
        left = self.room - self.tell()
        if left <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(memoryview(data)[:left])


def opened(file: int | str | os.PathLike[str], mode: str, room: int) -> io.FileIO:
    """An unbuffered file, which is full after `room` bytes if it lies in shared memory."""
    made = Full(file, mode.replace("b", ""))
    # a file of a number has no path
    path = os.readlink(f"/proc/self/fd/{made.fileno()}")
    made.room = room if path.startswith(f"{SHARED}/") else 1 << 40
    return made
