"""The site: every page is in its navigation, its plots and names are those of this tree, and its build is strict.

`make site` builds it and checks links; that it would notice is shown in the matrix, since it needs the package index.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from support.waiting import NET_S

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# pages that .ci/site.py makes of files that are not in docs/
MADE = {"index.md": "README.md", "changelog.md": "CHANGELOG.md"}
MADE |= {"contributing.md": "CONTRIBUTING.md", "security.md": "SECURITY.md"}


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml without what it names in Python."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def config() -> dict[str, Any]:
    return yaml.load((ROOT / "mkdocs.yml").read_text(), _Loader)


def pages(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for part in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from pages(part)


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_navigation_once() -> None:
    named = list(pages(config()["nav"]))
    assert len(set(named)) == len(named) > 25
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert {name for name in named if not name.startswith("examples/")} == there | set(MADE)
    assert all((ROOT / source).is_file() for source in MADE.values())
    assert all((ROOT / name).is_file() for name in named if name.startswith("examples/"))


def test_the_build_is_strict_and_fetches_nothing() -> None:
    found = config()
    assert found["strict"] is True and found["theme"]["font"] is False
    assert {value for group in found["validation"].values() for value in group.values()} == {"warn"}
    assert found["validation"]["links"]["anchors"] and found["validation"]["nav"]["omitted_files"]
    (handler,) = (plugin["mkdocstrings"] for plugin in found["plugins"] if "mkdocstrings" in plugin)
    assert handler["handlers"]["python"]["options"]["allow_inspection"] is False
    assert "mkdocs build --strict" in (ROOT / "Makefile").read_text()
    assert re.search(r"^make lint\nmake site$", (ROOT / ".ci" / "run").read_text(), re.M)


def test_public_names_are_those_of_the_page_for_forks() -> None:
    rows = re.findall(r"^\| `(sglang_nemotron[\w.]*)` \| (.*) \|$", (DOCS / "forks.md").read_text(), re.M)
    promised = [f"{module}.{name}" for module, names in rows for name in re.findall(r"`(\w+)`", names)]
    assert len(promised) > 15
    assert re.findall(r"^::: (\S+)$", (DOCS / "api.md").read_text(), re.M) == promised


# ---- plots


def test_plots_are_of_the_json_that_is_committed() -> None:
    """`make site` compares every byte; this needs no matplotlib."""
    plots = script("plots")
    assert {path.stem for path in (DOCS / "plots").glob("*")} == set(plots.SOURCES)
    for name, files in plots.SOURCES.items():
        said = plots.described(name)
        assert all(hashlib.sha256(file.read_bytes()).hexdigest()[:16] in said for file in files)
        assert said in (DOCS / "plots" / f"{name}.svg").read_text(), f"{name}: run python benchmarks/plots.py"


def test_what_is_plotted_is_what_the_tables_say() -> None:
    plots = script("plots")
    columns = [("bf16", "in-tree"), ("bf16", "ours"), ("fp8", "in-tree"), ("fp8", "ours")]
    for what, page in (("decode", "nano.md"), ("decode", "numbers.md"), ("prefill", "numbers.md")):
        for row in re.findall(r"^\| (\d+) \| ([\d,]+ \|.*)$", (DOCS / page).read_text(), re.M):
            cells = [int(cell.replace(",", "")) for cell in row[1].rstrip("| ").split(" | ") if cell.strip()]
            drawn = [
                (plots.ours(kind, what) if side == "ours" else plots.rows_of(kind, side, what))[int(row[0])]
                for kind, side in columns
            ]
            if what == "decode" and page == "numbers.md" and len(cells) > 4:
                # with floors between, one left out
                cells = [*cells[:2], *cells[3:5]]
            if cells == drawn:
                break
        else:
            raise AssertionError(f"no row of {page} is what is plotted of {what}")


def test_the_floor_is_that_of_the_sizes() -> None:
    floor = script("decode_floor")
    assert json.loads(floor.OUT.read_text())["tokens_per_second"] == floor.floors()
    # more at once never takes fewer bytes, and one request reads what it chooses alone
    read = floor.weights("none")
    steps = [floor.step_bytes(read, batch) for batch in floor.BATCHES]
    assert steps == sorted(steps) and steps[0] < read["others"] + read["experts"] / 10


# ---- the build notices


def _link(copy: Path) -> None:
    (copy / "docs" / "media.md").open("a").write("\n[gone](nowhere.md)\n")


def _anchor(copy: Path) -> None:
    (copy / "docs" / "media.md").open("a").write("\n[gone](replies.md#nowhere)\n")


def _page(copy: Path) -> None:
    (copy / "docs" / "stray.md").write_text("# Stray\n")


def _file(copy: Path) -> None:
    (copy / "README.md").open("a").write("\n[a file](pyproject.toml)\n")


def _name(copy: Path) -> None:
    (copy / "docs" / "api.md").open("a").write("\n::: sglang_nemotron.nothing\n")


FAULTS: list[tuple[Callable[[Path], None] | None, str]] = [
    (None, ""),
    (_link, "nowhere.md"),
    (_anchor, "replies.md#nowhere"),
    (_page, "stray.md"),
    (_file, "pyproject.toml, which is no page of the site"),
    (_name, "sglang_nemotron.nothing"),
]


@pytest.fixture(scope="module")
def mkdocs() -> Path:
    done = subprocess.run(["make", "site"], cwd=ROOT, capture_output=True, text=True, timeout=NET_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (ROOT / ".site" / "nano" / "index.html").is_file() and (ROOT / ".site" / "external-links.txt").read_text()
    return ROOT / ".site-venv" / "bin" / "mkdocs"


@pytest.mark.matrix
@pytest.mark.parametrize(("plant", "said"), FAULTS, ids=lambda value: getattr(value, "__name__", None) or "")
def test_a_build_ends_with_what_is_wrong(
    plant: Callable[[Path], None] | None, said: str, mkdocs: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    skipped = shutil.ignore_patterns(".*", "__pycache__", "tests")
    shutil.copytree(ROOT, copy, ignore=skipped)
    shutil.copytree(ROOT / ".ci", copy / ".ci")
    if plant is not None:
        plant(copy)
    done = subprocess.run([mkdocs, "build", "--strict"], cwd=copy, capture_output=True, text=True, timeout=NET_S)
    assert done.returncode == (plant is not None), done.stdout + done.stderr
    assert said in done.stdout + done.stderr


@pytest.mark.matrix
def test_a_stale_plot_is_noticed(mkdocs: Path, tmp_path: Path) -> None:
    for folder in ("benchmarks", "docs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    file = tmp_path / "benchmarks" / "gpu_decode.json"
    file.write_text(file.read_text().replace("14661", "15661"))
    check = [mkdocs.parent / "python", tmp_path / "benchmarks" / "plots.py", "--check"]
    done = subprocess.run(check, capture_output=True, text=True, timeout=NET_S)
    assert done.returncode == 1 and "docs/plots/decode.svg, docs/plots/prefill.svg" in done.stderr


@pytest.mark.matrix
def test_no_index_is_said_and_no_half_environment_stays(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements"):
        source, target = ROOT / name, tmp_path / name
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "UV_INDEX_URL": "http://127.0.0.1:9/", "UV_NO_CACHE": "1"}
    nowhere |= {"PIP_NO_CACHE_DIR": "1", "PIP_RETRIES": "0", "UV_HTTP_RETRIES": "0", "PIP_CONFIG_FILE": "/dev/null"}
    nowhere |= {"PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin", "UV_NO_CONFIG": "1"}
    done = subprocess.run(["make", "site"], cwd=tmp_path, env=nowhere, capture_output=True, text=True, timeout=NET_S)
    assert done.returncode != 0 and "the site was NOT built" in done.stderr, done.stdout + done.stderr
    assert not (tmp_path / ".site-venv").exists()
