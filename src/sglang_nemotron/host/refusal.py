"""Refusing to serve: our architectures end with a reason, every other model is untouched. Imports names alone.

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
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from sglang_nemotron.family import ARCHITECTURES

logger = logging.getLogger(__name__)

# a fault of this door leaves no model to serve, whatever its architecture
PLATFORM = "platform"
REMEDY = (
    "reinstall sglang-nemotron for this SGLang (`sglang-nemotron doctor` shows what fits), or set "
    "SGLANG_NEMOTRON_DISABLE=1 to serve with SGLang's own class"
)


@dataclass(frozen=True)
class Fault:
    """Why a door is not ours, and what the user can do about it."""

    door: str
    reason: str
    remedy: str = REMEDY

    def __str__(self) -> str:
        # one line each: they are the last lines that the user sees
        reason = " ".join(self.reason.split())
        return f"  door: {self.door}\n  reason: {reason}\n  remedy: {self.remedy}"


_faults: list[Fault] = []
_armed = False
_hook_before = sys.excepthook


class Refused(ValueError):
    """Serving this architecture was refused; the text names the door, the reason and the remedy."""


def guarded(door: str, module: str, function: str) -> None:
    """Calls `module.function()`; whatever it raises becomes a refusal instead of a log line that nobody reads."""
    try:
        getattr(importlib.import_module(module), function)()
    # the boundary to a host that would swallow the fault and serve someone else's code
    except Exception as fault:
        # the reason is one line for the user; the way to it is for whoever mends it
        logger.debug("door %s failed", door, exc_info=True)
        refuse(door, f"{type(fault).__name__}: {fault}")


def refuse(door: str, reason: str, remedy: str = REMEDY) -> None:
    """Keeps a fault and makes sure that a server of our architectures ends with it."""
    fault = Fault(door, reason, remedy)
    # the first reason is the cause; what the same door says later follows from it
    if all(kept.door != door for kept in _faults):
        _faults.append(fault)
        logger.error("sglang-nemotron is broken and will not serve its models\n%s", fault)
    _arm()


def faults() -> list[Fault]:
    """What was refused in this process so far."""
    return list(_faults)


def report() -> str:
    """Everything refused so far, as a server ends with it."""
    return "sglang-nemotron refuses to serve\n" + "\n".join(map(str, _faults))


def raise_if_refused() -> None:
    """Raises everything kept so far as one error."""
    if _faults:
        raise Refused(report())


def _arm() -> None:
    global _armed, _hook_before
    if _armed:
        return
    _armed = True
    _hook_before, sys.excepthook = sys.excepthook, _last_word
    try:
        from sglang.srt.arg_groups.model_override_base import register_model_override
    except ImportError:
        # no such door in this SGLang: look at the command line ourselves; SystemExit is not swallowed
        if _serves_ours(sys.argv):
            print(report(), file=sys.stderr, flush=True)
            sys.exit(1)
        return
    for architecture in ARCHITECTURES:
        register_model_override(architecture)(_raise)


def _raise(server_args: Any, hf_config: Any) -> dict[str, Any]:
    raise_if_refused()
    return {}


def _last_word(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ends the output with the refusal where SGLang fails of its own accord over what we could not provide."""
    _hook_before(kind, error, trace)
    concerns_us = any(fault.door == PLATFORM for fault in _faults) or _serves_ours(sys.argv)
    if concerns_us and not isinstance(error, (Refused, KeyboardInterrupt)):
        print(report(), file=sys.stderr, flush=True)


def _serves_ours(argv: list[str]) -> bool:
    path = _model_path(argv)
    try:
        config = json.loads((Path(path or "") / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return any(name in ARCHITECTURES for name in config.get("architectures") or ())


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

    # SGLang builds a model with arguments of its own; none of them matters here
    def build(self: Any, *args: Any, **kwargs: Any) -> None:
        raise_if_refused()
        raise Refused(f"sglang-nemotron refuses to serve {architecture}; no reason was kept")

    return type(architecture, (), {"__init__": build, "__module__": __name__})
