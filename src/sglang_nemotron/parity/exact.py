"""transformers' own model computed in float64: who is right where its float32 and a server's differ.

Both round. What a reference in float32 misses of the truth differs between makes of processor, and can be most of a
tolerance: 1.4e-5 of 2e-5 was seen on an AMD EPYC for a prompt whose answer the server gave to within 0.8e-5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.overrides import TorchFunctionMode

from sglang_nemotron.parity.compare import Difference, compare
from sglang_nemotron.parity.reference import Reference, Scores
from sglang_nemotron.parity.reference_media import Item
from sglang_nemotron.parity.reference_omni import OmniReference, OmniScores


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
        _widen(self.model, self.model)

    def scores(self, ids: Sequence[int]) -> Scores:
        with _in_float64():
            return super().scores(ids)


class ExactOmniReference(OmniReference):
    """As `OmniReference`, in float64 from the pixels and the mel on, which are given."""

    def __init__(self, model_dir: Path) -> None:
        super().__init__(model_dir, torch.float64)
        _widen(self.model, self.model.language_model)

    def scores(self, ids: Sequence[int], items: Sequence[Item]) -> OmniScores:
        with _in_float64():
            return super().scores(ids, items)

    def embed(self, item: Item) -> list[torch.Tensor]:
        with _in_float64():
            return super().embed(item)


@contextmanager
def _in_float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Float64():
            yield
    finally:
        torch.set_default_dtype(before)


def _widen(model: Any, decoder: Any) -> None:
    """Every weight and buffer in float64."""
    # the grouped product of the default has no float64
    decoder.set_experts_implementation("eager")
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data = tensor.data.double()


class Scoring(Protocol):
    """A reference of text: the scores of a sequence of ids."""

    def scores(self, ids: Sequence[int]) -> Scores: ...


def beside_the_truth(
    differences: Sequence[Difference], tolerance: float, exact: Callable[[], Scoring]
) -> list[Difference]:
    """The differences; those beyond `tolerance` from the float32 reference are taken from the exact one instead.

    exact: makes it, and is called only if it is needed.
    """
    if all(difference.worst <= tolerance for difference in differences):
        return list(differences)
    score = exact().scores
    return [one if one.worst <= tolerance else compare(one.mode, one.answer, score) for one in differences]
