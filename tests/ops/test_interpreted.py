"""Our Triton kernels on the CPU: their tests once more, in a process where Triton interprets instead of compiling."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from support.waiting import NET_S

HERE = Path(__file__).parent
# a file may also see to it itself
FILES = sorted(str(f) for f in HERE.glob("test_*_triton.py") if "test_in_the_interpreter" not in f.read_text())


def test_interpreted() -> None:
    assert len(FILES) >= 4
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not gpu", *FILES]
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run(command, cwd=HERE.parent.parent, env=env, capture_output=True, text=True, timeout=NET_S)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed and int(passed[1]) >= len(FILES), run.stdout[-2000:]
