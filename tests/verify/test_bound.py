"""What a server may differ from itself by: found from its own noise and from rounding, and never from a fault."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from sglang_nemotron.verify.bound import FACTOR, UNITS, Bound, differences, measure
from sglang_nemotron.verify.compare import Run, compare, unproved
from sglang_nemotron.verify.endpoint import Reply, Token

QUIET = Bound(0.0, 10, "float32")


def reply(*positions: Mapping[Token, float], cached: int | None = 0, prompt_tokens: int = 100) -> Reply:
    """One whose likeliest tokens were chosen."""
    return Reply(tuple(max(best, key=lambda t: best[t]) for best in positions), positions, prompt_tokens, cached)


def run(said: Reply, name: str = "short") -> Run:
    return Run(name, "warm", "itself, once", said)


COLD = reply({"a": -0.5, "b": -1.5}, {"c": -0.1, "d": -3.0})


def test_noise_is_the_largest_difference():
    loud = reply({"a": -0.52, "b": -1.5}, {"c": -0.1, "d": -3.0})
    bound = measure([(COLD, COLD), (COLD, loud)], "float32")
    assert bound.noise == pytest.approx(0.02) and bound.samples == 8
    assert bound.at(-0.5, 100) == pytest.approx(FACTOR * 0.02)
    assert not bound.too_wide and Bound(1.0, 1, "float32").too_wide


def test_nothing_measured_allows_nothing():
    assert measure([], "float32").too_wide
    assert measure([(COLD, reply({"a": math.nan, "b": -1.5}))], "float32").too_wide


@pytest.mark.parametrize("dtype", UNITS)
def test_without_noise_rounding_is_left(dtype: str):
    """A step of the dtype at the size of a logit lies within it; a hundredth of a nat does not, in float32."""
    bound = Bound(0.0, 10, dtype)
    step = 2 * UNITS[dtype] * 8
    assert bound.at(-1.0, 8192) > step
    assert bound.at(-1.0, 8192) < {"float32": 2e-4, "bfloat16": 0.2, "float16": 0.02}[dtype]
    assert bound.at(-1.0, 64) < bound.at(-1.0, 8192) < bound.at(-9.0, 8192)


def test_positions_end_with_the_first_other_token():
    other = reply({"a": -1.5, "b": -0.5}, {"c": -0.1, "d": -3.0})
    assert differences(COLD, other) == [{"a": 1.0, "b": 1.0}]


def test_a_token_that_one_names_alone_is_below_the_others_last():
    found = differences(COLD, reply({"a": -0.5, "x": -2.5}, {"c": -0.1, "d": -3.0}))
    assert found[0] == {"a": 0.0, "b": 1.0, "x": 0.0}


def test_what_is_less_likely_than_chance_is_left_out():
    one, other = reply({"a": -0.1, "b": -20.0, "c": -11.0}), reply({"a": -0.1, "b": -25.0, "c": -13.0})
    assert differences(one, other) == [{"a": 0.0, "c": 2.0}]


@pytest.mark.parametrize("moved", [1e-4, -1e-4, math.nan, math.inf])
def test_a_logprob_beyond_the_bound_disagrees(moved: float):
    found = compare(COLD, run(reply({"a": -0.5, "b": -1.5}, {"c": -0.1 + moved, "d": -3.0})), QUIET)
    assert not found.agrees and found.excess > 1 and found.other is None
    assert compare(COLD, run(COLD), QUIET).agrees


def test_other_tokens_count_where_the_server_was_sure():
    wide = Bound(0.1, 10, "float32")
    near = reply({"a": -0.5, "b": -0.6}, {"c": -0.1, "d": -3.0})
    swapped = reply({"a": -0.6, "b": -0.5}, {"e": -0.1, "f": -3.0})
    tie = compare(near, run(swapped), wide)
    assert tie.agrees and tie.tie == 0 and tie.other is None and tie.positions == 1
    sure = compare(COLD, run(reply({"a": -1.5, "b": -0.5}, {"c": -0.1, "d": -3.0})), wide)
    assert not sure.agrees and sure.other == 0 and sure.tie is None


def test_an_empty_reply_agrees_with_nothing():
    assert not compare(COLD, run(reply()), QUIET).agrees


def test_what_reused_nothing_is_named():
    found = [
        compare(COLD, run(reply(*COLD.best, cached=cached), name), QUIET)
        for name, cached in (("hit", 0), ("hit", 64), ("missed", 0), ("untold", None))
    ]
    assert unproved(found) == ["missed", "untold"]
