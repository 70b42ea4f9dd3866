"""Where the tests of our Triton kernels run: interpreted on the CPU under TRITON_INTERPRET=1, else on a CUDA device.

A file of such tests is called test_*_triton.py and has `pytestmark = ON_TRITON`. In a plain process its tests carry the
`gpu` marker; test_interpreted.py runs them all once more in a process of their own, where Triton interprets.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

# Triton reads it when it is first imported, so a test cannot switch it
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
_NO_DEVICE = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device and no TRITON_INTERPRET=1")
ON_TRITON = [] if INTERPRETED else [pytest.mark.gpu, _NO_DEVICE]
# sizes of the model: for the device alone, hours in the interpreter
FULL_SIZE = pytest.mark.skipif(INTERPRETED, reason="full size, on a CUDA device only")


def on_device(value: Any) -> Any:
    """A tensor, where the kernels run; anything else as it is."""
    return value.to(DEVICE) if isinstance(value, torch.Tensor) else value
