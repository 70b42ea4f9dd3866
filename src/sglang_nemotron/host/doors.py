"""The table of doors: what we register with SGLang, when, and how we prove that ours is what will serve.

Each row is opened at its stage and then asked `is_ours`; a row that fails refuses. `register()`, `doctor` and the
tests walk the same rows. Imports every room; imported by the package root and the commands alone.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from sglang_nemotron.host import drift, refusal

logger = logging.getLogger(__name__)

Stage = Literal["args", "engine", "http"]

MODEL_PACKAGE = "sglang_nemotron.models"
PROCESSOR_PACKAGE = "sglang_nemotron.processors"
HTTP_APP = "sglang_nemotron.host.http_app:app"
# architecture -> module of ours that holds its class
MODELS = {
    "NemotronHForCausalLM": f"{MODEL_PACKAGE}.nemotron_h",
    "NemotronH_Nano_Omni_Reasoning_V3": f"{MODEL_PACKAGE}.nemotron_omni",
    "NemotronH_Omni_Reasoning_V3": f"{MODEL_PACKAGE}.nemotron_omni",
}

_MODEL_VARIABLE = "SGLANG_EXTERNAL_MODEL_PACKAGE"
_PROCESSOR_VARIABLE = "SGLANG_EXTERNAL_MM_PROCESSOR_PACKAGE"
_APP_VARIABLE = "SGLANG_HTTP_SERVER_APP_PATH"
# for HTTP workers, which do not know what is served when they start
_SERVES_OMNI = "SGLANG_NEMOTRON_SERVES_OMNI"
_REGISTRY = "sglang.srt.models.registry"
_TOKENIZER_MANAGER = "sglang.srt.managers.tokenizer_manager"
_REASONING_PARSER = "sglang.srt.parser.reasoning_parser"
_SERVING_CHAT = "sglang.srt.entrypoints.openai.serving_chat"
_GRAMMAR_MANAGER = "sglang.srt.constrained.grammar_manager"


@dataclass(frozen=True)
class Door:
    """One registration. `open` does it (may be repeated), `is_ours` says None or why not; `stage`: when it is proved.

    args: while the main process parses arguments. engine: once SGLang's model registry is imported (the scheduler,
    and the main process when it resolves one of our architectures). http: the main process then, and HTTP workers.
    """

    name: str
    stage: Stage
    what: str
    open: Callable[[], None]
    is_ours: Callable[[], str | None]
    remedy: str = refusal.REMEDY


# ---- models


def _open_models() -> None:
    """Names our package to SGLang, or, where that comes too late or a fork took the name, adds our classes itself."""
    os.environ.setdefault(_MODEL_VARIABLE, MODEL_PACKAGE)
    if _REGISTRY not in sys.modules:
        return
    # first our own import, which is quick and whose error is the clearer one
    for module in MODELS.values():
        importlib.import_module(module)
    registry = _registry()
    of_forks = {name: model for name in MODELS if not _is_in_tree(model := registry.models.get(name))}
    if len(of_forks) < len(MODELS):
        registry.register(MODEL_PACKAGE, overwrite=True, strict=True)
        registry.models.update(of_forks)


def _models_are_ours() -> str | None:
    for name, module in MODELS.items():
        ours = getattr(importlib.import_module(module), name)
        registered = _registry().models.get(name)
        # a fork may register a subclass of its own
        if not (isinstance(registered, type) and issubclass(registered, ours)):
            owner = getattr(registered, "__module__", registered)
            return f"{name} would be served by {owner} ({_MODEL_VARIABLE}={os.environ.get(_MODEL_VARIABLE)})"
    return None


def _is_in_tree(model: Any) -> bool:
    return model is None or str(getattr(model, "__module__", model)).startswith("sglang.")


def _registry() -> Any:
    return importlib.import_module(_REGISTRY).ModelRegistry


# ---- processors


def _open_processors() -> None:
    present = os.environ.setdefault(_PROCESSOR_VARIABLE, PROCESSOR_PACKAGE)
    if present != PROCESSOR_PACKAGE:
        raise ValueError(f"{_PROCESSOR_VARIABLE}={present} is set by somebody else; unset it")


def _processors_are_ours() -> str | None:
    importlib.import_module(PROCESSOR_PACKAGE)
    present = os.environ.get(_PROCESSOR_VARIABLE)
    return None if present == PROCESSOR_PACKAGE else f"{_PROCESSOR_VARIABLE} is {present!r}"


def _wants_media() -> bool:
    """Needs our model classes, by which SGLang finds processors: where they are imported anyway, or Omni is served."""
    return _REGISTRY in sys.modules or _SERVES_OMNI in os.environ


def _open_media() -> None:
    if _TOKENIZER_MANAGER in sys.modules and _SERVING_CHAT in sys.modules and _wants_media():
        importlib.import_module("sglang_nemotron.host.media").open_media()
        importlib.import_module("sglang_nemotron.host.requests").open_processor_check()


def _media_are_ours() -> str | None:
    if not _wants_media():
        return None
    from sglang_nemotron.host import media, requests

    return media.media_is_ours() or requests.processor_is_checked()


# ---- start-up checks of our architectures (they run in the main process, before any scheduler)


def _resolve(server_args: Any, hf_config: Any) -> dict[str, Any]:
    """SGLang's override provider for NemotronHForCausalLM: raises to refuse, returns the fields to set.

    A config of another family under this name is left to SGLang alone.
    """
    from sglang_nemotron.config import is_nano
    from sglang_nemotron.host import ending, startup

    if is_nano(hf_config) is not None:
        return {}
    ending.watch()
    prove_all()
    return startup.resolve(server_args, hf_config, http_app=HTTP_APP)


def _resolve_omni(server_args: Any, hf_config: Any) -> dict[str, Any]:
    """As `_resolve`, for the Omni architectures; Super Omni shares one of their names."""
    from sglang_nemotron.config_omni import is_nano_omni
    from sglang_nemotron.host import ending, startup_omni

    if is_nano_omni(hf_config) is not None:
        return {}
    startup_omni.check_libraries()
    os.environ[_SERVES_OMNI] = "1"
    ending.watch()
    prove_all()
    return startup_omni.resolve(server_args, hf_config, http_app=HTTP_APP)


_RESOLVERS = {name: _resolve if name == "NemotronHForCausalLM" else _resolve_omni for name in MODELS}


def _open_startup() -> None:
    from sglang_nemotron.host.names.args import register_model_override

    # a broken one must show now, not when it is called
    importlib.import_module("sglang_nemotron.host.startup_omni")
    for name, resolver in _RESOLVERS.items():
        if resolver not in _providers(name):
            register_model_override(name)(resolver)


def _startup_is_ours() -> str | None:
    for name, resolver in _RESOLVERS.items():
        if resolver not in _providers(name):
            return f"our start-up check of {name} is not among SGLang's override providers"
    return None


def _providers(architecture: str) -> list[Any]:
    from sglang_nemotron.host.names.args import override_providers

    return override_providers.get(architecture, [])


# ---- HTTP worker processes


def _open_workers() -> None:
    os.environ.setdefault(_APP_VARIABLE, HTTP_APP)


def _workers_are_ours() -> str | None:
    from sglang_nemotron.host.names.args import envs

    # somebody else's application is for `startup` to judge: without worker processes it plays no part
    named = envs.SGLANG_HTTP_SERVER_APP_PATH.get()
    if named == HTTP_APP or os.environ.get(_APP_VARIABLE) == named:
        return None
    return f"SGLang would start HTTP workers with {named}, not {os.environ.get(_APP_VARIABLE)}"


# ---- requests


def _open_requests() -> None:
    if _TOKENIZER_MANAGER in sys.modules:
        importlib.import_module("sglang_nemotron.host.requests").open_check()


def _requests_are_ours() -> str | None:
    from sglang_nemotron.host import requests

    return requests.is_checked()


# ---- replies: which parsers, the parsers, what requests show them, thinking budgets


def _ask(module: str, question: str) -> Callable[[], Any]:
    """A function of a module of this room, imported when it is called: each costs what SGLang's modules cost."""

    def asked() -> Any:
        return getattr(importlib.import_module(f"sglang_nemotron.host.{module}"), question)()

    return asked


def _once_there(host_module: str, *steps: Callable[[], Any]) -> Callable[[], None]:
    """Does the steps once SGLang has imported what they open into; until then it is too early."""

    def opened() -> None:
        if host_module in sys.modules:
            for step in steps:
                step()

    return opened


_open_parsers = _ask("replies", "open_parsers")


# ---- platform


def _platform_is_ours() -> str | None:
    # SGLang first: it resolves the platform while it is imported, and must not meet ours half-imported
    current = importlib.import_module("sglang_nemotron.host.names.args").platforms.current_platform
    from sglang_nemotron.host import cpu

    if cpu.activate() is None:
        return "our CPU platform is active beside an accelerator" if isinstance(current, cpu.CpuPlatform) else None
    if isinstance(current, cpu.CpuPlatform):
        return None
    return f"no accelerator is here, but the platform is {type(current).__module__}.{type(current).__name__}"


def _open_nothing() -> None:
    """SGLang opens this one by itself, through an entry point."""


DOORS: tuple[Door, ...] = (
    # first: the processes of a launcher that is gone need no more
    Door(
        "ending",
        "http",
        "nothing left of a start that is ended",
        _ask("ending", "open_ending"),
        _ask("ending", "ending_is_ours"),
    ),
    Door(
        refusal.PLATFORM,
        "args",
        "host memory and torch's CPU routines, where nothing else can run",
        _open_nothing,
        _platform_is_ours,
        remedy="reinstall sglang-nemotron, without which SGLang serves nothing here; set SGLANG_NEMOTRON_DISABLE=1 "
        "where another platform should serve",
    ),
    Door(
        "config",
        "args",
        "config classes of text and Omni, and their hybrid cache",
        _ask("config_tables", "open_configs"),
        _ask("config_tables", "configs_are_ours"),
    ),
    Door(
        "tokenizer",
        "args",
        "tokenizer of Omni, without remote code",
        _ask("config_tables", "open_tokenizers"),
        _ask("config_tables", "tokenizers_are_ours"),
    ),
    Door(
        "tables",
        "args",
        "Omni where SGLang lists text by architecture",
        _ask("tables", "open_tables"),
        _ask("tables", "tables_are_ours"),
    ),
    Door("startup", "args", "checks of our architectures in the main process", _open_startup, _startup_is_ours),
    Door("processors", "args", "media processors", _open_processors, _processors_are_ours),
    Door("workers", "args", "plugins in HTTP worker processes", _open_workers, _workers_are_ours),
    Door("models", "engine", "model classes: " + ", ".join(MODELS), _open_models, _models_are_ours),
    Door("requests", "http", "token ids checked against the vocabulary", _open_requests, _requests_are_ours),
    Door(
        "parser flags",
        "args",
        "which reply parsers a server uses",
        _ask("reply_flags", "open_flags"),
        _ask("reply_flags", "flags_are_ours"),
    ),
    Door(
        "parsers",
        "engine",
        "reasoning and tool calls of replies",
        _once_there(_REASONING_PARSER, _open_parsers),
        _ask("replies", "parsers_are_ours"),
    ),
    Door(
        "replies",
        "http",
        "what the parsers see of a request; tools and budgets checked",
        _once_there(_SERVING_CHAT, _open_parsers, _ask("reply_http", "open_requests")),
        _ask("reply_http", "requests_are_ours"),
    ),
    Door("media", "http", "images, video and sound of requests", _open_media, _media_are_ours),
    Door(
        "budgets",
        "engine",
        "thinking budgets",
        _once_there(_GRAMMAR_MANAGER, _ask("budget", "open_budget")),
        _ask("budget", "budget_is_ours"),
    ),
)


def open_all() -> None:
    """Opens every door, and proves those whose stage has come; a fault refuses our architectures, nothing else."""
    drift.warn_if_untested()
    engine_here = _REGISTRY in sys.modules
    for door in DOORS:
        if _guarded(door, door.open) and (door.stage == "args" or (door.stage == "engine" and engine_here)):
            _guarded(door, lambda door=door: _prove(door))
    if engine_here and refusal.faults():
        _bar_the_scheduler()


def prove_all() -> None:
    """Proves every door, importing what it takes; raises what was refused. For a process about to serve us."""
    # from here on no row is early: what the late rows open into is imported now rather than a moment later
    _guarded(_row("models"), _registry)
    _guarded(_row("requests"), lambda: importlib.import_module(_TOKENIZER_MANAGER))
    _guarded(_row("parsers"), lambda: importlib.import_module(_REASONING_PARSER))
    _guarded(_row("replies"), lambda: importlib.import_module(_SERVING_CHAT))
    _guarded(_row("budgets"), lambda: importlib.import_module(_GRAMMAR_MANAGER))
    for door in DOORS:
        if door.stage == "args" or _guarded(door, door.open):
            _guarded(door, lambda door=door: _prove(door))
    refusal.raise_if_refused()


def open_http() -> None:
    """Opens and proves the rows of a process that answers HTTP; a fault stays in this process's log."""
    for door in DOORS:
        if door.stage == "http" and _guarded(door, door.open):
            _guarded(door, lambda door=door: _prove(door))


def _row(name: str) -> Door:
    return next(door for door in DOORS if door.name == name)


def _prove(door: Door) -> None:
    wrong = door.is_ours()
    if wrong is not None:
        refusal.refuse(door.name, wrong, door.remedy)


def _guarded(door: Door, step: Callable[[], object]) -> bool:
    """Whether `step` went through; a fault is kept as this door's refusal."""
    try:
        step()
    # the one place that turns any fault of a door into a refusal: the host would log it and go on without us
    except Exception as fault:
        logger.debug("door %s failed", door.name, exc_info=True)
        refusal.refuse(door.name, f"{type(fault).__name__}: {fault}", door.remedy)
        return False
    return True


def _bar_the_scheduler() -> None:
    for architecture in refusal.ARCHITECTURES:
        _registry().models[architecture] = refusal.refusing_class(architecture)
