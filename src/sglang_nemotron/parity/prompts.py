"""Which prompts a comparison sends: a model's sizes and a server's settings come in, token ids go out, always the same.

Lengths stand at, before and after every boundary at which an engine changes what it does.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

MAX_LENGTH = 600
# ids below this are the family's special tokens
_FIRST_ORDINARY = 1000


@dataclass(frozen=True)
class Boundaries:
    """Lengths in tokens at which something changes: the convolution's taps, and what work is cut into."""

    conv_width: int
    ssm_chunk: int
    prefill_chunk: int
    page: int

    def all(self) -> list[int]:
        return [self.conv_width, self.ssm_chunk, self.prefill_chunk, self.page]


def lengths(boundaries: Boundaries, *, full: bool, max_length: int = MAX_LENGTH) -> list[int]:
    """Prompt lengths from 1 to `max_length`, ascending.

    Quick: just before, at and after the first multiple of each boundary. Full: the second, third and last multiple too,
    every length up to twice the convolution's width, and some lengths that no boundary explains.
    """
    chosen = {1, 2, max_length // 2, max_length}
    chosen.update(range(1, 2 * boundaries.conv_width + 1 if full else boundaries.conv_width + 2))
    for size in boundaries.all():
        multiples = {1, 2, 3, max_length // size} if full else {1}
        for multiple in multiples:
            chosen.update(range(multiple * size - 1, multiple * size + 2))
    if full:
        chosen.update((max_length // 2 - 1, max_length // 3, max_length - 1, 41, 97, 211))
    return sorted(length for length in chosen if 1 <= length <= max_length)


def make_prompt(length: int, vocab_size: int, *, seed: int) -> list[int]:
    """`length` ordinary token ids, the same for the same arguments."""
    low = _FIRST_ORDINARY if vocab_size > _FIRST_ORDINARY + 16 else 0
    draw = random.Random(f"{seed} {length}")
    return [draw.randrange(low, vocab_size) for _ in range(length)]


def make_prompts(of_lengths: Iterable[int], vocab_size: int, *, seed: int) -> list[list[int]]:
    """One prompt per length, equal lengths included; no two share a beginning, except by chance."""
    seen: dict[int, int] = {}
    prompts = []
    for length in of_lengths:
        repeat = seen[length] = seen.get(length, -1) + 1
        prompts.append(make_prompt(length, vocab_size, seed=seed + 1000 * repeat))
    return prompts
