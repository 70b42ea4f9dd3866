"""The thinking budget as an automaton: where it closes the block, what it leaves alone, and that it can be rewound."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_nemotron.reply.budget import (
    DEFAULT_GRACE,
    MAX_BUDGET,
    Budget,
    BudgetAutomaton,
    Vocabulary,
    read_budget,
)
from sglang_nemotron.reply.reasoning import ReasoningStage

# a made-up vocabulary with the published ids of the tags, and tokens that end lines in several ways
TEXTS = {
    12: "<think>",
    13: "</think>",
    14: "<tool_call>",
    15: "</tool_call>",
    1010: "\n",
    20: " word",
    21: ".\n",
    22: "\n\n",
    23: "<function",
    24: "=now",
    25: ">",
    26: "</th",
    27: "ink>",
    28: "Answer",
    29: "�",
}
IDS = {text: token for token, text in TEXTS.items()}
NEWLINE, CLOSE = IDS["\n"], IDS["</think>"]
VOCABULARY = Vocabulary(TEXTS.__getitem__, (NEWLINE,), (CLOSE,))
CALL = [IDS[text] for text in ("<tool_call>", "\n", "<function", "=now", ">", "\n")]


def automaton(tokens: int, grace: int = 3, **options) -> BudgetAutomaton:
    return BudgetAutomaton(Budget(tokens, grace), VOCABULARY, tool_names=("now",), **options)


def run(machine: BudgetAutomaton, model: Sequence[int] | Callable[[], int], steps: int = 40) -> list[int]:
    """Tokens of a reply in which the model gets its way wherever nothing is forced."""
    out, wanted = [], iter(model) if not callable(model) else None
    for _ in range(steps):
        forced = machine.forced()
        token = forced if forced is not None else next(wanted, None) if wanted is not None else model()
        if token is None:
            break
        machine.accept(token)
        out.append(token)
    return out


def text(tokens: Sequence[int]) -> str:
    return "".join(TEXTS[token] for token in tokens)


WORD, STOP, ANSWER = IDS[" word"], IDS[".\n"], IDS["Answer"]


def test_zero_closes_before_the_first_token() -> None:
    machine = automaton(0)
    assert run(machine, [ANSWER, ANSWER]) == [CLOSE, ANSWER, ANSWER]
    assert machine.thinking_tokens == 0 and not machine.thinking


def test_zero_closes_at_once_in_the_middle_of_a_line() -> None:
    assert run(automaton(0, 9, line_start=False), [ANSWER]) == [NEWLINE, CLOSE, ANSWER]


def test_it_closes_at_the_first_line_end_behind_the_budget() -> None:
    machine = automaton(3, grace=5)
    assert text(run(machine, [WORD, STOP, WORD, WORD, STOP, ANSWER])) == " word.\n word word.\n</think>Answer"
    assert machine.thinking_tokens == 5


def test_it_closes_when_the_budget_itself_ends_a_line() -> None:
    assert run(automaton(2), [WORD, STOP, ANSWER]) == [WORD, STOP, CLOSE, ANSWER]
    assert run(automaton(1), [IDS["\n\n"], ANSWER]) == [IDS["\n\n"], CLOSE, ANSWER]


def test_without_a_line_end_it_closes_at_the_end_of_the_grace() -> None:
    machine = automaton(2, grace=3)
    assert run(machine, [WORD] * 9, steps=9) == [WORD] * 5 + [NEWLINE, CLOSE, WORD, WORD]
    assert machine.thinking_tokens == 5
    assert run(automaton(2, grace=0), [WORD] * 4) == [WORD, WORD, NEWLINE, CLOSE, WORD, WORD]


def test_a_model_that_closes_is_left_alone() -> None:
    reply = [WORD, NEWLINE, CLOSE, NEWLINE] + [ANSWER] * 20 + [NEWLINE] * 3
    machine = automaton(5)
    assert run(machine, reply) == reply
    assert machine.thinking_tokens == 2 and not machine.thinking


def test_a_close_in_two_tokens_is_a_close() -> None:
    reply = [WORD, IDS["</th"], IDS["ink>"]] + [ANSWER] * 20
    assert run(automaton(3), reply) == reply


def test_a_call_in_thinking_ends_it() -> None:
    reply = [WORD, NEWLINE, *CALL, *[WORD, STOP] * 9, IDS["</tool_call>"]]
    machine = automaton(7, grace=2)
    assert run(machine, reply) == reply
    assert not machine.thinking


def test_the_newline_inside_a_call_header_is_no_line_end() -> None:
    reply = [WORD, NEWLINE, *CALL]
    assert run(automaton(3, grace=9), reply) == reply
    # the tag in the middle of a line begins nothing, so the newline behind it is a line end
    assert run(automaton(2, grace=9), [WORD, IDS["<tool_call>"], NEWLINE]) == [WORD, IDS["<tool_call>"], NEWLINE, CLOSE]


def test_the_grace_ends_inside_a_header_too() -> None:
    tokens = run(automaton(3, grace=1), [WORD, NEWLINE, *CALL])
    assert text(tokens[:6]) == " word\n<tool_call>\n\n</think>"


def test_a_token_that_was_not_forced_counts_and_forcing_goes_on() -> None:
    machine = automaton(1, grace=1)
    for token in (WORD, WORD):
        machine.accept(token)
    assert machine.forced() == NEWLINE
    machine.accept(NEWLINE)
    assert machine.forced() == CLOSE
    machine.accept(WORD)
    assert machine.forced() == NEWLINE and machine.thinking_tokens == 3
    assert run(machine, [ANSWER], steps=3) == [NEWLINE, CLOSE, ANSWER]


def test_a_close_of_several_tokens_is_forced_in_order() -> None:
    words = Vocabulary(TEXTS.__getitem__, (NEWLINE,), (IDS["</th"], IDS["ink>"]))
    machine = BudgetAutomaton(Budget(1, 0), words)
    assert run(machine, [WORD] * 3) == [WORD, NEWLINE, IDS["</th"], IDS["ink>"], WORD, WORD]


def test_a_vocabulary_without_think_tags_is_refused() -> None:
    with pytest.raises(ValueError, match="' word'.*'</think>'"):
        Vocabulary(TEXTS.__getitem__, (NEWLINE,), (WORD,))
    with pytest.raises(ValueError, match="think tags"):
        Vocabulary(TEXTS.__getitem__, (), (CLOSE,))


@settings(max_examples=1500, derandomize=True, database=None, deadline=None)
@given(st.integers(0, 12), st.integers(0, 5), st.booleans(), st.integers(0, 2**32 - 1))
def test_a_block_never_holds_more_than_budget_and_grace(tokens: int, grace: int, line_start: bool, seed: int) -> None:
    pick = random.Random(seed)
    machine = automaton(tokens, grace, line_start=line_start)
    out = run(machine, lambda: pick.choice(list(TEXTS)), steps=60)
    stage = ReasoningStage(("now",), thinking=True, line_start=line_start)
    inside = 0
    for token in out:
        stage.feed(TEXTS[token])
        inside += stage.thinking
    assert not stage.thinking and not machine.thinking
    # a forced newline is inside the block too
    assert machine.thinking_tokens <= tokens + grace and inside <= tokens + grace + 1
    if tokens == 0:
        assert machine.thinking_tokens == 0


@settings(max_examples=1500, derandomize=True, database=None, deadline=None)
@given(st.integers(0, 8), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_taking_tokens_back_is_as_if_they_had_not_come(tokens: int, grace: int, seed: int) -> None:
    pick = random.Random(seed)
    machine, kept = automaton(tokens, grace), []
    for _ in range(40):
        if kept and pick.random() < 0.3:
            count = pick.randint(0, min(len(kept), 6))
            machine.rollback(count)
            kept = kept[: len(kept) - count]
        else:
            forced = machine.forced()
            token = forced if forced is not None and pick.random() < 0.9 else pick.choice(list(TEXTS))
            machine.accept(token)
            kept.append(token)
        fresh = automaton(tokens, grace)
        for token in kept:
            fresh.accept(token)
        assert (machine.forced(), machine.thinking, machine.thinking_tokens) == (
            fresh.forced(),
            fresh.thinking,
            fresh.thinking_tokens,
        )


def test_more_cannot_be_taken_back_than_came() -> None:
    machine = automaton(3)
    machine.accept(WORD)
    with pytest.raises(AssertionError):
        machine.rollback(2)


def test_a_planted_fault_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """An automaton that takes any newline for a line end breaks calls, and the test above for that sees it."""
    monkeypatch.setattr(ReasoningStage, "at_line_end", property(lambda stage: stage._buffer.endswith("\n")))
    with pytest.raises(AssertionError):
        test_the_newline_inside_a_call_header_is_no_line_end()


@pytest.mark.parametrize(
    ("params", "budget"),
    [
        ({}, None),
        ({"thinking_budget": None}, None),
        ({"other": 1}, None),
        ({"thinking_budget": 0}, Budget(0, DEFAULT_GRACE)),
        ({"max_thinking_tokens": 7}, Budget(7, DEFAULT_GRACE)),
        ({"thinking_token_budget": 7, "thinking_budget_grace_period": 30}, Budget(7, 30)),
        ({"thinking_budget": 7, "thinking_token_budget": 7}, Budget(7, DEFAULT_GRACE)),
        ({"thinking_budget": MAX_BUDGET}, Budget(MAX_BUDGET, DEFAULT_GRACE)),
    ],
)
def test_budgets_of_requests(params: dict, budget: Budget | None) -> None:
    assert read_budget(params) == budget


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"thinking_budget": -1}, ["thinking_budget", "-1", f"0 to {MAX_BUDGET}"]),
        ({"max_thinking_tokens": MAX_BUDGET + 1}, ["max_thinking_tokens", str(MAX_BUDGET + 1)]),
        ({"thinking_token_budget": "many"}, ["thinking_token_budget", "'many'"]),
        ({"thinking_budget": 1.5}, ["1.5"]),
        ({"thinking_budget": True}, ["True"]),
        ({"thinking_budget": 5, "thinking_budget_grace_period": -2}, ["thinking_budget_grace_period", "-2"]),
        ({"thinking_budget": 5, "max_thinking_tokens": 6}, ["thinking_budget=5", "max_thinking_tokens=6"]),
        ({"thinking_budget_grace_period": 5}, ["thinking_budget_grace_period", "without a budget"]),
    ],
)
def test_bad_budgets_are_refused_by_name(params: dict, named: list[str]) -> None:
    with pytest.raises(ValueError) as refusal:
        read_budget(params)
    for word in named:
        assert word in str(refusal.value)
