"""An answer from under load and that of the same request alone come in; how they differ goes out.

Float32 sums in another order, so logprobs may differ by a tolerance, and two tokens closer than a tie may change
places: what follows such a place is another text, and is not compared. Such answers are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from support.omni_requests import Said


@dataclass(frozen=True)
class Verdict:
    """problem: None if the answer is right. apart: the largest |delta logprob| of tokens that were compared."""

    problem: str | None = None
    tied: bool = False
    apart: float = 0.0


def compare(said: Sequence[Said], alone: Sequence[Said], tolerance: float) -> Verdict:
    """Every choice against the first one of the request alone, as greedy choices are all the same."""
    if not alone or len(said) != len(alone):
        return Verdict(f"{len(said)} choices, alone {len(alone)}")
    verdicts = [_one(choice, alone[0], tolerance) for choice in (*said, *alone[1:])]
    wrong = next((verdict.problem for verdict in verdicts if verdict.problem is not None), None)
    return Verdict(wrong, any(verdict.tied for verdict in verdicts), max(verdict.apart for verdict in verdicts))


def _one(said: Said, alone: Said, tolerance: float) -> Verdict:
    shortest = min(len(said.tokens), len(alone.tokens))
    same = next((at for at in range(shortest) if said.tokens[at] != alone.tokens[at]), shortest)
    deltas = [abs(a - b) for a, b in zip(said.logprobs[:same], alone.logprobs[:same], strict=True)]
    apart = max(deltas, default=0.0)
    # a NaN fails
    if not all(delta <= tolerance for delta in deltas):
        at = next(at for at, delta in enumerate(deltas) if not delta <= tolerance)
        return Verdict(f"the logprob of token {at + 1} of {len(alone.tokens)} differs by {deltas[at]:.1e}", apart=apart)
    if same < shortest:
        if alone.leads[same] <= 2 * tolerance:
            return Verdict(tied=True, apart=apart)
        said_token, alone_token = said.tokens[same], alone.tokens[same]
        return Verdict(f"token {same + 1} is {said_token!r}, alone {alone_token!r}", apart=apart)
    if len(said.tokens) != len(alone.tokens):
        return Verdict(f"{len(said.tokens)} tokens, alone {len(alone.tokens)}", apart=apart)
    if said.text != alone.text:
        return Verdict(f"the text is {said.text!r}, alone {alone.text!r}", apart=apart)
    return Verdict(apart=apart)
