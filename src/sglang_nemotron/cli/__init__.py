"""The `sglang-nemotron` command: one file per subcommand, each with `add_arguments` and `run`."""

from __future__ import annotations

import argparse
import importlib
import sys

from sglang_nemotron import __version__

# name -> module; the first line of a module's docstring is its help
COMMANDS = {
    "demo": "demo",
    "doctor": "doctor",
    "make-checkpoint": "make_checkpoint",
    "parity": "parity",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
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
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
