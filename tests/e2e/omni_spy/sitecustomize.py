"""For tests: a server that finds this on its path says in its log how many media items its towers encode, and when."""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import sys
from typing import Any

_WATCHED = "sglang_nemotron.models.nemotron_omni"


def _watch(module: Any) -> None:
    owner = module.NemotronH_Nano_Omni_Reasoning_V3
    for kind in ("image", "video", "audio"):
        name = f"get_{kind}_feature"
        setattr(owner, name, _told(getattr(owner, name), kind))


def _told(encode: Any, kind: str) -> Any:
    @functools.wraps(encode)
    def told(self: Any, items: list[Any]) -> Any:
        # lines of several processes must not mix
        sys.stdout.write(f"encoded {kind}: {len(items)}\n")
        sys.stdout.flush()
        return encode(self, items)

    return told


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != _WATCHED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            _watch(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Finder())
