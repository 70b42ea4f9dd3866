"""The libraries that read media, and which of them are not installed. Nothing is imported to find out."""

from __future__ import annotations

import importlib.util

# module -> package of the extra `omni` that has it, or that brings it
LIBRARIES = {
    "av": "av",
    "librosa": "librosa",
    "llvmlite": "numba",
    "numba": "numba",
    "PIL": "pillow",
    "soundfile": "soundfile",
    "soxr": "soxr",
}

# of an error's remedy: the package is not on PyPI yet
INSTALL = "pip install '.[omni]' in a clone of sglang-nemotron"


def missing() -> list[str]:
    """Packages that are not installed, by the names that pip knows, sorted."""
    return sorted({package for module, package in LIBRARIES.items() if importlib.util.find_spec(module) is None})
