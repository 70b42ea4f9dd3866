"""Refusing to serve: our architectures end with a reason, every other model is untouched. Imports no other room.

SGLang swallows what a plugin raises and then serves its own class. So a fault is kept here, and an override provider
for our architectures raises it while arguments resolve in the main process. A scheduler that alone can see a fault
gets a model class that raises.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

ARCHITECTURES = ("NemotronHForCausalLM", "NemotronH_Nano_Omni_Reasoning_V3")
REMEDY = (
    "reinstall sglang-nemotron for this SGLang (`sglang-nemotron doctor` shows what fits), or set "
    "SGLANG_NEMOTRON_DISABLE=1 to serve with SGLang's own class"
)

_faults: list[str] = []
_armed = False


class Refused(ValueError):
    """Serving this architecture was refused; the text names the door, the reason and the remedy."""


def guarded(door: str, module: str, function: str) -> None:
    """Calls `module.function()`; whatever it raises becomes a refusal instead of a log line that nobody reads."""
    try:
        getattr(importlib.import_module(module), function)()
    # the boundary to a host that would swallow the fault and serve someone else's code
    except Exception as fault:
        refuse(door, f"{type(fault).__name__}: {fault}")


def refuse(door: str, reason: str, remedy: str = REMEDY) -> None:
    """Keeps a fault and makes sure that a server of our architectures ends with it."""
    text = f"sglang-nemotron refuses to serve: door {door!r}: {reason}\n  remedy: {remedy}"
    if text not in _faults:
        _faults.append(text)
        logger.error(text)
    _arm()


def faults() -> list[str]:
    """What was refused in this process so far, one text each."""
    return list(_faults)


def raise_if_refused() -> None:
    """Raises everything kept so far as one error."""
    if _faults:
        raise Refused("\n".join(_faults))


def _arm() -> None:
    global _armed
    if _armed:
        return
    _armed = True
    try:
        from sglang.srt.arg_groups.model_override_base import register_model_override
    except ImportError:
        # no such door in this SGLang: look at the command line ourselves; SystemExit is not swallowed
        _exit_if_ours(sys.argv)
        return
    for architecture in ARCHITECTURES:
        register_model_override(architecture)(_raise)


def _raise(server_args: Any, hf_config: Any) -> dict[str, Any]:
    raise_if_refused()
    return {}


def _exit_if_ours(argv: list[str]) -> None:
    path = _model_path(argv)
    config = Path(path) / "config.json" if path else None
    if config is None or not config.is_file():
        return
    architectures = json.loads(config.read_text()).get("architectures") or []
    if any(name in ARCHITECTURES for name in architectures):
        print("\n".join(_faults), file=sys.stderr, flush=True)
        sys.exit(1)


def _model_path(argv: list[str]) -> str | None:
    for flag, value in zip(argv, argv[1:], strict=False):
        if flag in ("--model-path", "--model"):
            return value
    for word in argv:
        if word.startswith(("--model-path=", "--model=")):
            return word.split("=", 1)[1]
    # `sglang serve PATH`
    return next((word for word in argv[1:] if os.path.isdir(word)), None)


def refusing_class(architecture: str) -> type:
    """A model class that raises the refusal when SGLang builds it: the second line, in the scheduler."""

    def build(self: Any, *args: Any, **kwargs: Any) -> None:
        raise_if_refused()
        raise Refused(f"sglang-nemotron refuses to serve {architecture}; no reason was kept")

    return type(architecture, (), {"__init__": build, "__module__": __name__})
