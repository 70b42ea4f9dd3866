"""What the package costs a server's main process before it knows which model it is to serve."""

from __future__ import annotations

import os
import subprocess
import sys

from support.waiting import NET_S

# of what `import sglang.cli.serve` costs, which every server pays first; 6 % were measured. `register()` runs before
# SGLang has parsed an argument, whatever model is asked for
REGISTER_SHARE = 0.25

_SCRIPT = """
import time
began = time.process_time()
import sglang.cli.serve
imported = time.process_time()
from sglang.srt.plugins import load_plugins
load_plugins()
print("share", (time.process_time() - imported) / (imported - began))
"""


def share_of_load_plugins(**changes: str) -> float:
    names = ("SGLANG_EXTERNAL_MODEL_PACKAGE", "SGLANG_EXTERNAL_MM_PROCESSOR_PACKAGE", "SGLANG_HTTP_SERVER_APP_PATH")
    env = {name: value for name, value in os.environ.items() if name not in (*names, "PYTHONDONTWRITEBYTECODE")}
    run = subprocess.run(
        [sys.executable, "-c", _SCRIPT], env={**env, **changes}, capture_output=True, text=True, timeout=NET_S
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return float(run.stdout.split("share")[-1])


def test_register_is_cheap() -> None:
    # all that plugins cost, ours and SGLang's own part of it: an upper bound of ours
    assert share_of_load_plugins() <= REGISTER_SHARE
