"""Prompt lengths stand around every boundary; prompts are the same on every run and unlike each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sglang_nemotron.parity.prompts import Boundaries, lengths, make_prompt, make_prompts

SIZES = st.integers(1, 4096)


@given(SIZES, SIZES, SIZES, SIZES, st.booleans(), st.integers(1, 700))
def test_lengths_cover_every_boundary(conv: int, ssm: int, chunk: int, page: int, full: bool, longest: int):
    boundaries = Boundaries(conv_width=conv % 8 + 1, ssm_chunk=ssm, prefill_chunk=chunk, page=page)
    found = lengths(boundaries, full=full, max_length=longest)
    assert found == sorted(set(found)) and found[0] == 1 and found[-1] == longest
    for size in boundaries.all():
        for length in (size - 1, size, size + 1):
            assert length in found or not 1 <= length <= longest
        if full:
            assert 3 * size in found or 3 * size > longest


def test_full_is_more():
    boundaries = Boundaries(conv_width=4, ssm_chunk=16, prefill_chunk=64, page=1)
    assert set(lengths(boundaries, full=False)) < set(lengths(boundaries, full=True))


def test_prompts_are_reproducible_and_ordinary():
    first = make_prompts((1, 5, 600), 2048, seed=0)
    assert first == make_prompts((1, 5, 600), 2048, seed=0)
    assert first != make_prompts((1, 5, 600), 2048, seed=1)
    assert [len(prompt) for prompt in first] == [1, 5, 600]
    assert all(1000 <= token < 2048 for prompt in first for token in prompt)
    twice = make_prompts((5, 5, 5), 2048, seed=0)
    assert len({tuple(prompt) for prompt in twice}) == 3 and twice[0] == first[1]
    assert make_prompt(50, 2048, seed=0)[:10] != make_prompt(51, 2048, seed=0)[:10]


def test_a_vocabulary_without_ordinary_tokens_still_works():
    assert set(make_prompt(100, 16, seed=0)) <= set(range(16))
