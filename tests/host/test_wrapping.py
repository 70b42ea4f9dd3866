"""Ours is around each method once, another's wrapper hides nothing, and a method that was replaced is named."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sglang_nemotron
from sglang_nemotron.host.doors import DOORS
from sglang_nemotron.sglang_api.wrapping import Wrap, first_unwrapped, wrap_once
from support import children


@pytest.fixture
def owner(monkeypatch: pytest.MonkeyPatch) -> type:
    """A class in a module of its own, as SGLang's are."""

    class Owner:
        def first(self) -> list[str]:
            return ["first"]

        def second(self) -> list[str]:
            return ["second"]

    module: Any = ModuleType("host_of_wraps")
    module.Owner = Owner
    module.Child = type("Child", (Owner,), {})
    module.function = lambda: ["function"]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return Owner


def _adding(word: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def wrapped(*args: Any) -> Any:
            return [word, *original(*args)]

        return wrapped

    return wrap


def _table(word: str) -> tuple[Wrap, ...]:
    return tuple(Wrap("host_of_wraps", "Owner", name, _adding(word)) for name in ("first", "second"))


def test_ours_is_put_there_once(owner: Any) -> None:
    table = _table("ours")
    assert first_unwrapped(table, "mark") == "Owner.first"
    for _ in range(3):
        wrap_once(table, "mark")
    assert (owner().first(), owner().second()) == (["ours", "first"], ["ours", "second"])
    assert first_unwrapped(table, "mark") is None


def test_two_tables_wrap_the_same_method_in_any_order(owner: Any) -> None:
    one, other = _table("one"), _table("other")
    for _ in range(2):
        wrap_once(one, "one")
        assert first_unwrapped(other, "other") in ("Owner.first", None)
        wrap_once(other, "other")
    assert owner().first() == ["other", "one", "first"]
    assert first_unwrapped(one, "one") is None and first_unwrapped(other, "other") is None


def test_a_method_that_somebody_replaced_is_named(owner: Any) -> None:
    table = _table("ours")
    wrap_once(table, "mark")
    owner.second = lambda self: ["theirs"]
    assert first_unwrapped(table, "mark") == "Owner.second"
    wrap_once(table, "mark")
    assert owner().second() == ["ours", "theirs"] and owner().first() == ["ours", "first"]
    del owner.second
    assert first_unwrapped(table, "mark") == "Owner.second"


def test_a_method_that_a_class_does_not_define_is_not_wrapped(owner: Any) -> None:
    inherited = Wrap("host_of_wraps", "Child", "first", _adding("ours"))
    with pytest.raises(AttributeError, match="SGLang's Child has no first of its own"):
        wrap_once((inherited,), "mark")
    child = sys.modules["host_of_wraps"].Child
    wrap_once((replace(inherited, inherited=True),), "mark")
    assert child().first() == ["ours", "first"] and owner().first() == ["first"]


def test_a_function_is_wrapped_wherever_it_is_held(owner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = sys.modules["host_of_wraps"]
    late: Any = ModuleType("holder")
    late.function = module.function
    wrap = Wrap("host_of_wraps", "", "function", _adding("ours"), held_by=("holder", "never.imported"))
    wrap_once((wrap,), "mark")
    assert module.function() == ["ours", "function"] and first_unwrapped((wrap,), "mark") is None
    # imported since, by somebody who took the name before us
    monkeypatch.setitem(sys.modules, "holder", late)
    assert first_unwrapped((wrap,), "mark") == "host_of_wraps.function"
    wrap_once((wrap,), "mark")
    assert late.function() == ["ours", "function"] and first_unwrapped((wrap,), "mark") is None


# ---- nothing else in the package changes what is somebody else's

PACKAGE = Path(sglang_nemotron.__file__).parent


def foreign_stores(file: Path) -> list[str]:
    """Attributes that a file sets on an imported module or class, or on what it finds inside of one."""
    tree = ast.parse(file.read_text())
    imported = {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    # a module that is looked up, and a class that is handed in
    imported |= {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
        if re.search(r"import_module|sys\.modules", ast.unparse(node.value))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    imported |= {
        arg.arg
        for node in ast.walk(tree)
        if isinstance(node, ast.arguments)
        for arg in (*node.args, *node.kwonlyargs)
        if arg.annotation is not None and ast.unparse(arg.annotation) == "type"
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            place = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("setattr", "delattr"):
            place = node.args[0]
        else:
            continue
        root = place
        while isinstance(root, ast.Attribute | ast.Subscript | ast.Call):
            root = root.func if isinstance(root, ast.Call) else root.value
        if isinstance(root, ast.Name) and root.id in imported:
            found.append(f"{file.name}:{node.lineno} {ast.unparse(node)}")
    return found


def test_nothing_else_changes_sglang() -> None:
    files = [file for file in PACKAGE.rglob("*.py") if file.name != "wrapping.py"]
    # the hook that ends a process with our refusal
    own = [line for file in files for line in foreign_stores(file) if "sys.excepthook" not in line]
    assert own == []


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.Tensor.pin_memory = None\n",
        "import sys\ndef f():\n    server = sys.modules.get('x')\n    server.ORJSONRequest.body = 1\n",
        "import importlib\nengine: Any = importlib.import_module('x')\nengine.f = 1\n",
        "def f(owner: type):\n    owner.__init__ = 1\n",
        "from x import Manager\nsetattr(Manager, 'process', 1)\n",
        "from x import table\ndel table.entry\n",
    ],
)
def test_a_change_is_seen(text: str, tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text(text)
    assert len(foreign_stores(tmp_path / "planted.py")) == 1


def calls(name: str) -> int:
    return sum(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
    )


def test_every_wrap_and_every_row_is_in_the_table() -> None:
    assert calls("Wrap") == sum(len(door.wraps) for door in DOORS) >= 17
    assert calls("Door") == len(DOORS)
    # what is set without a wrapper is set by a file that has a row to prove it
    setters = {file for file in PACKAGE.rglob("*.py") if "import" in file.read_text() and "rebind(" in file.read_text()}
    assert all("Door(" in file.read_text() for file in setters if file.name != "wrapping.py")


def test_every_file_with_a_row_is_light() -> None:
    """A file with a row is imported before SGLang has parsed an argument: none of SGLang's servers comes with it."""
    script = """
import sys
import sglang.cli.serve
from sglang.srt.plugins import load_plugins
load_plugins()
print(*sorted(name for name in sys.modules if name.startswith("sglang.srt.")))
"""
    run = children.run([sys.executable, "-c", script])
    assert run.returncode == 0, run.stderr[-2000:]
    loaded = set(run.stdout.splitlines()[-1].split())
    heavy = {module for door in DOORS for module in door.needs} | {wrap.module for door in DOORS for wrap in door.wraps}
    assert loaded & heavy <= {"sglang.srt.parser.template_detection", "sglang.srt.server_args"}
