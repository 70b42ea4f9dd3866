"""Two measurements of `bench speed` beside each other: what differs by more than the spread of its rounds.

Reads what `bench speed --json` wrote; asks no server.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_nemotron.cli.console import check_file, fail, show, table

if TYPE_CHECKING:
    from sglang_nemotron.bench.records import Run

_PROGRAM = "sglang-nemotron bench compare"

_EPILOG = """\
  A number is the median of the rounds of a file, with their range. "B higher" and "B lower" mean that the two ranges do
  not touch; "within the rounds' spread" that the files do not tell which is which. Ranges also lie apart by chance; the
  last line says how often. One round has no spread: measure with --rounds 4 or more. Two servers are better asked in
  turn, with `bench speed --against`.

examples:
  sglang-nemotron bench compare before.json after.json
  sglang-nemotron bench compare before.json after.json --plot both.svg
  sglang-nemotron bench compare against.json       # the two servers of one `bench speed --against`

Exit code: 0, or 2 if they cannot be compared.
"""
# what makes two measurements different questions
_ASKED = (
    *("input_len", "output_len", "range_ratio", "chat", "vocab", "images", "image_size", "sounds", "sound_s"),
    *("clips", "clip_s", "clip_size"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on `parser`."""
    parser.epilog = _EPILOG
    parser.add_argument("a", type=Path, metavar="A.json", help="what `bench speed --json` wrote")
    parser.add_argument(
        "b",
        type=Path,
        nargs="?",
        metavar="B.json",
        help="the same of another server, version or day (default: A's two)",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw both here (.svg, .png, .pdf; extra `bench`)")


def run(args: argparse.Namespace) -> int:
    """Compare. Returns 0, or 2 for files that cannot be compared."""
    try:
        return _run(args)
    except (ValueError, OSError) as error:
        fail(_PROGRAM, error, f"`{_PROGRAM} --help` says what is needed")
        return 2


def _run(args: argparse.Namespace) -> int:
    from sglang_nemotron.bench import compare, plots

    check_file("--plot", args.plot)
    if args.plot:
        plots.check(args.plot)
    (about_a, a), (about_b, b) = _sides(args.a, args.b)
    for file, runs in ((args.a, a), (args.b or args.a, b)):
        _check_answered(file, runs)
    drawn = table(None, compare.COLUMNS, compare.rows(a, b))
    for name, file, about in (("A", args.a, about_a), ("B", args.b, about_b)):
        print(f"{name}: {file or args.a}, {about['date']}, {_served(about)}")
    for difference in compare.differences(about_a.get("load"), about_b.get("load"), _ASKED):
        print(f"NOT THE SAME QUESTION: {difference}")
    if {run_.client for run_ in a} != {run_.client for run_ in b}:
        print("NOT THE SAME CLIENT: one side was asked by bench_serving, the other by our own")
    for name, runs in (("A", a), ("B", b)):
        if failed := sum(run_.failed for run_ in runs):
            print(f"FAILED: {failed} of {sum(run_.asked for run_ in runs)} requests of {name}")
        if silent := sorted({run_.concurrency for run_ in runs} - {run_.concurrency for run_ in runs if run_.summary}):
            print(f"NOTHING ANSWERED by {name} with {', '.join(map(str, silent))} at once")
    print()
    show(drawn)
    print(compare.chance(a, b))
    if args.plot:
        plots.draw({f"A {_served(about_a)}": a, f"B {_served(about_b)}": b}, args.plot, "A and B")
        print(f"wrote {args.plot}")
    return 0


def _check_answered(file: Path, runs: Sequence[Run]) -> None:
    """ValueError of two lines for a side of which nothing was answered."""
    if any(run_.summary for run_ in runs):
        return
    failed, first = sum(run_.failed for run_ in runs), next(filter(None, (run_.first_error for run_ in runs)), None)
    server = f" of {runs[0].server}" if runs else ""
    said = f"all {failed} requests{server} failed, the first with: {first}" if failed else "no request was answered"
    raise ValueError(f"{file}: {said}\n  remedy: see what that server's log says, and measure again")


def _sides(
    first: Path, second: Path | None
) -> tuple[tuple[dict[str, Any], list[Run]], tuple[dict[str, Any], list[Run]]]:
    """(what a file says of itself, its runs) of both sides, each with one server."""
    from sglang_nemotron.bench import records

    about, runs = records.read(first)
    wanted = 2 if second is None else 1
    sides = [(first, about, runs), *([] if second is None else [(second, *records.read(second))])]
    for file, said, _ in sides:
        if (count := len(said["servers"])) != wanted:
            raise ValueError(
                f"{file} is of {count} server(s), where {wanted} would be compared"
                "\n  remedy: give two files of one server each, or one file of `bench speed --against`"
            )
    if second is not None:
        return (about, runs), (sides[1][1], sides[1][2])
    split = [
        ({**about, "servers": [server]}, [one for one in runs if one.server == server["url"]])
        for server in about["servers"]
    ]
    return split[0], split[1]


def _served(about: dict[str, Any]) -> str:
    (server,) = about["servers"]
    return f"{server['model']} at {server['url']}" + (", interrupted" if about.get("interrupted") else "")
