"""sglang-nemotron: NVIDIA Nemotron 3 Nano and Nano Omni on stock SGLang.

SGLang finds this package through two entry points, `register` (every process) and `activate_cpu_platform`. Nothing
heavy is imported here, and a kill switch turns both off.
"""

from __future__ import annotations

import os

__version__ = "0.1.0"

KILL_SWITCH = "SGLANG_NEMOTRON_DISABLE"


def disabled() -> bool:
    """Whether the user turned the package off."""
    return os.environ.get(KILL_SWITCH, "").lower() in ("1", "true", "yes")


def register() -> None:
    """Opens this package's doors in the current process; entry point of group `sglang.srt.plugins`."""
    if disabled():
        return
    from sglang_nemotron.host import refusal

    refusal.guarded("release", "sglang_nemotron.host.release", "announce")
    refusal.guarded("doors", "sglang_nemotron.host.doors", "open_all")


def activate_cpu_platform() -> str | None:
    """The CPU platform's class path where nothing else can run; entry point of group `sglang.srt.platforms`."""
    if disabled():
        return None
    from sglang_nemotron.host import benchmarks, platform

    benchmarks.announce()
    return platform.activate()
