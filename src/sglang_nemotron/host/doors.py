"""The table of doors: what we register with SGLang, when, and how we prove that ours is what will serve.

Each row is opened at its stage and then asked `is_ours`; a row that fails refuses. `register()`, `doctor` and the
tests walk the same rows. Imports every room; imported by the package root and the commands alone.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from sglang_nemotron.host import drift, refusal

Stage = Literal["args", "engine"]

MODEL_PACKAGE = "sglang_nemotron.models"
PROCESSOR_PACKAGE = "sglang_nemotron.processors"
_MODEL_VARIABLE = "SGLANG_EXTERNAL_MODEL_PACKAGE"
_PROCESSOR_VARIABLE = "SGLANG_EXTERNAL_MM_PROCESSOR_PACKAGE"
_REGISTRY = "sglang.srt.models.registry"


@dataclass(frozen=True)
class Door:
    """One registration. `opened` does it (idempotent), `is_ours` says None or why not; `stage` is when it can be proved.

    args: while the main process parses arguments. engine: once SGLang's model registry is imported (the scheduler,
    and the main process when it resolves one of our architectures).
    """

    name: str
    stage: Stage
    what: str
    open: Callable[[], None]
    is_ours: Callable[[], str | None]


# ---- models


def _open_models() -> None:
    _claim_variable(_MODEL_VARIABLE, MODEL_PACKAGE)
    if _REGISTRY in sys.modules:
        # SGLang read the variable before we could set it
        _registry().register(MODEL_PACKAGE, overwrite=True, strict=True)


def _models_are_ours() -> str | None:
    importlib.import_module(f"{MODEL_PACKAGE}.nemotron_h")
    registered = _registry().models.get("NemotronHForCausalLM")
    return _not_from_here("NemotronHForCausalLM", registered)


def _registry() -> Any:
    return importlib.import_module(_REGISTRY).ModelRegistry


def _not_from_here(name: str, value: Any) -> str | None:
    owner = getattr(value, "__module__", value)
    if isinstance(owner, str) and owner.startswith("sglang_nemotron."):
        return None
    return f"{name} is served by {owner}"


def _claim_variable(variable: str, value: str) -> None:
    present = os.environ.get(variable)
    if present and present != value:
        raise ValueError(f"{variable}={present} is set by somebody else; unset it, or set it to {value}")
    os.environ[variable] = value


# ---- processors


def _open_processors() -> None:
    _claim_variable(_PROCESSOR_VARIABLE, PROCESSOR_PACKAGE)


def _processors_are_ours() -> str | None:
    importlib.import_module(PROCESSOR_PACKAGE)
    present = os.environ.get(_PROCESSOR_VARIABLE)
    return None if present == PROCESSOR_PACKAGE else f"{_PROCESSOR_VARIABLE} is {present!r}"


# ---- config, and with it the hybrid cache


def _open_config() -> None:
    from sglang_nemotron.host.hf_config import NanoConfig
    from sglang_nemotron.host.names.args import AutoConfig, config_registry

    config_registry[NanoConfig.model_type] = NanoConfig
    AutoConfig.register(NanoConfig.model_type, NanoConfig, exist_ok=True)


def _config_is_ours() -> str | None:
    from sglang_nemotron.host.names.args import config_registry, mamba2_config

    registered = config_registry.get("nemotron_h")
    wrong = _not_from_here("the config class of nemotron_h", registered)
    if wrong is not None:
        return wrong
    probe = _Probe(registered())
    return None if mamba2_config(probe) is probe.hf_config else "SGLang gives our config no hybrid cache"


@dataclass
class _Probe:
    """The two fields of SGLang's ModelConfig that decide about the hybrid cache."""

    hf_config: Any
    is_draft_model: bool = False


# ---- start-up checks of our architectures (they run in the main process, before any scheduler)


def _open_startup() -> None:
    from sglang_nemotron.host.names.args import register_model_override
    from sglang_nemotron.host.startup import resolve

    if resolve not in _providers():
        register_model_override("NemotronHForCausalLM")(resolve)


def _startup_is_ours() -> str | None:
    from sglang_nemotron.host.startup import resolve

    return None if resolve in _providers() else "our start-up check is not among SGLang's override providers"


def _providers() -> list[Any]:
    from sglang_nemotron.host.names.args import override_providers

    return override_providers.get("NemotronHForCausalLM", [])


# ---- platform


def _platform_is_ours() -> str | None:
    from sglang_nemotron.host import cpu
    from sglang_nemotron.host.names.args import platforms

    current = platforms.current_platform
    if cpu.activate() is None:
        return "our CPU platform is active beside an accelerator" if isinstance(current, cpu.CpuPlatform) else None
    return _not_from_here("the platform", type(current))


def _open_nothing() -> None:
    """SGLang opens this one by itself, through an entry point."""


DOORS: tuple[Door, ...] = (
    Door("platform", "args", "host memory and torch's CPU routines, where nothing else can run", _open_nothing, _platform_is_ours),
    Door("config", "args", "config class of nemotron_h, and the hybrid cache it asks for", _open_config, _config_is_ours),
    Door("startup", "args", "checks and defaults of our architectures in the main process", _open_startup, _startup_is_ours),
    Door("processors", "args", "media processors", _open_processors, _processors_are_ours),
    Door("models", "engine", "model class NemotronHForCausalLM", _open_models, _models_are_ours),
)


def open_all() -> None:
    """Opens every door, and proves those whose stage has come; a fault refuses our architectures, nothing else."""
    drift.warn_if_untested()
    engine_here = _REGISTRY in sys.modules
    for door in DOORS:
        _guard(door, door.open)
        if door.stage == "args" or engine_here:
            _guard(door, lambda door=door: _prove(door))
    if engine_here and refusal.faults():
        _bar_the_scheduler()


def prove_all() -> None:
    """Proves every door, importing what it takes; raises what was refused. For a process about to serve us."""
    for door in DOORS:
        _guard(door, lambda door=door: _prove(door))
    refusal.raise_if_refused()


def _prove(door: Door) -> None:
    wrong = door.is_ours()
    if wrong is not None:
        refusal.refuse(door.name, wrong)


def _guard(door: Door, step: Callable[[], None]) -> None:
    try:
        step()
    # the one place that turns any fault of a door into a refusal: the host would log it and go on without us
    except Exception as fault:
        refusal.refuse(door.name, f"{type(fault).__name__}: {fault}")


def _bar_the_scheduler() -> None:
    for architecture in refusal.ARCHITECTURES:
        _registry().models[architecture] = refusal.refusing_class(architecture)
