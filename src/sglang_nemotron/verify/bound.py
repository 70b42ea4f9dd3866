"""How far a server may differ from itself: its own noise and the rounding of its dtype come in, a bound comes out.

Nothing here is tuned to a model. Two right runs of a prompt differ, because a batch's company changes the order of
sums: that is measured on prompts computed afresh. What a run may differ by is FACTOR times the most that was seen, or
what rounding alone costs, whichever is more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from sglang_nemotron.verify.endpoint import Reply, Token

# the most of a few hundred differences says little about the most of thousands
FACTOR = 4.0
# half the distance from 1 to the next number
UNITS = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
# of the family's published vocabulary
_LOG_VOCABULARY = math.log(131_072)
# with a wider bound a probability might grow tenfold unseen: little would be shown
WIDEST = math.log(10.0)


@dataclass(frozen=True)
class Bound:
    """noise: the largest |delta logprob| between runs that must agree. samples: how many of those were seen."""

    noise: float
    samples: int
    dtype: str

    def at(self, logprob: float, prompt_tokens: int) -> float:
        """What the logprob of a position may differ by, after a prompt of so many tokens."""
        return max(FACTOR * self.noise, self.floor(logprob, prompt_tokens))

    def floor(self, logprob: float, prompt_tokens: int) -> float:
        """What rounding costs by itself.

        Both runs round a logit to the served dtype, and add up in float32 as many terms as the prompt has tokens, whose
        errors grow with the root of their number. Both are relative to the logit, which no API tells: around a mean of
        zero it is the logprob and the logarithm of the vocabulary.
        """
        relative = UNITS[self.dtype] + math.sqrt(prompt_tokens) * UNITS["float32"]
        return 2 * (abs(logprob) + _LOG_VOCABULARY) * relative

    @property
    def too_wide(self) -> bool:
        # written so that a NaN is too wide
        return not FACTOR * self.noise <= WIDEST


def measure(pairs: Iterable[tuple[Reply, Reply]], dtype: str) -> Bound:
    """The bound of a server from pairs of replies to one prompt, each computed afresh, in other company."""
    seen = [delta for one, other in pairs for deltas in differences(one, other) for delta in deltas.values()]
    return Bound(max(seen, default=math.nan, key=_nan_last), len(seen), dtype)


def differences(one: Reply, other: Reply) -> list[dict[Token, float]]:
    """|delta logprob| by token, position by position as long as all tokens before were the same.

    A token that only one of the two names among its likeliest is at most as likely as the last of the other's: by that
    much it differs at least. What both think less likely than any of the vocabulary by chance is left out: its logprob
    moves most and matters least.
    """
    found: list[dict[Token, float]] = []
    for position, (ours, theirs) in enumerate(zip(one.best, other.best, strict=False)):
        here = {token: abs(ours[token] - theirs[token]) for token in ours.keys() & theirs.keys()}
        for named, lowest in ((ours, min(theirs.values())), (theirs, min(ours.values()))):
            here |= {token: max(0.0, named[token] - lowest) for token in named if token not in here}
        by_chance = -_LOG_VOCABULARY
        found.append(
            {
                token: delta
                for token, delta in here.items()
                # written so that a NaN stays
                if not max(ours.get(token, by_chance), theirs.get(token, by_chance)) < by_chance
            }
        )
        if one.tokens[position] != other.tokens[position]:
            break
    return found


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value
