"""What a measurement's file says of how it came about: versions, and the command without its secret."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence

_PACKAGES = ("sglang-nemotron", "sglang", "torch", "transformers", "aiohttp", "numpy")


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
