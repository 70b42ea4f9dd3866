"""Sets a server's answers beside the reference: answers and scores come in, one `Difference` per answer goes out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
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
    about: str = ""
    problem: str = ""
    turned: tuple[str, ...] = ()

    @property
    def worst(self) -> float:
        # a NaN is worse than any number, wherever it stands
        return max((*self.prompt, *self.output), default=0.0, key=lambda delta: (math.isnan(delta), delta))

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
    problems: int = 0

    def passes(self, tolerance: float) -> bool:
        """Logprobs within `tolerance` everywhere, every sure token the same, and fewer than 1 % unsure."""
        sure = self.excluded < 0.01 * self.greedy_positions
        # written so that a NaN fails
        near = self.positions > 0 and self.worst <= tolerance
        return near and self.disagreements == 0 and self.problems == 0 and sure


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
        problems=sum(bool(d.problem) for d in differences),
    )


def noise(differences: Sequence[Difference], golden: Score, rough: Score) -> float:
    """Mean |delta logprob| between two references on the very positions that `differences` compared.

    With `rough` in the server's number format, this is what that format costs by itself.
    """
    texts = [d.answer.prompt + d.answer.tokens for d in differences]
    return mean_distance(differences, [golden(ids) for ids in texts], [rough(ids) for ids in texts])


def mean_distance(differences: Sequence[Difference], golden: Iterable[Scores], rough: Iterable[Scores]) -> float:
    """Mean |delta logprob| between two references' scores of each difference's sequence, where that was compared."""
    total, count = 0.0, 0
    for d, ours, theirs in zip(differences, golden, rough, strict=True):
        compared = len(d.prompt) + len(d.output)
        # what was compared stands at a sequence's end
        delta = (theirs.logprobs - ours.logprobs).abs()[len(ours.logprobs) - compared :]
        total += float(delta.sum())
        count += compared
    return total / count if count else 0.0
