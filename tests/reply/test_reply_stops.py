"""Stop strings: found wherever the reply is cut, in the answer alone, at the place where they begin."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_nemotron.reply.reasoning import ReasoningStage
from sglang_nemotron.reply.stops import StopMatch, StopWatch, check_stops

STOPS = ("END", "ND!", "</x")
TEXTS = st.text("END!</x \n", max_size=40)
THOUGHTS = st.text("END!<x \n", max_size=20)


def watched(pieces: list[str], stops: tuple[str, ...] = STOPS, stage: ReasoningStage | None = None) -> StopMatch | None:
    watch = StopWatch(stops, stage)
    return next((found for piece in pieces if (found := watch.feed(piece)) is not None), None)


def first(text: str, stops: tuple[str, ...] = STOPS) -> StopMatch | None:
    """By looking at every beginning of the text, shortest first."""
    for size in range(len(text) + 1):
        ends = [stop for stop in stops if text[:size].endswith(stop)]
        if ends:
            stop = max(ends, key=len)
            return StopMatch(stop, size - len(stop))
    return None


def cut(text: str, sizes: list[int]) -> list[str]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    return [*pieces, text[at:]]


@settings(max_examples=400, derandomize=True, database=None, deadline=None)
@given(TEXTS)
def test_the_first_to_be_complete_wins_token_by_token(text: str) -> None:
    assert watched(list(text)) == first(text)


@settings(max_examples=400, derandomize=True, database=None, deadline=None)
@given(TEXTS, st.lists(st.integers(0, 6), max_size=12))
def test_a_match_lies_across_any_pieces(text: str, sizes: list[int]) -> None:
    found = watched(cut(text, sizes))
    wanted = first(text)
    # a piece that holds two is looked at whole: the one that ends first
    assert found == wanted


@settings(max_examples=400, derandomize=True, database=None, deadline=None)
@given(THOUGHTS, TEXTS, st.lists(st.integers(1, 6), max_size=12))
def test_thoughts_do_not_stop(thoughts: str, answer: str, sizes: list[int]) -> None:
    text = f"{thoughts}\n</think>\n{answer}"
    begins = len(text) - len(answer)
    found, wanted = watched(cut(text, sizes), stage=ReasoningStage()), first(answer)
    assert found == (wanted and StopMatch(wanted.stop, begins + wanted.at))
    if found is not None:
        assert text[found.at :].startswith(found.stop)


def test_a_call_that_ends_the_thoughts_counts() -> None:
    text = "I look.\n<tool_call>\n<function=f>\n<parameter=p>\n/x/ and END"
    found = watched(list(text), stage=ReasoningStage(["f"]))
    assert found == StopMatch("END", text.index("END"))


@pytest.mark.parametrize(("text", "held"), [("a", False), ("aE", True), ("aEN", True), ("E ", False), ("", False)])
def test_the_beginning_of_a_stop_is_held(text: str, held: bool) -> None:
    watch = StopWatch(STOPS)
    watch.feed(text)
    assert watch.holding == held


def test_nothing_is_held_in_thoughts() -> None:
    watch = StopWatch(STOPS, ReasoningStage())
    watch.feed("EN")
    assert not watch.holding


def test_one_character_is_enough() -> None:
    assert watched(["ab", "c;d"], (";",)) == StopMatch(";", 3)


@pytest.mark.parametrize("stops", [[""], ["a", ""]])
def test_an_empty_stop_string_is_refused(stops: list[str]) -> None:
    with pytest.raises(ValueError, match=f"stop string {len(stops)} of {len(stops)} is empty"):
        check_stops(stops)
