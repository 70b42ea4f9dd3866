"""What README and docs say exists, exists: files, make targets, commands, flags, variables, links; snippets compile."""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sglang_nemotron import cli
from sglang_nemotron.checkpoint.quant_layout import layer_algorithms
from sglang_nemotron.checkpoint.spec import OMNI_PRESETS, PRESETS
from sglang_nemotron.checkpoint.writer import all_tensors, stored_tensors
from sglang_nemotron.prompt.options import _TOP, _VARIABLES, ENVIRONMENT, SETTABLE, SETTINGS, MediaLimits
from sglang_nemotron.reader.origins import ADDRESSES, FOLDERS
from support.hub import OMNI_IDS, TEXT_IDS
from support.waiting import NET_S

ROOT = Path(__file__).parents[1]
DOCS = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.md")]
    if path.is_file()
)
TOP_FOLDERS = ("src", "tests", "docs", "examples", "benchmarks", "requirements", "deploy", ".ci", ".github")
PACKAGE = ROOT / "src" / "sglang_nemotron"
SCRIPT = Path(sys.executable).parent / "sglang-nemotron"


def named_files(text: str) -> set[str]:
    """Paths of this repository that the text names in code spans and fences."""
    pattern = rf"(?<![\w/.-])(?:{'|'.join(map(re.escape, TOP_FOLDERS))})/[\w./*-]*[\w*/]"
    return {match.rstrip("/") for match in re.findall(pattern, text)}


def make_targets(text: str) -> set[str]:
    """Targets that the text tells the reader to make."""
    commands = re.findall(r"`(?:[A-Z]+=\S+ )?make ([a-z][a-z -]*)`", text) + re.findall(r"^make ([a-z-]+)", text, re.M)
    return {target for command in commands for target in command.split()}


def commands(text: str) -> set[str]:
    """Subcommands of `sglang-nemotron` that the text names."""
    return set(re.findall(r"sglang-nemotron ([a-z][a-z-]+)(?![\w.=])", text))


def media_variables() -> set[str]:
    """Variables about media, whose names the code puts together."""
    settings = (PACKAGE / "reader" / "settings.py").read_text()
    endings = set(re.findall(r'_number\(environment, "([A-Z_]+)"', settings))
    endings |= {name.upper() for name in SETTABLE} | {ending for ending, _ in _VARIABLES.values()}
    return {ENVIRONMENT + ending for ending in endings} | {ADDRESSES, FOLDERS}


@pytest.mark.parametrize("doc", DOCS, ids=lambda path: path.name)
def test_named_files_exist(doc: Path):
    missing = [name for name in named_files(doc.read_text()) if not list(ROOT.glob(name))]
    assert missing == []


@pytest.mark.parametrize("doc", DOCS, ids=lambda path: path.name)
def test_links_within_the_repository_lead_somewhere(doc: Path):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", doc.read_text())
    assert [target for target in targets if not (doc.parent / target).exists()] == []


def test_files_of_the_route_exist():
    """`docs/route.md` names files from the package's folder."""
    text = (ROOT / "docs" / "route.md").read_text()
    named = re.findall(r"(?<![\w/])((?:\w+/)+\w+\.py)", text)
    # the lines about SGLang's own files say so
    of_sglang = {
        name for line in text.splitlines() if "sglang:" in line for name in re.findall(r"sglang: (\S+\.py)", line)
    }
    names = {name for name in set(named) - of_sglang if not name.startswith("tests/")}
    assert len(names) >= 20
    assert [name for name in sorted(names) if not (PACKAGE / name).is_file()] == []


def test_sglang_files_of_the_route_exist():
    import importlib.util

    found = importlib.util.find_spec("sglang")
    assert found is not None and found.submodule_search_locations
    srt = Path(next(iter(found.submodule_search_locations))) / "srt"
    names = re.findall(r"sglang: (\S+\.py)", (ROOT / "docs" / "route.md").read_text())
    assert names
    assert [name for name in names if not (srt / name).is_file()] == []


@pytest.mark.parametrize("doc", DOCS, ids=lambda path: path.name)
def test_make_targets_exist(doc: Path):
    makefile = (ROOT / "Makefile").read_text()
    defined = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.M))
    assert make_targets(doc.read_text()) <= defined


@pytest.mark.parametrize("doc", DOCS, ids=lambda path: path.name)
def test_commands_exist(doc: Path):
    assert commands(doc.read_text()) <= set(cli.COMMANDS)


def test_readme_is_short_and_begins_with_what_a_user_does():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 130
    first = "\n".join(lines[:45])
    assert all(words in first for words in ("pip install", "sglang serve --model-path nvidia/", "curl ", '"choices"'))
    (table,) = re.findall(r"(?:^\| .*\n)+", first.split('"usage"')[1].replace("|---", "| ---"), re.M)
    assert 3 <= len(table.splitlines()) - 2 <= 8


def test_sizes_of_the_readme_are_those_of_the_files():
    """Of a checkpoint of the published sizes, whose files the checkpoint room counts."""
    rows = re.findall(r"^\| one H200 \| `([^`]+)`.*? \| 1 \| ([\d.]+) GiB", (ROOT / "README.md").read_text(), re.M)
    assert len(rows) == 5
    for name, gib in rows:
        kind = {"FP8": "fp8", "NVFP4": "mixed"}.get(name.rpartition("-")[2], "none")
        spec = replace((OMNI_PRESETS if "Omni" in name else PRESETS)["full"], quantization=kind)
        algorithms = layer_algorithms(spec)
        stored = (tensor for source in all_tensors(spec) for tensor in stored_tensors(spec, source, algorithms))
        assert f"{sum(tensor.num_bytes for tensor in stored) / 2**30:.1f}" == gib, name


def test_names_of_the_readme_are_published():
    named = set(re.findall(r"nvidia/([\w.-]+)", (ROOT / "README.md").read_text()))
    named |= set(re.findall(r"^\| one H200 \| `([^`]+)`", (ROOT / "README.md").read_text(), re.M))
    assert len(named) == 5 and {f"nvidia/{name}" for name in named} <= {*TEXT_IDS, *OMNI_IDS}


def test_readme_names_every_command():
    table = re.findall(r"^\| `sglang-nemotron ([a-z-]+)", (ROOT / "README.md").read_text(), re.M)
    assert sorted(table) == sorted(cli.COMMANDS)


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_help_works(name: str):
    done = subprocess.run([SCRIPT, name, "--help"], capture_output=True, text=True, timeout=NET_S)
    assert done.returncode == 0, done.stderr
    assert f"sglang-nemotron {name}" in done.stdout


def test_flags_of_the_readme_exist():
    parser = argparse.ArgumentParser()
    for module in cli.COMMANDS.values():
        sub = argparse.ArgumentParser()
        __import__(f"sglang_nemotron.cli.{module}", fromlist=["x"]).add_arguments(sub)
        for option in sub._option_string_actions:
            if option not in parser._option_string_actions:
                parser.add_argument(option)
    known = set(parser._option_string_actions)
    for line in (ROOT / "README.md").read_text().splitlines():
        if line.startswith("| `sglang-nemotron"):
            assert set(re.findall(r"`(--[a-z-]+)`", line)) <= known, line


@pytest.mark.parametrize("doc", DOCS, ids=lambda path: path.name)
def test_variables_are_read_somewhere(doc: Path):
    source = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    variables = set(re.findall(r"SGLANG_NEMOTRON_[A-Z_]+", doc.read_text())) - media_variables()
    assert {name for name in variables if f'"{name}"' not in source} == set()


def test_media_are_documented():
    """Every variable and every name of an option, and the numbers that a reader would believe."""
    text = (ROOT / "docs" / "media.md").read_text()
    named = set(re.findall(r"`(SGLANG_NEMOTRON_[A-Z_]+)`", text))
    assert len(named) > 15 and named == media_variables()
    assert [name for names in SETTINGS.values() for name in names if f"`{name}`" not in text] == []
    assert [name for name in _TOP if f"`{name}`" not in text] == []
    limits = MediaLimits()
    assert f"1 to {limits.max_video_frames}; -1" in text
    assert f"{limits.min_image_tokens} to {limits.max_image_tokens}" in text


def test_budget_names_are_documented():
    from sglang_nemotron.reply.budget import BUDGET_NAMES, DEFAULT_GRACE, GRACE_NAME, MAX_BUDGET

    text = (ROOT / "docs" / "replies.md").read_text()
    assert [name for name in (*BUDGET_NAMES, GRACE_NAME) if f"`{name}`" not in text] == []
    assert f"`{GRACE_NAME}`, default {DEFAULT_GRACE}" in text and f"from 0 to {MAX_BUDGET:,}" in text


def test_parser_names_are_documented():
    from sglang_nemotron.host.reply_flags import READ_AS_OURS

    text = (ROOT / "docs" / "replies.md").read_text()
    for field, names in READ_AS_OURS.items():
        (row,) = re.findall(rf"^\| `--{field.replace('_', '-')}` \| (.*?) \|", text, re.M)
        assert set(re.findall(r"`([^`]+)`", row)) == set(names)


def run_modules(text: str) -> set[str]:
    """Modules of this repository that the text runs with `python -m`."""
    named = set(re.findall(r"python[\d.]* -m ([A-Za-z_][\w.]*)", text))
    return {name for name in named if name.split(".")[0] in ("tests", "benchmarks", "sglang_nemotron")}


@pytest.mark.parametrize("doc", [*DOCS, ROOT / "Makefile"], ids=lambda path: path.name)
def test_modules_that_are_run_exist(doc: Path):
    names = run_modules(doc.read_text())
    places = [(ROOT / "src" if name.startswith("sglang_nemotron") else ROOT) / name.replace(".", "/") for name in names]
    there = [place.with_suffix(".py").is_file() or (place / "__main__.py").is_file() for place in places]
    assert all(there), names


def test_every_module_says_what_it_is():
    """The house rule for docstrings, and so for each file that the route names; empty files say nothing."""
    silent = [
        str(file.relative_to(ROOT))
        for folder in ("src", "tests", "benchmarks", "examples")
        for file in sorted((ROOT / folder).rglob("*.py"))
        if (tree := ast.parse(file.read_text())).body and not ast.get_docstring(tree)
    ]
    assert silent == []


@pytest.mark.parametrize("doc", DOCS, ids=lambda path: path.name)
def test_python_snippets_compile(doc: Path):
    for snippet in re.findall(r"```python\n(.*?)```", doc.read_text(), re.S):
        ast.parse(snippet)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_compile(path: Path):
    ast.parse(path.read_text())


def test_every_door_is_in_the_ledger():
    from sglang_nemotron.host.doors import DOORS

    ledger = (ROOT / "docs" / "upstream.md").read_text().lower()
    assert [door.name for door in DOORS if door.name.lower() not in ledger] == []


def test_every_wrap_is_in_the_ledger():
    from sglang_nemotron.host.doors import DOORS

    ledger = (ROOT / "docs" / "upstream.md").read_text()
    wraps = [(door.name, wrap.owner or wrap.module, wrap.name) for door in DOORS for wrap in door.wraps]
    assert len(wraps) >= 17
    assert [names for names in wraps if any(name not in ledger for name in names)] == []


def test_files_with_rows_are_in_the_ledger():
    ledger = (ROOT / "docs" / "upstream.md").read_text()
    owners = [file for file in PACKAGE.rglob("*.py") if re.search(r"= Door\(|return Door\(", file.read_text())]
    assert len(owners) >= 10
    assert [file.name for file in owners if f"`{file.relative_to(ROOT)}" not in ledger] == []


def test_every_rebound_table_is_in_the_ledger():
    from sglang_nemotron.host.tables import TABLES

    ledger = (ROOT / "docs" / "upstream.md").read_text()
    assert TABLES and [name for name in TABLES if name not in ledger] == []


def test_the_checks_can_fail():
    text = "`tests/nothing.py`, `make nonsense`, sglang-nemotron nonsense and src/sglang_nemotron/host/doors.py"
    assert named_files(text) == {"tests/nothing.py", "src/sglang_nemotron/host/doors.py"}
    assert not list(ROOT.glob("tests/nothing.py"))
    assert make_targets(text) == {"nonsense"}
    assert commands(text) == {"nonsense"}
    assert run_modules("`python -m tests.nothing` and python3.12 -m venv plain") == {"tests.nothing"}
