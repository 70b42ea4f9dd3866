"""Sets a server's answers beside the reference: answers and scores come in, one `Difference` per answer goes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from sglang_nemotron.parity.client import Answer
from sglang_nemotron.parity.reference import Scores

# where the reference's two best tokens are closer than this, either may win in another order of summation
MIN_MARGIN = 1e-4

Score = Callable[[Sequence[int]], Scores]


@dataclass(frozen=True)
class Difference:
    """One answer against the reference, teacher-forced: the reference reads the tokens that the server chose.

    prompt, output: |delta logprob| per position. disagreements: output positions where the reference, sure of its best
    token (margin above MIN_MARGIN), prefers another one. excluded: output positions where it was not sure.
    """

    mode: str
    answer: Answer
    prompt: tuple[float, ...]
    output: tuple[float, ...]
    disagreements: tuple[int, ...]
    excluded: int

    @property
    def worst(self) -> float:
        return max((*self.prompt, *self.output), default=0.0)

    @property
    def length(self) -> int:
        return len(self.answer.prompt)


@dataclass(frozen=True)
class Verdict:
    """A set of differences as one result: counts, the worst and the mean, and whether it passes."""

    answers: int
    positions: int
    worst: float
    mean: float
    greedy_positions: int
    disagreements: int
    excluded: int

    def passes(self, tolerance: float) -> bool:
        """Logprobs within `tolerance` everywhere, every sure token the same, and fewer than 1 % unsure."""
        sure = self.excluded < 0.01 * self.greedy_positions
        # written so that a NaN fails
        return self.positions > 0 and self.worst <= tolerance and self.disagreements == 0 and sure


def compare(mode: str, answer: Answer, score: Score) -> Difference:
    """The difference of one answer; `score` gives the reference's scores of a sequence."""
    scores = score(answer.prompt + answer.tokens)
    first = len(answer.prompt) - 1
    ours = torch.tensor(answer.output_logprobs, dtype=torch.float64)
    golden = scores.logprobs[first:]
    assert len(ours) == len(golden), (len(ours), len(golden))
    margins, best = scores.margins[first:], scores.best[first:]
    differs = best != torch.tensor(answer.tokens)
    start = first - len(answer.prompt_logprobs)
    prompt = torch.tensor(answer.prompt_logprobs, dtype=torch.float64) - scores.logprobs[start:first]
    sure = margins > MIN_MARGIN
    return Difference(
        mode=mode,
        answer=answer,
        prompt=tuple(prompt.abs().tolist()),
        output=tuple((ours - golden).abs().tolist()),
        disagreements=tuple(torch.nonzero(differs & sure).flatten().tolist()),
        excluded=int((~sure).sum()),
    )


def verdict(differences: Sequence[Difference]) -> Verdict:
    """Everything in one; NaN if any difference is NaN."""
    deltas = torch.tensor([value for d in differences for value in (*d.prompt, *d.output)], dtype=torch.float64)
    return Verdict(
        answers=len(differences),
        positions=len(deltas),
        worst=float(deltas.max()) if len(deltas) else 0.0,
        mean=float(deltas.mean()) if len(deltas) else 0.0,
        greedy_positions=sum(len(d.output) for d in differences),
        disagreements=sum(len(d.disagreements) for d in differences),
        excluded=sum(d.excluded for d in differences),
    )


def noise(differences: Sequence[Difference], golden: Score, rough: Score) -> float:
    """Mean |delta logprob| between two references on the very positions that `differences` compared.

    With `rough` in the server's number format, this is what that format costs by itself.
    """
    total, count = 0.0, 0
    for d in differences:
        ids = d.answer.prompt + d.answer.tokens
        start = len(d.answer.prompt) - 1 - len(d.prompt)
        delta = (rough(ids).logprobs[start:] - golden(ids).logprobs[start:]).abs()
        total += float(delta.sum())
        count += len(delta)
    return total / count if count else 0.0
