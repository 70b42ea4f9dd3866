"""The table of doors: what we register with SGLang, when, and how we prove that ours is what will serve.

Collects the rows of the files that own them, and walks them: a row is opened at its stage and then asked `is_ours`; a
row that fails refuses. `register()`, `doctor` and the tests walk the same rows. Imports every room; imported by the
package root and the commands alone.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable

from sglang_nemotron.family import ARCHITECTURES
from sglang_nemotron.host import (
    alarms,
    budgets,
    config_tables,
    context,
    ending,
    fetching,
    metrics,
    packages,
    parsers,
    passwords,
    platform,
    refusal,
    reply_flags,
    start_watch,
    stopping,
    tables,
)
from sglang_nemotron.host.door import Door
from sglang_nemotron.host.http import (
    answer_format,
    body_spool,
    chat_body,
    counting,
    history,
    media,
    replies,
    reply_ends,
    reply_json,
    requests,
    stop_requests,
)
from sglang_nemotron.host.packages import REGISTRY, registry
from sglang_nemotron.host.providers import startup_door

logger = logging.getLogger(__name__)

DOORS: tuple[Door, ...] = (
    # first: the processes of a launcher that is gone need no more
    ending.ENDING,
    ending.SIGNALS,
    ending.LEFTOVERS,
    platform.PLATFORM,
    config_tables.CONFIGS,
    config_tables.TOKENIZER,
    context.CONTEXT,
    alarms.ALARMS,
    tables.BY_ARCHITECTURE,
    startup_door(lambda: prove_all()),
    packages.PROCESSORS,
    packages.IN_SCHEDULER,
    packages.WORKERS,
    packages.MODEL_CLASSES,
    platform.PINNING,
    requests.REQUESTS,
    requests.PROCESSOR,
    chat_body.CHAT_BODIES,
    passwords.PASSWORDS,
    reply_flags.FLAGS,
    parsers.PARSERS,
    replies.REPLIES,
    answer_format.FORMATS,
    reply_ends.ENDS,
    reply_json.INTEGERS,
    history.HISTORIES,
    stop_requests.STOP_SEQUENCES,
    media.MEDIA,
    metrics.IN_HTTP,
    body_spool.MEDIA_BODIES,
    counting.COUNTING,
    budgets.BUDGETS,
    metrics.IN_SCHEDULER,
    start_watch.START,
    stopping.STOPS,
)


def open_all() -> None:
    """Opens every door, and proves those whose stage has come; a fault refuses our architectures, nothing else."""
    fetching.explain()
    engine_here = REGISTRY in sys.modules
    for door in DOORS:
        if _guarded(door, door.open) and (door.stage == "args" or (door.stage == "engine" and engine_here)):
            _guarded(door, lambda door=door: _prove(door))
    if engine_here and refusal.faults():
        _bar_the_scheduler()


def prove_all() -> None:
    """Proves every door, importing what it takes; raises what was refused. For a process about to serve us."""
    # from here on no row is early: what the rows open into is imported now rather than a moment later
    for door in DOORS:
        for module in door.needs:
            _guarded(door, lambda module=module: importlib.import_module(module))
    for door in DOORS:
        if _guarded(door, door.open):
            _guarded(door, lambda door=door: _prove(door))
    refusal.raise_if_refused()


def open_http() -> None:
    """Opens and proves the rows of a process that answers HTTP; a fault stays in this process's log."""
    for door in DOORS:
        if door.stage == "http" and _guarded(door, door.open):
            _guarded(door, lambda door=door: _prove(door))


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
    for architecture in ARCHITECTURES:
        registry().models[architecture] = refusal.refusing_class(architecture)
