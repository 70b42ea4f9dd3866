"""Whether this process serves on our CPU platform, and what no door of SGLang's lets that platform change.

SGLang asks in the middle of its own first imports, so nothing of SGLang is imported here.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
from typing import Any

import torch

from sglang_nemotron.host import refusal
from sglang_nemotron.host.door import Door
from sglang_nemotron.sglang_api.wrapping import rebind

FORCE = "SGLANG_NEMOTRON_FORCE_CPU"
# where SGLang pins
_PINS = "sglang.srt.managers.schedule_batch"
CLASS_PATH = "sglang_nemotron.host.cpu:CpuPlatform"


def activate() -> str | None:
    """The platform's class path if this process should serve on the CPU, else None (SGLang's entry point contract)."""
    if os.environ.get(FORCE, "").lower() not in ("1", "true") and (
        os.environ.get("SGLANG_USE_CPU_ENGINE", "0") == "1" or _other_platform() or _accelerator()
    ):
        return None
    # SGLang passes over a plugin that raises here, and our row then refuses; it would end with a traceback later
    importlib.import_module(CLASS_PATH.partition(":")[0])
    return CLASS_PATH


def _accelerator() -> str | None:
    """The accelerator torch sees here, if any."""
    if torch.cuda.is_available():
        return "cuda"
    for name in ("xpu", "npu", "mps", "musa"):
        module = getattr(torch, name, None)
        if module is not None and module.is_available():
            return name
    return None


def _other_platform() -> str | None:
    """Another installed platform plugin: SGLang refuses to choose between two that both activate."""
    selected = os.environ.get("SGLANG_PLATFORM")
    if selected:
        return None if selected == "nemotron_cpu" else selected
    for entry in importlib.metadata.entry_points(group="sglang.srt.platforms"):
        if entry.name != "nemotron_cpu":
            return entry.name
    return None


def _platform_is_ours() -> str | None:
    # SGLang first: it resolves the platform while it is imported, and must not meet ours half-imported
    current = importlib.import_module("sglang_nemotron.sglang_api.args").platforms.current_platform
    kind = f"{type(current).__module__}:{type(current).__name__}"
    if activate() is None:
        return "our CPU platform is active beside an accelerator" if kind == CLASS_PATH else None
    return None if kind == CLASS_PATH else f"no accelerator is here, but the platform is {kind}"


# ---- torch.Tensor.pin_memory


def plain_pin_memory() -> None:
    """`Tensor.pin_memory()` without an accelerator returns the tensor itself; may be repeated.

    SGLang pins a mask unconditionally (schedule_batch.py, extra_buffer), and torch raises where there is no
    accelerator to pin for.
    """
    rebind(torch.Tensor, "pin_memory", _unpinned)


# torch's own signature takes a device, positional or by name
def _unpinned(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return self


def _is_unpinned() -> str | None:
    # the platform does it too, when a scheduler starts
    if _PINS not in sys.modules or torch.Tensor.pin_memory is _unpinned:
        return None
    return "torch would pin memory for an accelerator that is not here (torch.Tensor.pin_memory)"


PLATFORM = Door(
    refusal.PLATFORM,
    "args",
    "host memory and torch's CPU routines, where nothing else can run",
    # SGLang opens this one by itself, through an entry point
    proof=_platform_is_ours,
    remedy="reinstall sglang-nemotron, without which SGLang serves nothing here; set SGLANG_NEMOTRON_DISABLE=1 "
    "where another platform should serve",
)
PINNING = Door(
    "pinned memory",
    "engine",
    "no pinned memory where there is no accelerator",
    needs=(_PINS,),
    opens=plain_pin_memory,
    proof=_is_unpinned,
    wanted=lambda: activate() is not None,
)
