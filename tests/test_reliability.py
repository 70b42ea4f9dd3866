"""docs/reliability.md says of load what the committed JSON says, which passed, and names tests that there are."""

from __future__ import annotations

import copy
import re
from pathlib import Path

from soak.table import soaks, table

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "reliability.md").read_text()


def test_figures_are_those_of_the_json() -> None:
    assert [line for line in table(soaks()) if line not in TEXT.splitlines()] == []


def test_other_figures_are_seen() -> None:
    others = copy.deepcopy(soaks())
    for one in others.values():
        one["requests"] += 1
        one["memory"]["roles"]["http"]["slope"] += 1
    assert len([line for line in table(others) if line not in TEXT.splitlines()]) == 2


def test_what_did_not_pass_is_told() -> None:
    for name, one in soaks().items():
        assert [problem for problem in one["problems"] if f"`{problem.strip()}`" not in TEXT] == [], name
        assert {role["verdict"] for role in one["memory"]["roles"].values()} == {"flat"}
        # of a tree that anyone can have
        assert "with changes" not in one["machine"]["commit"], name
        assert len(one["series"]["seconds"]) > 100


def test_every_fault_has_a_test() -> None:
    (part,) = re.findall(r"^## Faults survived\n(.*?)^## ", TEXT, re.M | re.S)
    files = set(re.findall(r"`(tests/e2e/\w+\.py)`", part))
    assert len(files) == 3 and all((ROOT / file).is_file() for file in files)
    assert len(re.findall(r"^\| (?!Fault|---)", part, re.M)) >= 10
