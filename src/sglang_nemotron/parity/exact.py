"""transformers' own model computed in float64: who is right where its float32 and a server's differ.

Both round. What a reference in float32 misses of the truth differs between makes of processor, and can be most of a
tolerance: 1.4e-5 of 2e-5 was seen on an AMD EPYC for a prompt whose answer the server gave to within 0.8e-5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from sglang_nemotron.parity.compare import Difference, compare
from sglang_nemotron.parity.reference import Reference, Scores


class _Float64(TorchFunctionMode):
    """Whatever is asked for in float32 is made in float64: the model's own code narrows norms, router and scan."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        wide = [torch.float64 if arg is torch.float32 else arg for arg in args]
        named = {name: torch.float64 if arg is torch.float32 else arg for name, arg in (kwargs or {}).items()}
        return func(*wide, **named)


class ExactReference(Reference):
    """As `Reference`, in float64 throughout. Takes twice its memory and several times its time."""

    def __init__(self, model_dir: Path) -> None:
        super().__init__(model_dir, torch.float64)
        # the grouped product of the default has no float64
        self.model.set_experts_implementation("eager")
        for tensor in [*self.model.parameters(), *self.model.buffers()]:
            if tensor.is_floating_point():
                tensor.data = tensor.data.double()

    def scores(self, ids: Sequence[int]) -> Scores:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            with _Float64():
                return super().scores(ids)
        finally:
            torch.set_default_dtype(before)


def beside_the_truth(
    differences: Sequence[Difference], tolerance: float, exact: Callable[[], Reference]
) -> list[Difference]:
    """The differences; those beyond `tolerance` from the float32 reference are taken from the exact one instead.

    exact: makes it, and is called only if it is needed.
    """
    if all(difference.worst <= tolerance for difference in differences):
        return list(differences)
    score = exact().scores
    return [one if one.worst <= tolerance else compare(one.mode, one.answer, score) for one in differences]
