"""Runs a file of examples/ as a reader would: in a process of its own, against the server at an address."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support import children

EXAMPLES = Path(__file__).parents[2] / "examples"
# nothing listens there, and no server may
NOWHERE = "http://127.0.0.1:9"


def names(pattern: str) -> list[str]:
    """The examples whose names fit."""
    return sorted(path.name for path in EXAMPLES.glob(pattern))


def run_example(name: str, url: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Its exit code and what it printed."""
    env = {**os.environ, "OPENAI_BASE_URL": f"{url}/v1"}
    return children.run([sys.executable, EXAMPLES / name, *arguments], env, cwd)


def output(name: str, url: str, *arguments: str, cwd: Path | None = None) -> str:
    """What it printed, if nothing went wrong."""
    done = run_example(name, url, *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout
