"""Programs that tests run: they end with the test run, also when that is killed."""

from __future__ import annotations

import ctypes
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.waiting import NET_S

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def end_with_parent() -> None:
    """For `preexec_fn`: SIGTERM when the process that started this one is gone. Source: prctl(2).

    Ctrl-C works in it too: what runs in the background of a shell ignores it, and so would what that starts.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(
    command: Sequence[object], env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end and returns what it printed; its exit code is for the caller to look at."""
    words = [str(word) for word in command]
    return subprocess.run(
        words, env=env, cwd=cwd, capture_output=True, text=True, timeout=NET_S, check=False, preexec_fn=end_with_parent
    )
