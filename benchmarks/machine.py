"""What a benchmark ran on, for its raw JSON."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """Date, commit, versions of Python and of these packages, processor, cores, load and settings that matter."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD") + (" with changes" if _git("status", "--porcelain", "-uno") else ""),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "cpu": next((line.partition(": ")[2] for line in info if line.startswith("model name")), platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg(),
        "settings": {name: value for name, value in os.environ.items() if name.startswith("SGLANG") or "OMP" in name},
    }


def _git(*args: str) -> str:
    return subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
