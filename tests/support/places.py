"""Folders that take no files, for a program and what it starts: mounted over in a namespace of its own."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

import pytest

from support.waiting import NET_S


@functools.cache
def _namespace() -> tuple[str, ...]:
    """A command that gives what follows mounts of its own; none where neither a user nor root may have them."""
    for words in (("unshare", "--user", "--map-root-user", "--mount"), ("unshare", "--mount")):
        tried = [*words, "mount", "-t", "tmpfs", "none", "/proc"]
        try:
            if subprocess.run(tried, capture_output=True, timeout=NET_S).returncode == 0:
                return words
        except FileNotFoundError:
            break
    return ()


def within(folder: Path, options: str) -> list[str]:
    """The words before a command for which `folder` is an empty tmpfs mounted so: `ro`, `size=900k`."""
    if not _namespace():
        pytest.skip("this machine lets nobody mount: tests/config/test_hub.py has the errors that a disk raises")
    folder.mkdir(exist_ok=True)
    script = f'mount -t tmpfs -o {options} none "{folder}" && exec "$@"'
    return [*_namespace(), "sh", "-c", script, "sh"]
