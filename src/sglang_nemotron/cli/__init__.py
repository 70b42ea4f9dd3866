"""The `sglang-nemotron` command: one file per subcommand, each with `add_arguments` and `run`."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys

from sglang_nemotron import __version__
from sglang_nemotron.cli.console import Parser

# name -> module; the first line of a module's docstring is its help
COMMANDS = {
    "bench": "bench",
    "command": "command",
    "demo": "demo",
    "doctor": "doctor",
    "make-checkpoint": "make_checkpoint",
    "parity": "parity",
    "plan": "plan",
    "verify": "verify",
}


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="sglang-nemotron",
        description="Tools around serving NVIDIA Nemotron 3 Nano with SGLang. Serving itself is `sglang serve`.",
    )
    parser.add_argument("--version", action="version", version=f"sglang-nemotron {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module_name in COMMANDS.items():
        module = importlib.import_module(f"sglang_nemotron.cli.{module_name}")
        text = (module.__doc__ or "").strip()
        command = commands.add_parser(
            name,
            help=text.split("\n", 1)[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        print(f"\nsglang-nemotron {args.command}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
