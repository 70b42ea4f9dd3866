"""Faults planted from outside: a `sitecustomize` that breaks modules as a server's processes import them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_SITECUSTOMIZE = """
import importlib.abc, importlib.machinery, json, os, sys

PLAN = json.loads(os.environ["PLANTED_FAULTS"])


class Loader(importlib.abc.Loader):
    def __init__(self, inner, before, after):
        self.inner, self.before, self.after = inner, before, after

    def create_module(self, spec):
        return self.inner.create_module(spec)

    def exec_module(self, module):
        exec(self.before, vars(module))
        self.inner.exec_module(module)
        exec(self.after, vars(module))


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in PLAN:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        spec.loader = Loader(spec.loader, *PLAN[name])
        return spec


sys.meta_path.insert(0, Finder())
"""


@dataclass(frozen=True)
class Fault:
    """Code run in a module's namespace before and after its own."""

    module: str
    before: str = ""
    after: str = ""


def plant(folder: Path, *faults: Fault) -> dict[str, str]:
    """The environment in which every Python process meets the faults."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE)
    plan: Mapping[str, tuple[str, str]] = {fault.module: (fault.before, fault.after) for fault in faults}
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, "PLANTED_FAULTS": json.dumps(plan)}


def import_error(module: str) -> Fault:
    """`import module` fails."""
    return Fault(module, before="raise ImportError('planted: this module is broken')")


def lost_name(module: str, *names: str) -> Fault:
    """`module` lacks names, as in an SGLang release that renamed them."""
    return Fault(module, after=f"del {', '.join(names)}")


# the registry keeps SGLang's own class, whatever a plugin registers
NO_OVERWRITE = Fault(
    "sglang.srt.models.registry",
    after="""
_import = import_model_classes
_update = lambda models, new: [models.setdefault(name, model) for name, model in new.items()]
class _Kept(dict):
    def update(self, new):
        for name, model in dict(new).items():
            self.setdefault(name, model)
def _register(self, package_name, overwrite=False, strict=False):
    self.models.update(_import(package_name, strict=strict))
_ModelRegistry.register = _register
ModelRegistry.models = _Kept(_import("sglang.srt.models"))
ModelRegistry._default_models_loaded = True
""",
)
