"""What the commands print: errors of two lines, tables, progress. As wide as the terminal, and plain where it is piped.

Rich draws; it is imported when something is to be drawn, so that `--help` and errors stay quick.
"""

from __future__ import annotations

import argparse
import io
import itertools
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# of what is piped: nobody reads it at a width
_WIDE = 1000
# between two lines of progress in a log
_QUIET_S = 5.0
_REMEDY = "\n  remedy: "


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are two lines, without the usage of a screen before them."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        # a flag that nobody knows is told by the command that it was given to, not by the program around it
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(2, two_lines(self.prog, message, f"`{self.prog} --help` says what it takes"))


def finite(text: str) -> float:
    """A finite number of a command line: every flag that takes a float is read by this."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise argparse.ArgumentTypeError(f"{text!r} is no finite number")
    return found


def size(text: str) -> tuple[int, int]:
    """(width, height) in pixels of a command line, from WIDTHxHEIGHT."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text, re.ASCII)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write WIDTHxHEIGHT in pixels, e.g. 1920x1080")
    return int(found[1]), int(found[2])


def check_file(flag: str, file: Path | None) -> None:
    """ValueError of two lines for a file that could not be written after long work; None is no file."""
    if file is not None and file.is_dir():
        raise ValueError(f"{flag} {file} is a folder\n  remedy: name a file in it")
    if file is not None and not file.resolve().parent.is_dir():
        raise ValueError(f"{flag} {file}: {file.parent} is no folder\n  remedy: make it, or name another file")


def two_lines(program: str, error: object, remedy: str) -> str:
    """What is wrong, and what to do: by the error's own word, where it has one for that.

    Whatever else the error says (a log's last lines) comes before these two, which are the last that a user sees.
    """
    said, _, own = str(error).partition(_REMEDY)
    reason, _, details = said.strip().partition("\n")
    return (f"{details}\n\n" if details else "") + f"{program}: {reason}{_REMEDY}{' '.join((own or remedy).split())}\n"


def fail(program: str, error: object, remedy: str) -> None:
    """Prints `two_lines` on stderr."""
    print(two_lines(program, error, remedy), end="", file=sys.stderr, flush=True)


def console(file: TextIO | None = None) -> Console:
    """Rich's console of a stream, stdout if none is given."""
    from rich.console import Console

    stream = file or sys.stdout
    return Console(
        file=stream,
        width=None if stream.isatty() else _WIDE,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=False,
    )


def table(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """Aligned columns without lines between them; a name after a `>` is of numbers, and stands to the right."""
    from rich.table import Table

    drawn = Table(
        title=title,
        title_justify="left",
        title_style="",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        show_header=any(columns),
    )
    for column in columns:
        drawn.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    for row in rows:
        drawn.add_row(*(str(cell) for cell in row))
    return drawn


def show(drawn: Any) -> None:
    """Prints a table, or whatever rich can draw, on stdout."""
    if sys.stdout.isatty():
        console().print(drawn)
    else:
        print(as_text(drawn))
    sys.stdout.flush()


def as_text(drawn: Table) -> str:
    """A table as a pipe gets it."""
    stream = io.StringIO()
    console(stream).print(drawn)
    # rich fills the last column
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


class Bar:
    """Progress of one piece of work on stderr: a bar in a terminal, now and then a line in a log."""

    def __init__(self, name: str, *, of_bytes: bool = False) -> None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._console = console(sys.stderr)
        counted = DownloadColumn() if of_bytes else MofNCompleteColumn()
        self._progress = Progress(
            TextColumn(f"  {name}"),
            BarColumn(),
            counted,
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._name = name
        self._task = self._progress.add_task(name, total=None)
        self._told = time.monotonic()

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, done: int, total: int) -> None:
        """So much of it is done."""
        self._progress.update(self._task, completed=done, total=total)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._told >= _QUIET_S:
            self._told = now
            task = self._progress.tasks[0]
            left = f", {task.time_remaining:.0f} s to go" if task.time_remaining is not None else ""
            print(f"  {self._name}: {task.percentage:.0f} %{left}", file=sys.stderr, flush=True)


@contextmanager
def counted(name: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar of `total` steps; what it gives is to be called after each."""
    done = itertools.count(1)
    with Bar(name) as bar:
        yield lambda: bar(next(done), total)
