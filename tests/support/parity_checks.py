"""What the parity tests share: the references, loaded once, and the one assertion that they all end in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from sglang_nemotron.cli.console import as_text, table
from sglang_nemotron.parity import report
from sglang_nemotron.parity.client import Answer
from sglang_nemotron.parity.compare import Difference, compare, verdict
from sglang_nemotron.parity.exact import ExactReference, beside_the_truth
from sglang_nemotron.parity.prompts import Boundaries, lengths, make_prompts
from sglang_nemotron.parity.reference import Reference
from support.serving import Served

# the tiny and toy checkpoints: 4 taps, SSM chunks of 16; PREFILL_CHUNK is a flag of the servers that set it
PREFILL_CHUNK = 64
VOCAB_SIZE = 2048

# chunks within a prompt, and a cache that a dozen requests overrun
PRESSED_FLAGS = (
    *("--chunked-prefill-size", str(PREFILL_CHUNK)),
    *("--max-total-tokens", "1300", "--schedule-conservativeness", "0.01"),
    # a state is kept in the middle of answers, too
    *("--mamba-track-interval", "16"),
)
NO_BUFFER_FLAGS = ("--mamba-radix-cache-strategy", "no_buffer", "--disable-overlap-schedule")
# as a user would: no variable is set by hand, not even the tests' own
BY_HAND: tuple[tuple[str, str | None], ...] = (("OMP_WAIT_POLICY", None),)
# all of it on one server of two ranks, since each start takes half a minute; the matrix has each by itself
PRESSED_TP2 = Served(args=("--dtype", "float32", "--tp", "2", *NO_BUFFER_FLAGS, *PRESSED_FLAGS), env=BY_HAND)


def no_tick() -> None:
    """Progress is for people."""


@lru_cache(maxsize=8)
def reference(checkpoint: Path) -> Reference:
    """transformers in float32 on this checkpoint."""
    return Reference(checkpoint)


@lru_cache(maxsize=2)
def exact_reference(checkpoint: Path) -> ExactReference:
    """transformers in float64 on this checkpoint."""
    return ExactReference(checkpoint)


def boundary_prompts(*, full: bool, seed: int = 0, page: int = 1) -> list[list[int]]:
    """Prompts of 1 to 600 tokens around every boundary."""
    boundaries = Boundaries(conv_width=4, ssm_chunk=16, prefill_chunk=PREFILL_CHUNK, page=page)
    return make_prompts(lengths(boundaries, full=full), VOCAB_SIZE, seed=seed)


def differences(mode: str, answers: Sequence[Answer], golden: Reference) -> list[Difference]:
    return [compare(mode, answer, golden.scores) for answer in answers]


def assert_equal(mode: str, answers: Sequence[Answer], golden: Reference, tolerance: float) -> None:
    """Every logprob within `tolerance` of transformers, every greedy token of which it is sure the same.

    What is further from its float32 must be as near to its float64.
    """
    found = beside_the_truth(differences(mode, answers, golden), tolerance, lambda: exact_reference(golden.model_dir))
    # many short answers and few positions: one unsure token would be more than 1 % of them
    total = verdict(found)
    if total.greedy_positions < 200:
        assert total.excluded <= 2
        total = replace(total, excluded=0)
    assert total.passes(tolerance), _told(mode, [d for d in found if not _fine(d, tolerance)] or found)


def _told(mode: str, found: list[Difference]) -> str:
    return report.headline(mode, found) + "\n" + as_text(table(None, report.COLUMNS, report.rows(found)))


def _fine(difference: Difference, tolerance: float) -> bool:
    return difference.worst <= tolerance and not difference.disagreements
