"""sglang-nemotron: NVIDIA Nemotron 3 Nano and Nano Omni on stock SGLang."""

from __future__ import annotations

__version__ = "0.1.0"
