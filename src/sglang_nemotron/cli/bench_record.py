"""The file of a measurement: whether it can be written, and what it says of how it came about, without its secret."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from typing import Any

from sglang_nemotron.cli.console import check_file

_PACKAGES = ("sglang-nemotron", "sglang", "torch", "transformers", "aiohttp", "numpy")


def check(args: argparse.Namespace) -> None:
    """ValueError for a --json that could not be written after a long measurement, and for a --timeout that is none."""
    if args.timeout <= 0:
        raise ValueError(f"--timeout is {args.timeout:g}\n  remedy: give seconds above 0 that a request may take")
    check_file("--json", args.json)


def key_of(args: argparse.Namespace) -> str | None:
    """What the server is to be shown, of --api-key or the environment."""
    return args.api_key or os.environ.get("OPENAI_API_KEY")


def about(args: argparse.Namespace) -> dict[str, Any]:
    """How a measurement came about: the command without its key, when, and with what on this machine."""
    words = [word.replace(args.api_key, "KEY") if args.api_key else word for word in sys.argv[1:]]
    return {
        "command": shlex.join(["sglang-nemotron", *words]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of the machine that asks; the server says its own."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
