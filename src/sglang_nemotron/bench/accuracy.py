"""Questions, replies and scores come in; how right a server was goes out, as numbers, rows and plain JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sglang_nemotron.bench.questions import Item, Set
from sglang_nemotron.bench.scoring import Reply, Score

FORMAT = "sglang-nemotron bench accuracy 1"


@dataclass(frozen=True)
class Told:
    """One question, what was replied, and its score."""

    item: Item
    reply: Reply
    score: Score


@dataclass(frozen=True)
class Result:
    """What came of a set.

    told: of what was asked before it ended, in the set's order. duration_s: of all of it. interrupted: whether
    questions are missing.
    """

    asked: Set
    told: tuple[Told, ...]
    duration_s: float
    interrupted: bool = False

    @property
    def accuracy(self) -> float:
        """Share of right answers; of transcripts one minus the word error rate, all words together. Failed requests and
        replies without an answer count as wrong.
        """
        return _share(self.told, self.asked.rule)

    @property
    def error(self) -> float | None:
        """Standard error of the accuracy, sqrt(p (1 - p) / n): what other questions of the kind would change. None for
        transcripts, whose words are not independent.
        """
        if self.asked.rule == "transcript" or not self.told:
            return None
        return math.sqrt(self.accuracy * (1 - self.accuracy) / len(self.told))

    @property
    def failed(self) -> list[Told]:
        """Without a reply."""
        return [one for one in self.told if one.reply.error is not None]

    @property
    def invalid(self) -> list[Told]:
        """With a reply that holds no answer: none of the form, or thoughts that never ended."""
        return [one for one in self.told if one.reply.error is None and one.score.found is None]

    @property
    def unseen(self) -> float | None:
        """Accuracy without the questions that stand with their answers in the prompts; None if there are none."""
        rest = [one for one in self.told if not one.item.shown]
        return _share(rest, self.asked.rule) if 0 < len(rest) < len(self.told) else None

    @property
    def by_group(self) -> dict[str, tuple[int, float]]:
        """group -> (questions, accuracy); empty for a set without groups."""
        groups: dict[str, list[Told]] = {}
        for one in self.told:
            if one.item.group:
                groups.setdefault(one.item.group, []).append(one)
        return {name: (len(told), _share(told, self.asked.rule)) for name, told in groups.items()}


def _share(told: Sequence[Told], rule: str) -> float:
    if rule == "transcript":
        words = sum(one.score.words for one in told)
        return 1 - sum(one.score.errors for one in told) / words if words else 0.0
    return sum(one.score.right for one in told) / len(told) if told else 0.0


def lines(result: Result) -> list[str]:
    """What the scripts of SGLang print, and what they do not say."""
    count = len(result.told)
    said = [f"subject: {name}, #q:{many}, acc: {share:.3f}" for name, (many, share) in result.by_group.items()]
    spread = "" if result.error is None else f" (standard error {result.error:.3f}, {count} questions)"
    if result.asked.rule == "transcript":
        words = sum(one.score.words for one in result.told)
        spread = f" (word error rate {1 - result.accuracy:.3f}, {words} words of {count} recordings)"
    said.append(f"Accuracy: {result.accuracy:.3f}{spread}")
    if result.unseen is not None:
        shown = sum(one.item.shown for one in result.told)
        said.append(f"Without the {shown} that the prompts show with their answers: {result.unseen:.3f}")
    said.append(f"Invalid: {len(result.invalid) / count if count else 0.0:.3f}")
    cut = sum(one.reply.finish == "length" for one in result.invalid)
    if cut:
        said.append(f"  {cut} of them were cut off: more --max-tokens, or a --thinking-budget, would let them end")
    if result.failed:
        said.append(f"FAILED: {len(result.failed)} of {count}, counted as wrong; first: {result.failed[0].reply.error}")
    tokens = sum(one.reply.output_tokens for one in result.told)
    said.append(f"Latency: {result.duration_s:.3f} s")
    said.append(f"Output throughput: {tokens / result.duration_s if result.duration_s else 0.0:.3f} token/s")
    if result.interrupted:
        said.append(f"INTERRUPTED after {count} of {len(result.asked.items)} questions")
    return said


def raw(result: Result) -> dict[str, Any]:
    """Everything, ready for json.dumps."""
    return {
        "format": FORMAT,
        "title": result.asked.title,
        "rule": result.asked.rule,
        "accuracy": result.accuracy,
        "standard_error": result.error,
        "without_shown": result.unseen,
        "asked": len(result.told),
        "of": len(result.asked.items),
        "invalid": len(result.invalid),
        "failed": len(result.failed),
        "duration_s": result.duration_s,
        "interrupted": result.interrupted,
        "notes": list(result.asked.notes),
        "by_group": {name: {"questions": many, "accuracy": share} for name, (many, share) in result.by_group.items()},
        "questions": [
            {
                "name": one.item.name,
                "group": one.item.group,
                "answers": list(one.item.answers),
                "found": one.score.found,
                "right": one.score.right,
                "text": one.reply.text,
                "thoughts": one.reply.thoughts,
                "finish": one.reply.finish,
                "output_tokens": one.reply.output_tokens,
                "error": one.reply.error,
            }
            for one in result.told
        ],
    }
