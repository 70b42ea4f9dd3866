"""What the package costs a server's main process before it knows which model it is to serve."""

from __future__ import annotations

import os
import subprocess
import sys

# seconds of work; `register()` runs before SGLang has parsed an argument, whatever model is asked for
REGISTER_S = 1.5

_SCRIPT = """
import time
import sglang.cli.serve
from sglang.srt.plugins import load_plugins
began = time.process_time()
load_plugins()
print("seconds", time.process_time() - began)
"""


def seconds_of_load_plugins(**changes: str) -> float:
    names = ("SGLANG_EXTERNAL_MODEL_PACKAGE", "SGLANG_EXTERNAL_MM_PROCESSOR_PACKAGE", "SGLANG_HTTP_SERVER_APP_PATH")
    env = {name: value for name, value in os.environ.items() if name not in (*names, "PYTHONDONTWRITEBYTECODE")}
    run = subprocess.run(
        [sys.executable, "-c", _SCRIPT], env={**env, **changes}, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return float(run.stdout.split("seconds")[-1])


def test_register_is_cheap() -> None:
    # all that plugins cost, ours and SGLang's own part of it: an upper bound of ours
    assert seconds_of_load_plugins() <= REGISTER_S
