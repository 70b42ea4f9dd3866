"""The comparison passes what is equal, and fails what is not: each kind of fault alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sglang_nemotron.parity.client import Answer
from sglang_nemotron.parity.compare import Difference, compare, noise, verdict
from sglang_nemotron.parity.reference import Scores

PROMPT, TOKENS = (5, 6, 7, 8), (1, 2, 3)


def _scores(ids, shift: float = 0.0) -> Scores:
    """Entry i: logprob -(i+1), the right token best by a clear margin."""
    count = len(ids) - 1
    return Scores(
        logprobs=-torch.arange(1.0, count + 1, dtype=torch.float64) + shift,
        best=torch.tensor(ids[1:]),
        margins=torch.ones(count, dtype=torch.float64),
    )


SOUND = Answer(
    prompt=PROMPT, tokens=TOKENS, output_logprobs=(-4.0, -5.0, -6.0), prompt_logprobs=(-1.0, -2.0, -3.0), cached=0
)


def _passes(answer: Answer, score=_scores, tolerance: float = 2e-5, copies: int = 1) -> bool:
    return verdict([compare("test", answer, score)] * copies).passes(tolerance)


def test_equal_passes():
    difference = compare("test", SOUND, _scores)
    assert difference.worst == 0 and len(difference.prompt) == 3 and len(difference.output) == 3
    assert _passes(SOUND)


@pytest.mark.parametrize("field", ["output_logprobs", "prompt_logprobs"])
@pytest.mark.parametrize("position", range(3))
@pytest.mark.parametrize("error", [2.1e-5, -2.1e-5, math.nan, math.inf])
def test_one_wrong_logprob_fails(field: str, position: int, error: float):
    values = list(getattr(SOUND, field))
    values[position] += error
    assert not _passes(replace(SOUND, **{field: tuple(values)}))


def test_the_tolerance_is_inclusive_and_no_wider():
    assert _passes(replace(SOUND, output_logprobs=(-4.0, -5.0, -6.0 + 2**-16)), tolerance=2**-16)
    assert not _passes(replace(SOUND, output_logprobs=(-4.0, -5.0, -6.0 + 2**-15)), tolerance=2**-16)


def test_fewer_prompt_logprobs_are_those_of_its_end():
    assert _passes(replace(SOUND, prompt_logprobs=(-3.0,)))
    assert not _passes(replace(SOUND, prompt_logprobs=(-2.0,)))
    assert _passes(replace(SOUND, prompt_logprobs=()))


def test_another_token_than_a_sure_reference_fails():
    def other(ids):
        scores = _scores(ids)
        scores.best[4] = 99
        return scores

    difference = compare("test", SOUND, other)
    assert difference.disagreements == (1,) and not _passes(SOUND, other)


def test_an_unsure_position_is_excluded_and_counted():
    def unsure(ids):
        scores = _scores(ids)
        scores.best[4], scores.margins[4] = 99, 1e-4
        return scores

    difference = compare("test", SOUND, unsure)
    assert difference.disagreements == () and difference.excluded == 1
    # one of three positions is far more than 1 %
    assert not _passes(SOUND, unsure)
    sound = compare("test", SOUND, _scores)
    assert verdict([difference, *[sound] * 33]).passes(2e-5)
    assert not verdict([difference, *[sound] * 32]).passes(2e-5)


def test_nothing_compared_fails():
    assert not verdict([]).passes(1.0)


@given(st.floats(-1, 1), st.integers(1, 5))
def test_noise_is_the_mean_distance_of_two_references(shift: float, copies: int):
    found: list[Difference] = [compare("test", SOUND, _scores)] * copies
    assert noise(found, _scores, lambda ids: _scores(ids, shift)) == pytest.approx(abs(shift), abs=1e-12)
