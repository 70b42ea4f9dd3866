"""Ends a process group when the process that watches over it is gone, by whatever signal: even SIGKILL.

This file is both sides: `Guard` for the one that started the group, and, run as a program of its own, the guard.
The guard holds one end of a pipe. Two lines mean that the group has ended as it should; the end of the pipe after one
line means that nobody is left to end it. The program imports next to nothing, so that it is there before the group is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

# between SIGTERM and SIGKILL
GRACE_S = 10.0


class Guard:
    """Stands by one process group from `watch` to `dismiss`."""

    def __init__(self) -> None:
        # a session of its own: a ctrl-C in the terminal is not meant for it
        command = [sys.executable, "-I", "-S", __file__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def watch(self, group: int) -> None:
        """From now on, this process group ends with this process."""
        self._tell(f"{group}\n")

    def dismiss(self) -> None:
        """The group has ended, or none was watched: the guard goes without a signal to anybody."""
        self._tell("over\nover\n")
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()

    def _tell(self, text: str) -> None:
        assert self._process.stdin is not None
        # a guard that somebody killed can be told nothing
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(text.encode())
            self._process.stdin.flush()


def _stand_by() -> None:
    group = sys.stdin.buffer.readline()
    if not group or sys.stdin.buffer.readline():
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(int(group), signal.SIGTERM)
        end = time.monotonic() + GRACE_S
        while time.monotonic() < end:
            # raises once nobody of the group is left
            os.killpg(int(group), 0)
            time.sleep(0.1)
        os.killpg(int(group), signal.SIGKILL)


if __name__ == "__main__":
    _stand_by()
