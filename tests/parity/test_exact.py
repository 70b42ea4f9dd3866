"""The exact reference rounds nothing to float32, and is asked only about what is far from the one that does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_nemotron.parity.client import Answer
from sglang_nemotron.parity.compare import compare
from sglang_nemotron.parity.exact import ExactReference, beside_the_truth
from sglang_nemotron.parity.reference import Reference, Scores

IDS = torch.randint(0, 1256, (80,), generator=torch.Generator().manual_seed(0)).tolist()
TRUTH = (-4.0, -5.0, -6.0)


def _prefix_error(reference: Reference) -> float:
    """By how much logprobs of a prompt change with what follows it: not at all, but for rounding."""
    long, short = (reference.scores(IDS[:length]).logprobs for length in (80, 50))
    return float((long[: len(short)] - short).abs().max())


def test_it_computes_in_float64(folder: Path, reference: Reference) -> None:
    exact = ExactReference(folder)
    assert _prefix_error(exact) < 1e-12 < 1e-9 < _prefix_error(reference)
    assert torch.get_default_dtype() == torch.float32
    scores, plain = exact.scores(IDS), reference.scores(IDS)
    assert torch.equal(scores.best, plain.best)
    assert 0.0 < float((scores.logprobs - plain.logprobs).abs().max()) < 2e-5


def _score(shift: float) -> Callable[[Any], Scores]:
    def score(ids: Any) -> Scores:
        count = len(ids) - 1
        return Scores(
            logprobs=-torch.arange(1.0, count + 1, dtype=torch.float64) + shift,
            best=torch.tensor(ids[1:]),
            margins=torch.ones(count, dtype=torch.float64),
        )

    return score


ANSWER = Answer(
    prompt=(5, 6, 7, 8), tokens=(1, 2, 3), output_logprobs=TRUTH, prompt_logprobs=(-1.0, -2.0, -3.0), cached=0
)


def test_what_the_rounded_reference_misses_is_no_fault_of_the_server() -> None:
    rounded = compare("m", ANSWER, _score(3e-5))
    assert rounded.worst == pytest.approx(3e-5)
    (found,) = beside_the_truth([rounded], 2e-5, lambda: SimpleNamespace(scores=_score(0.0)))
    assert found.worst == 0.0 and found.answer is ANSWER


def test_a_fault_of_the_server_stays_one() -> None:
    wrong = replace(ANSWER, output_logprobs=(-4.0, -5.00004, -6.0))
    (found,) = beside_the_truth([compare("m", wrong, _score(0.0))], 2e-5, lambda: SimpleNamespace(scores=_score(0.0)))
    assert found.worst == pytest.approx(4e-5)


def test_nothing_is_loaded_where_all_is_near() -> None:
    near = [compare("m", ANSWER, _score(1e-5))] * 2
    assert beside_the_truth(near, 2e-5, lambda: pytest.fail("loaded")) == near
