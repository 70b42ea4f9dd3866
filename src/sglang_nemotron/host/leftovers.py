"""Files that SGLang's processes leave when they are killed: names come in when it chooses them, and at the end they go.

For each socket between its processes it makes a temporary file, for its metrics a folder of them, and for its load a
file in shared memory; it removes these, if at all, where a process ends by itself. Must never know why a server ends.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import sys
from collections.abc import Callable
from dataclasses import fields
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from sglang_nemotron.sglang_api.wrapping import Wrap

SERVER_ARGS = "sglang.srt.server_args"
LOADS = "sglang.srt.managers.load_snapshot"
_COMMON = "sglang.srt.utils.common"
_IPC = "ipc://"
_sockets: set[Path] = set()
_loads: set[Path] = set()


def note(port_args: Any) -> None:
    """Keeps what SGLang's `PortArgs` says that the processes of a server will use; may be called for several."""
    if not _sockets:
        # at an end that takes its time, too
        atexit.register(remove)
    for field in fields(port_args):
        value = getattr(port_args, field.name)
        if isinstance(value, str) and value.startswith(_IPC):
            _sockets.add(Path(value.removeprefix(_IPC)))
    load = Path(sys.modules[LOADS].shm_path_for(port_args.instance_id))
    if load not in _loads:
        _loads.add(load)
        # Python's tracker outlives a launcher that is killed, and removes it then
        resource_tracker.register(f"/{load.name}", "shared_memory")


def can_note() -> str | None:
    """None, or what of SGLang's is not where it was."""
    return None if hasattr(sys.modules[LOADS], "shm_path_for") else f"{LOADS} has no shm_path_for any more"


def remove() -> None:
    """Removes what is there of all that; may be repeated."""
    for path in (*_sockets, *_loads):
        with contextlib.suppress(OSError):
            path.unlink()
    for load in _loads:
        resource_tracker.unregister(f"/{load.name}", "shared_memory")
    _sockets.clear()
    _loads.clear()
    metrics = getattr(sys.modules.get(_COMMON), "prometheus_multiproc_dir", None)
    if metrics is not None:
        with contextlib.suppress(OSError):
            metrics.cleanup()


def _noted(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def init_new(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        note(made)
        return made

    return init_new


NOTES = Wrap(SERVER_ARGS, "PortArgs", "init_new", _noted)
