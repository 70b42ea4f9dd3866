"""The file of a measurement: whether it can be written, and what it says of how it came about, without its secret."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
from collections.abc import Sequence

from sglang_nemotron.cli.console import check_file

_PACKAGES = ("sglang-nemotron", "sglang", "torch", "transformers", "aiohttp", "numpy")


def check(args: argparse.Namespace) -> None:
    """ValueError for a --json that could not be written after a long measurement, and for a --timeout that is none."""
    if args.timeout <= 0:
        raise ValueError(f"--timeout is {args.timeout:g}\n  remedy: give seconds above 0 that a request may take")
    check_file("--json", args.json)


def versions() -> dict[str, str]:
    """Of the machine that asks; the server says its own."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def without_key(words: Sequence[str], key: str | None) -> list[str]:
    """A command line in which the key is no more."""
    return [word.replace(key, "KEY") if key else word for word in words]
