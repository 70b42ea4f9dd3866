"""Our packages of models, processors and the HTTP application, named to SGLang through its variables."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from sglang_nemotron.family import OMNI, TEXT
from sglang_nemotron.host.door import Door
from sglang_nemotron.sglang_api.wrapping import Wrap

MODEL_PACKAGE = "sglang_nemotron.models"
PROCESSOR_PACKAGE = "sglang_nemotron.processors"
HTTP_APP = "sglang_nemotron.host.http.app:app"
# architecture -> module of ours that holds its class
MODELS = {TEXT: f"{MODEL_PACKAGE}.nemotron_h", **dict.fromkeys(OMNI, f"{MODEL_PACKAGE}.nemotron_omni")}
REGISTRY = "sglang.srt.models.registry"

_MODEL_VARIABLE = "SGLANG_EXTERNAL_MODEL_PACKAGE"
_PROCESSOR_VARIABLE = "SGLANG_EXTERNAL_MM_PROCESSOR_PACKAGE"
_APP_VARIABLE = "SGLANG_HTTP_SERVER_APP_PATH"
# for HTTP workers, which do not know what is served when they start
_SERVES_OMNI = "SGLANG_NEMOTRON_SERVES_OMNI"


def announce_omni() -> None:
    """Omni is about to be served: this process and those it starts have a use for what reads media."""
    os.environ[_SERVES_OMNI] = "1"


def wants_media() -> bool:
    """Needs our model classes, by which SGLang finds processors: where they are imported anyway, or Omni is served."""
    return REGISTRY in sys.modules or _SERVES_OMNI in os.environ


def registry() -> Any:
    return importlib.import_module(REGISTRY).ModelRegistry


# ---- models


def _open_models() -> None:
    """Names our package to SGLang, or, where that comes too late or a fork took the name, adds our classes itself."""
    os.environ.setdefault(_MODEL_VARIABLE, MODEL_PACKAGE)
    if REGISTRY not in sys.modules:
        return
    # first our own import, which is quick and whose error is the clearer one
    for module in MODELS.values():
        importlib.import_module(module)
    found = registry()
    of_forks = {name: model for name in MODELS if not _is_in_tree(model := found.models.get(name))}
    if len(of_forks) < len(MODELS):
        found.register(MODEL_PACKAGE, overwrite=True, strict=True)
        found.models.update(of_forks)


def _models_are_ours() -> str | None:
    for name, module in MODELS.items():
        ours = getattr(importlib.import_module(module), name)
        registered = registry().models.get(name)
        # a fork may register a subclass of its own
        if not (isinstance(registered, type) and issubclass(registered, ours)):
            owner = getattr(registered, "__module__", registered)
            return f"{name} would be served by {owner} ({_MODEL_VARIABLE}={os.environ.get(_MODEL_VARIABLE)})"
    return None


def _is_in_tree(model: Any) -> bool:
    return model is None or str(getattr(model, "__module__", model)).startswith("sglang.")


# ---- processors


def _open_processors() -> None:
    present = os.environ.setdefault(_PROCESSOR_VARIABLE, PROCESSOR_PACKAGE)
    if present != PROCESSOR_PACKAGE:
        raise ValueError(f"{_PROCESSOR_VARIABLE}={present} is set by somebody else; unset it")


def _processors_are_ours() -> str | None:
    importlib.import_module(PROCESSOR_PACKAGE)
    present = os.environ.get(_PROCESSOR_VARIABLE)
    return None if present == PROCESSOR_PACKAGE else f"{_PROCESSOR_VARIABLE} is {present!r}"


# ---- the scheduler, which has a processor of its own


def _ours_too(original: Callable[..., None]) -> Callable[..., None]:
    """The scheduler imports SGLang's processors alone, and builds one of them over our config, which fails aloud."""

    @functools.wraps(original)
    def import_processors(package_name: str, *args: Any, **kwargs: Any) -> None:
        original(package_name, *args, **kwargs)
        # as the HTTP process does
        original(PROCESSOR_PACKAGE, overwrite=True)

    return import_processors


def _serves_omni() -> bool:
    return _SERVES_OMNI in os.environ


# ---- HTTP worker processes


def _open_workers() -> None:
    os.environ.setdefault(_APP_VARIABLE, HTTP_APP)


def _workers_are_ours() -> str | None:
    from sglang_nemotron.sglang_api.args import envs

    # somebody else's application is for `startup` to judge: without worker processes it plays no part
    named = envs.SGLANG_HTTP_SERVER_APP_PATH.get()
    if named == HTTP_APP or os.environ.get(_APP_VARIABLE) == named:
        return None
    return f"SGLang would start HTTP workers with {named}, not {os.environ.get(_APP_VARIABLE)}"


PROCESSORS = Door("processors", "args", "media processors", opens=_open_processors, proof=_processors_are_ours)
_SCHEDULER = "sglang.srt.managers.scheduler"
IN_SCHEDULER = Door(
    "scheduler processor",
    "engine",
    "media processors, also in the scheduler",
    needs=(_SCHEDULER,),
    # of the scheduler's own name alone: elsewhere SGLang imports our package by itself
    wraps=(Wrap(_SCHEDULER, "", "import_processors", _ours_too, takes=("package_name",)),),
    without="imports SGLang's processors alone",
    wanted=_serves_omni,
)
WORKERS = Door("workers", "args", "plugins in HTTP worker processes", opens=_open_workers, proof=_workers_are_ours)
MODEL_CLASSES = Door(
    "models",
    "engine",
    "model classes: " + ", ".join(MODELS),
    needs=(REGISTRY,),
    # the variable is read when the registry is imported, so that it must be set before
    early=True,
    opens=_open_models,
    proof=_models_are_ours,
)
