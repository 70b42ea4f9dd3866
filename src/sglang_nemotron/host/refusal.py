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
# of every fault from now on: what another release of SGLang may mend
_suspected = ""
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


def suspect(remedy: str) -> None:
    """Puts this before the remedy of whatever is refused from now on."""
    global _suspected
    _suspected = remedy


def refuse(door: str, reason: str, remedy: str = REMEDY) -> None:
    """Keeps a fault and makes sure that a server of our architectures ends with it."""
    fault = Fault(door, reason, f"{_suspected}. Otherwise {remedy}" if _suspected else remedy)
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
    try:
        config = json.loads(_config_file(model_path(argv) or "", flag_value(argv, "--revision")).read_text())
    except (OSError, ValueError):
        return False
    return any(name in ARCHITECTURES for name in config.get("architectures") or ())


def _config_file(model: str, revision: str | None) -> Path:
    if os.path.isdir(model):
        return Path(model) / "config.json"
    # asked here, since whatever else of ours knows the hub's cache may be what is broken
    if os.environ.get("SGLANG_USE_MODELSCOPE", "").lower() in ("1", "true"):
        from modelscope.utils.file_utils import get_model_cache_root

        return Path(get_model_cache_root()) / model / "config.json"
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json", revision=revision)
    if not isinstance(found, str):
        raise FileNotFoundError(model)
    return Path(found)


def flag_value(argv: list[str], *flags: str) -> str | None:
    """What a command line gives for the first of these flags that it has."""
    for flag, value in zip(argv, argv[1:], strict=False):
        if flag in flags:
            return value
    return next((word.split("=", 1)[1] for word in argv if word.startswith(tuple(f"{flag}=" for flag in flags))), None)


def model_path(argv: list[str]) -> str | None:
    """The folder or id that a command line of `sglang serve` names."""
    named = flag_value(argv, "--model-path", "--model")
    if named is not None:
        return named
    if argv[1:2] == ["serve"] and argv[2:3] and not argv[2].startswith("-"):
        # `sglang serve MODEL`, after which only flags come
        return argv[2]
    return next((word for word in argv[1:] if os.path.isdir(word)), None)


def refusing_class(architecture: str) -> type:
    """A model class that raises the refusal when SGLang builds it: the second line, in the scheduler."""

    # SGLang builds a model with arguments of its own; none of them matters here
    def build(self: Any, *args: Any, **kwargs: Any) -> None:
        raise_if_refused()
        raise Refused(f"sglang-nemotron refuses to serve {architecture}; no reason was kept")

    return type(architecture, (), {"__init__": build, "__module__": __name__})
