"""The ways a server can meet a prompt: alone, among others, with part of it cached. Prompts in, answers out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sglang_nemotron.parity.client import Answer, Client
from sglang_nemotron.parity.prompts import make_prompt

CONCURRENT = 10
# appended to a cached prompt, so that something is left to compute
_TAIL = 7

# answers to one prompt, by mode
ANSWERS = {"alone": 1, "concurrent": 1, "radix": 4}

# called after each answer, for progress
Tick = Callable[[], None]


def alone(client: Client, prompts: Sequence[Sequence[int]], tick: Tick) -> list[Answer]:
    """One after the other, from an empty cache, with logprobs of the whole prompt."""
    client.flush()
    return [_ticked(client.ask(prompt), tick) for prompt in prompts]


def concurrent(client: Client, prompts: Sequence[Sequence[int]], tick: Tick) -> list[Answer]:
    """CONCURRENT at a time, short and long ones mixed, with logprobs of the whole prompt."""
    client.flush()
    # every CONCURRENT-th of the ascending lengths together: each group spans them all
    answers: list[Answer | None] = [None] * len(prompts)
    num_groups = -(-len(prompts) // CONCURRENT)
    for group in range(num_groups):
        members = range(group, len(prompts), num_groups)
        for index, answer in zip(members, client.ask_together([prompts[i] for i in members]), strict=True):
            answers[index] = _ticked(answer, tick)
    return [answer for answer in answers if answer is not None]


def radix(client: Client, prompts: Sequence[Sequence[int]], vocab_size: int, tick: Tick) -> list[Answer]:
    """Prefix-cache hits of every length: each prompt again, with a tail, with its answer and a tail, and half.

    A hit's own positions cannot have logprobs; the tail's do.
    """
    client.flush()
    answers = []
    for prompt in prompts:
        tail = make_prompt(_TAIL, vocab_size, seed=len(prompt))
        # leaves the prompt's state in the cache; the mode `alone` compares such an answer
        first = client.ask(prompt, None)
        whole = [*prompt, *first.tokens]
        for query in (list(prompt), [*prompt, *tail], [*whole, *tail], whole[: len(whole) // 2] + tail):
            start = min(len(prompt), len(query) - 1)
            answers.append(_ticked(client.ask(query, start), tick))
    return answers


def _ticked(answer: Answer, tick: Tick) -> Answer:
    tick()
    return answer
