"""docs/operations.md says every row of ours, and every line that this package logs; and none that there is not."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from sglang_nemotron.host.counts import OF_HTTP, OF_SCHEDULER, REFUSALS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "sglang_nemotron"
LEVELS = ("debug", "info", "warning", "error", "exception", "critical")
TEXT = (ROOT / "docs" / "operations.md").read_text()


def lines_of(source: str) -> list[str]:
    """What a module's loggers write, a … for what is put in; AssertionError for a text that is made elsewhere."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS):
            continue
        if isinstance(node.func.value, ast.Name) and node.func.value.id == "logger":
            said = node.args[0]
            assert isinstance(said, ast.Constant) and isinstance(said.value, str), ast.unparse(node)
            # the package's own name in front would make a command of it
            line = re.sub(r"^sglang-nemotron|%[.\d]*[a-z]", "…", said.value)
            found.append(line.replace("\n", "\\n"))
    return found


def logged() -> set[str]:
    files = [file for file in PACKAGE.rglob("*.py") if "cli" not in file.relative_to(PACKAGE).parts]
    return {line for file in files for line in lines_of(file.read_text())}


def documented() -> set[str]:
    (part,) = re.findall(r"^## Lines in the log\n(.*?)^## ", TEXT, re.M | re.S)
    return set(re.findall(r"^\| `([^`]+)` \|", part, re.M))


def test_every_line_of_the_log_is_documented_and_no_other() -> None:
    assert len(logged()) > 25
    assert documented() == logged()


def test_a_logger_by_another_way_is_seen() -> None:
    source = 'logger.warning("%d slots of %.1f GiB\\nare full", 1, 2)\nlogger.info(made)'
    try:
        lines_of(source)
    except AssertionError as error:
        assert "logger.info(made)" in str(error)
    else:
        raise AssertionError("a text that is made elsewhere passes")
    assert lines_of(source.splitlines()[0]) == ["… slots of … GiB\\nare full"]
    # every logger of the package goes by this name
    others = [
        file.name
        for file in PACKAGE.rglob("*.py")
        if re.search(r"(?<!logger = )logging\.(getLogger\(__|info|warning|error)", file.read_text())
    ]
    assert others == []


def test_every_row_and_every_kind_is_documented() -> None:
    rows = dict(re.findall(r"^\| `(sglang_nemotron_\w+)` \| (\w+) \|", TEXT, re.M))
    assert rows == {metric.name: metric.kind for metric in (*OF_SCHEDULER, *OF_HTTP)}
    (kinds,) = re.findall(r"^Kinds of refusals: (.*?)\. What", TEXT, re.M | re.S)
    assert set(re.findall(r"`(\w+)`", kinds)) == set(REFUSALS.values)
