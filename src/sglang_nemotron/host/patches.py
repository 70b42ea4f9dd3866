"""The few changes to SGLang or torch that have no door; each is a row in docs/upstream.md with its way out."""

from __future__ import annotations

from typing import Any

import torch


def plain_pin_memory() -> None:
    """`Tensor.pin_memory()` without an accelerator returns the tensor itself.

    SGLang pins a mask unconditionally (schedule_batch.py, extra_buffer), and torch raises where there is no
    accelerator to pin for. Called by the CPU platform alone.
    """
    torch.Tensor.pin_memory = _unpinned  # type: ignore[method-assign]


# torch's own signature takes a device, positional or by name
def _unpinned(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return self
