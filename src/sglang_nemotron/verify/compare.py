"""Sets a reply beside the one that was computed afresh: two replies and a bound come in, a `Comparison` goes out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sglang_nemotron.verify.bound import Bound, differences
from sglang_nemotron.verify.endpoint import Reply

# modes whose requests should find something in the cache
REUSING = ("warm", "batched", "chunked", "turns")


@dataclass(frozen=True)
class Run:
    """One request of a mode. about: what was sent before it."""

    conversation: str
    mode: str
    about: str
    reply: Reply


@dataclass(frozen=True)
class Comparison:
    """One run against its cold run.

    positions: output positions compared, up to the first other token. logprobs: numbers compared there. worst: largest
    |delta logprob|; bound: what it was held against; excess: the largest delta over its bound, above 1 if it failed.
    tie: the position where another token was taken and the margin was within the bound. other: where it was not.
    """

    run: Run
    positions: int
    logprobs: int
    worst: float
    bound: float
    excess: float
    tie: int | None
    other: int | None

    @property
    def agrees(self) -> bool:
        # written so that a NaN disagrees
        return self.excess <= 1.0 and self.other is None and self.logprobs > 0

    @property
    def hit(self) -> int:
        return self.run.reply.cached or 0


def compare(cold: Reply, run: Run, bound: Bound) -> Comparison:
    """The comparison of one run; both replies answer the same prompt."""
    reply, deltas = run.reply, differences(cold, run.reply)
    found = [
        (delta, bound.at(cold.best[at].get(token, reply.best[at].get(token, 0.0)), cold.prompt_tokens))
        for at, here in enumerate(deltas)
        for token, delta in here.items()
    ]
    # a NaN is the worst of all
    worst, allowed = max(found, key=lambda pair: _excess(*pair), default=(math.nan, math.nan))
    last = len(deltas) - 1
    differs = last >= 0 and cold.tokens[last] != reply.tokens[last]
    sure = differs and min(cold.margin(last), reply.margin(last)) > bound.at(
        cold.best[last][cold.tokens[last]], cold.prompt_tokens
    )
    return Comparison(
        run=run,
        positions=len(deltas),
        logprobs=len(found),
        worst=worst,
        bound=allowed,
        excess=_excess(worst, allowed),
        tie=last if differs and not sure else None,
        other=last if sure else None,
    )


def _excess(delta: float, allowed: float) -> float:
    return math.inf if math.isnan(delta) else delta / allowed


def unproved(comparisons: Sequence[Comparison]) -> list[str]:
    """Conversations of which no request reused anything: for these nothing was shown."""
    names = dict.fromkeys(one.run.conversation for one in comparisons)
    hit = {one.run.conversation for one in comparisons if one.hit > 0}
    return [name for name in names if name not in hit]
