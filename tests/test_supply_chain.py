"""What this package runs and reads that it did not bring along: nothing from a client, no remote code, no loose pickle.

SECURITY.md says so; the sources are held to it here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.serving import MAIN, OMNI

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
# the one file that unpickles, with a list of what may come out
ANSWERS = "reader/answers.py"
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "telnetlib", "xmlrpc"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "torch.load"}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_nothing_that_was_sent_can_run(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
    }
    found = imported & FORBIDDEN_IMPORTS
    assert found <= ({"pickle"} if str(path).endswith(ANSWERS) else set())
    for name, call in calls(tree):
        assert name not in FORBIDDEN_CALLS, f"{name} in line {call.lineno}"
        for keyword in call.keywords:
            value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
            assert not (keyword.arg in ("shell", "trust_remote_code", "allow_pickle") and value is True), name


def test_the_check_can_fail() -> None:
    tree = ast.parse("import pickle\nmodel = load('x', trust_remote_code=True)\nos.system('true')")
    assert [name for name, _ in calls(tree)] == ["load", "os.system"]


def test_no_server_of_the_tests_trusts_remote_code_by_default() -> None:
    """So whatever they show, the published checkpoints' own code is not needed; `tests/e2e/test_startup.py` passes the
    flag, and shows that it changes nothing."""
    for served in (MAIN, OMNI):
        assert "--trust-remote-code" not in served.args
        assert not any("TRUST_REMOTE" in name for name, _ in served.env)


@pytest.mark.parametrize(
    "path", ["Dockerfile", "compose.yaml", "deploy", "examples", "README.md", "docs/quickstart.md"]
)
def test_no_command_that_we_publish_asks_for_remote_code(path: str) -> None:
    files = [ROOT / path] if (ROOT / path).is_file() else [file for file in (ROOT / path).rglob("*") if file.is_file()]
    assert files
    assert [file for file in files if "--trust-remote-code" in file.read_text(errors="ignore")] == []
