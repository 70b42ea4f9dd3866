"""The recipe pages: files and tests that exist, and for the smallest layer kind exactly the files that name it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sglang_nemotron.ops.forms import FORMS, LAYER

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "sglang_nemotron"
# README.md lists them
RECIPES = sorted(set((ROOT / "docs" / "recipes").glob("*.md")) - {ROOT / "docs" / "recipes" / "README.md"})


def section(text: str, name: str) -> str:
    """What stands under a heading, up to the next one."""
    return re.split(r"^## ", text.split(f"\n## {name}\n", 1)[1], maxsplit=1, flags=re.M)[0]


def package_files(text: str) -> set[str]:
    """The package's files in code spans, from its folder."""
    return set(re.findall(r"`src/sglang_nemotron/([\w/]+\.py)`", text))


@pytest.mark.parametrize("page", RECIPES, ids=lambda path: path.stem)
def test_pages_have_files_and_proof(page: Path) -> None:
    text = page.read_text()
    assert re.findall(r"^## (.+)$", text, re.M) == ["Files", "Proof"]
    assert package_files(section(text, "Files")) and "tests/" in section(text, "Proof")
    assert len(text.splitlines()) < 60
    for where in ("route.md", "development.md"):
        assert f"recipes/{page.name}" in (ROOT / "docs" / where).read_text()


def test_all_four_are_there() -> None:
    assert [page.stem for page in RECIPES] == ["layer-kind", "op-form", "sglang-release", "state-dtype"]


def test_a_layer_kind_touches_the_files_that_name_the_dense_one() -> None:
    """A second list, from the sources: who names the record, mixer, tensors or letter of the dense MLP."""
    page = section((ROOT / "docs" / "recipes" / "layer-kind.md").read_text(), "Files")
    table = package_files("\n".join(line for line in page.splitlines() if line.startswith("|")))
    names = re.compile(r"DenseSpec|dense_tensors|class DenseMLP|\"-\" in spec|\"-\": ")
    found = {str(file.relative_to(PACKAGE)) for file in PACKAGE.rglob("*.py") if names.search(file.read_text())}
    # the convenience that the page speaks of
    assert found - {"config/decoder.py"} == table


def test_a_form_touches_its_file_and_the_table() -> None:
    """Who names a form: its own file and its row; an op's public function and its mixer know none."""
    names = {f"{form.op}_{form.name}" for form in FORMS if form.name != LAYER}
    naming = re.compile("|".join(sorted(names)))
    found = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        if not file.is_relative_to(PACKAGE / "ops") and naming.search(file.read_text())
    }
    assert found == set()


def test_state_dtypes_are_listed_once() -> None:
    """No list beside `family.py`'s names the types of a state; the checkpoint writer's is of what it writes."""
    listed = re.compile(r"\(\"float32\", \"bfloat16\", \"float16\"\)")
    found = {str(file.relative_to(PACKAGE)) for file in PACKAGE.rglob("*.py") if listed.search(file.read_text())}
    # what a comparison may be asked for
    assert found == {"family.py", "cli/parity.py", "cli/verify.py"}
