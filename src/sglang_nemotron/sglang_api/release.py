"""What SGLang release this is. It is only ever warned about: what a release can do, `drift.py` and the rows probe."""

from __future__ import annotations

import importlib.metadata
import logging
import os

logger = logging.getLogger(__name__)

# the SGLang releases this version was tested with, first and last; others warn once and are proved like these
SUPPORTED_SGLANG = ("0.5.23", "0.5.23")

_WARNED = "SGLANG_NEMOTRON_WARNED_VERSION"


def sglang_version() -> str:
    return importlib.metadata.version("sglang")


def _key(version: str) -> tuple[int, ...]:
    parts = []
    for word in version.split(".")[:4]:
        digits = "".join(c for c in word if c.isdigit())
        parts.append(int(digits) if digits else 0)
    return tuple(parts)


def is_tested(version: str) -> bool:
    """Whether a release lies in the tested window (local and post labels ignored)."""
    first, last = SUPPORTED_SGLANG
    return _key(first) <= _key(version.split("+")[0]) <= _key(last)


def window() -> str:
    """The tested releases, in words."""
    first, last = SUPPORTED_SGLANG
    return first if first == last else f"{first} to {last}"


def remedy() -> str:
    """What to do about a fault that an untested release may be the cause of; nothing if the installed one is tested."""
    version = sglang_version()
    return "" if is_tested(version) else f"install sglang {window()}, which was tested; this is {version}"


def warn_if_untested() -> None:
    """One warning in a server's life, also over its child processes; the doors are proved either way."""
    version = sglang_version()
    if is_tested(version) or os.environ.get(_WARNED) == version:
        return
    os.environ[_WARNED] = version
    logger.warning(
        "SGLang %s is outside the tested window (%s); every door is still proved at start", version, window()
    )
