"""Every command and snippet that README, docs, examples and `--help` show a reader, and the class of each.

A snippet is a fenced block, of which a shell's is cut into its commands, or a command in a code span. Files come in,
snippets go out; what a class does with its snippets is for tests/test_snippets.py and tests/e2e/test_snippets.py.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sglang_nemotron import cli
from support import children
from support.snippet_table import BLOCKS, ELSEWHERE, RULES, SHOWN

ROOT = Path(__file__).parents[2]
# where a reader finds the programs of this environment
BIN = Path(sys.executable).parent
# the address that docs give to a server
PORT_30000 = "http://127.0.0.1:30000"

_SHELLS = ("sh", "bash", "shell")
_PROGRAMS = "sglang-nemotron|sglang|make|python[0-9.]*|pip|pytest|sh|docker|curl|hf|pre-commit"
_COMMANDS = "|".join(cli.COMMANDS)
# a program with words behind it, one of our commands with a flag, or a benchmark with one
_IS_COMMAND = re.compile(
    rf"(?:[A-Z_]+=\S+ )*(?:[\w.]+/bin/)?(?:{_PROGRAMS}) \S|(?:{_COMMANDS}) --\w|benchmarks/\S+\.py --\w"
)
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.M | re.S)


@dataclass(frozen=True)
class Snippet:
    """`place`: the file, or the command whose help it is. `text`: as it stands there. Else than a command: a block."""

    place: str
    text: str
    is_command: bool

    @property
    def key(self) -> str:
        """A command on one line, without its comment: the same wherever it stands. A block by place and first line."""
        if not self.is_command:
            return f"{self.place}: {self.text.splitlines()[0].strip()}"
        return " ".join(re.sub(r"[ \t]+# .*", "", self.text).replace("\\\n", " ").split())

    def __str__(self) -> str:
        return f"{self.place}: {self.key}"[:100]


def commands(script: str) -> Iterator[str]:
    """The commands of a shell script, each with its continued lines and its comment."""
    whole = ""
    for line in script.splitlines(keepends=True):
        whole += line
        if line.rstrip("\n").endswith("\\"):
            continue
        try:
            words = shlex.split(whole, comments=True)
        except ValueError:
            # a quote is still open
            continue
        if words:
            yield whole.strip()
        whole = ""
    assert not whole.strip(), f"a command that does not end: {whole}"


def in_markdown(place: str, text: str) -> Iterator[Snippet]:
    """The snippets of a document."""
    for _, language, block in _FENCE.findall(text):
        if language in _SHELLS:
            yield from (Snippet(place, command, True) for command in commands(block))
        else:
            yield Snippet(place, block, False)
    for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", _FENCE.sub("", text)):
        if _IS_COMMAND.match(command := " ".join(span.split())):
            yield Snippet(place, command, True)


def _documents() -> Iterator[tuple[str, str]]:
    files = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    files += [*sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
    yield from ((str(file.relative_to(ROOT)), file.read_text()) for file in files)
    for file in sorted((ROOT / "examples").rglob("*.py")):
        yield str(file.relative_to(ROOT)), ast.get_docstring(ast.parse(file.read_text())) or ""


def in_help() -> Iterator[Snippet]:
    """The examples that `--help` gives."""
    for name, module in cli.COMMANDS.items():
        parser = argparse.ArgumentParser()
        importlib.import_module(f"sglang_nemotron.cli.{module}").add_arguments(parser)
        for words, asked in _with_kinds(f"sglang-nemotron {name}", parser):
            for line in re.findall(r"^  (sglang-nemotron .+)$", asked.epilog or "", re.M):
                yield Snippet(f"{words} --help", line, True)


def _with_kinds(words: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """A parser, and those of its subcommands, each with what leads to it."""
    yield words, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, kind in action.choices.items():
                yield from _with_kinds(f"{words} {name}", kind)


def found() -> list[Snippet]:
    """Every snippet, each once for each place."""
    both = [*(snippet for place, text in _documents() for snippet in in_markdown(place, text)), *in_help()]
    return list(dict.fromkeys(both))


def classes(snippet: Snippet) -> list[str]:
    """The classes that take it: one, if all is well. What a table names, no rule takes."""
    tables: dict[str, Iterable[str]] = {"shown": SHOWN, "elsewhere": ELSEWHERE, **BLOCKS}
    named = [name for name, keys in tables.items() if any(fits(snippet, key) for key in keys)]
    if named or not snippet.is_command:
        return named
    return [name for name, pattern in RULES.items() if re.fullmatch(pattern, snippet.key)]


def fits(snippet: Snippet, key: str) -> bool:
    """Whether a table's key names it: the whole of a command, the beginning of a block."""
    return snippet.key == key if snippet.is_command else snippet.key.startswith(key)


def of(name: str) -> list[Snippet]:
    """The snippets of a class, each command once."""
    by_key = {snippet.key: snippet for snippet in found() if name in classes(snippet)}
    return list(by_key.values())


def adapted(text: str, changes: Mapping[str, str]) -> str:
    """A command with what a reader puts in its place; AssertionError for a change that changes nothing."""
    for old, new in changes.items():
        assert old in text, f"{old!r} is not in {text!r}"
        text = text.replace(old, new)
    return text


def shell(command: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a command as a reader does whose environment is active."""
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    return children.run(["bash", "-euo", "pipefail", "-c", command], {**os.environ, "PATH": path, **env}, cwd=cwd)


def shape(value: object) -> object:
    """An answer without its words: what random weights say means nothing."""
    if isinstance(value, dict):
        return {name: shape(part) for name, part in value.items() if name != "content"} | {"content": str}
    return value
