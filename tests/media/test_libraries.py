"""The list of media libraries holds what the rooms import and what the extra installs; what is missing is named."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest

from sglang_nemotron.media import libraries

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "sglang_nemotron"
# what every installation has: SGLang's own requirements that are no media library
ALWAYS = {"numpy", "scipy", "sglang_nemotron", "tokenizers", "torch", "transformers"}


def _imported(file: Path) -> set[str]:
    """Top-level names of everything that a file imports, beside the standard library."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names - sys.stdlib_module_names


def test_every_library_that_media_import_is_listed_and_no_other() -> None:
    files = [file for room in ("prompt", "media", "reader") for file in (PACKAGE / room).rglob("*.py")]
    imported = set[str]().union(*map(_imported, files))
    assert imported - ALWAYS == set(libraries.LIBRARIES)


def test_where_text_runs_they_are_imported_inside_functions() -> None:
    """`ast.walk` of a file's own statements alone: functions and methods are left out."""
    files = [
        file for room in ("parity", "cli", "host", "models", "processors") for file in (PACKAGE / room).rglob("*.py")
    ]
    assert len(files) > 50
    assert {str(file): found for file in files if (found := _at_import(file) & set(libraries.LIBRARIES))} == {}
    # it would see one: that room is for Omni alone
    assert "numba" in _at_import(PACKAGE / "media" / "pixels" / "rows.py")


def _at_import(file: Path) -> set[str]:
    """Top-level names of what a file imports when it is imported itself."""
    names: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(file.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting += ast.iter_child_nodes(node)
    return names


def test_workers_import_the_same_before_their_first_file() -> None:
    tree = ast.parse((PACKAGE / "reader" / "worker.py").read_text())
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "_import_libraries")
    names = {alias.name for node in function.body if isinstance(node, ast.Import) for alias in node.names}
    for node in function.body:
        if isinstance(node, ast.ImportFrom):
            # a module of ours brings what it imports
            ours = [PACKAGE / "media" / "pixels" / f"{alias.name}.py" for alias in node.names]
            names |= {node.module or ""}.union(*(_imported(file) for file in ours if file.is_file()))
    assert names - ALWAYS - {"sglang_nemotron.media.pixels"} == set(libraries.LIBRARIES)


def test_the_extra_installs_them() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["omni"]
    names = {re.split(r"[<>=]", entry)[0] for entry in declared}
    brought = {re.split(r"[ <>=;\[(]", entry)[0] for entry in requires("librosa") or () if "extra ==" not in entry}
    assert names <= set(libraries.LIBRARIES.values()) <= names | brought


@pytest.mark.parametrize("gone", [*((name,) for name in libraries.LIBRARIES), ("PIL", "av")], ids=" and ".join)
def test_what_is_missing_is_named_as_pip_knows_it(gone: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    assert libraries.missing() == []
    find = importlib.util.find_spec

    def found(name: str, *more: Any) -> Any:
        return None if name in gone else find(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", found)
    assert libraries.missing() == sorted(libraries.LIBRARIES[name] for name in gone)
