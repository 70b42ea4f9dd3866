"""Measure a running server: how fast it answers, how often it is right, and two of them beside each other.

For any OpenAI-compatible server. `bench speed` is the cookbooks' benchmark without its download, `bench accuracy` their
GSM8K and MMLU, and `bench compare` sets two measurements beside each other. docs/bench.md has the definitions.
"""

from __future__ import annotations

import argparse

from sglang_nemotron.cli import bench_accuracy, bench_compare, bench_speed

# name -> module; the first line of a module's docstring is its help
_KINDS = {"speed": bench_speed, "accuracy": bench_accuracy, "compare": bench_compare}

_EPILOG = """\
examples:
  sglang-nemotron bench speed http://127.0.0.1:30000 --concurrency 1,16,256 --json run.json --plot run.svg
  sglang-nemotron bench accuracy http://127.0.0.1:30000 --task gsm8k --data test.jsonl --expect 0.83
  sglang-nemotron bench compare before.json after.json

`sglang-nemotron bench KIND --help` says what each takes.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on `parser`."""
    parser.epilog = _EPILOG
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for name, module in _KINDS.items():
        text = (module.__doc__ or "").strip()
        kind = kinds.add_parser(
            name,
            help=text.split("\n", 1)[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(kind)
        kind.set_defaults(run_kind=module.run)


def run(args: argparse.Namespace) -> int:
    """Measure. Returns the exit code of the kind."""
    return args.run_kind(args)
