"""Sets a server's answers about media beside the reference: answers and a reference come in, differences go out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from sglang_nemotron.parity.client import Answer
from sglang_nemotron.parity.compare import Difference, compare, mean_distance
from sglang_nemotron.parity.golden_omni import OmniGolden
from sglang_nemotron.parity.modes_omni import Said
from sglang_nemotron.parity.reference_omni import OmniScores
from sglang_nemotron.parity.ties import is_near, nearest_way


def compare_said(mode: str, said: Said, wanted: OmniScores) -> Difference:
    """The difference of one answer; where the prompts differ, there is nothing to compare but a problem."""
    answer = said.answer
    ids = wanted.ids[: len(wanted.ids) - len(answer.tokens)]
    known = Answer(ids, answer.tokens, answer.output_logprobs, answer.ending_logprobs, answer.cached)
    problem = prompt_problem(said, ids)
    if problem:
        return Difference(mode, known, (), (), (), 0, about=said.conversation.name, problem=problem)
    return replace(compare(mode, known, lambda _: wanted.scores), about=said.conversation.name)


def prompt_problem(said: Said, ids: Sequence[int]) -> str:
    """How the server's prompt differs from the reference's `ids`; empty if nothing that it tells does."""
    answer = said.answer
    if answer.num_prompt != len(ids):
        return f"the server's prompt has {answer.num_prompt} tokens, that of transformers {len(ids)}"
    ending = ids[len(ids) - len(answer.ending) :]
    # 0.5.23 names the vocabulary's last token 0 in this list
    wrong = [(given, own) for given, own in zip(answer.ending, ending, strict=True) if given not in (own, 0)]
    return f"the server's prompt ends in other tokens than that of transformers: {wrong[:4]}" if wrong else ""


def compare_all(mode: str, answers: Sequence[Said], golden: OmniGolden) -> list[Difference]:
    """Beside one reference, as it is."""
    return [compare_said(mode, said, golden.score(said.conversation, said.answer.tokens)) for said in answers]


def beside_the_truth(
    differences: Sequence[Difference], answers: Sequence[Said], tolerance: float, exact: Callable[[], OmniGolden]
) -> list[Difference]:
    """The differences; those beyond `tolerance` from the float32 reference are taken from the exact one instead, and
    if they are as far from that, from the one of its ties' other ways that they equal, if they do.

    exact: makes it, and is called only if it is needed.
    """
    return [
        one if is_near(one, tolerance) or one.problem else _truth(one.mode, said, tolerance, exact())
        for one, said in zip(differences, answers, strict=True)
    ]


def _truth(mode: str, said: Said, tolerance: float, golden: OmniGolden) -> Difference:
    def compared() -> Difference:
        return compare_said(mode, said, golden.score_afresh(said.conversation, said.answer.tokens))

    return nearest_way(golden.reference.model.language_model, compared, tolerance)


def noise(differences: Sequence[Difference], answers: Sequence[Said], golden: OmniGolden, rough: OmniGolden) -> float:
    """Mean |delta logprob| between two references on the very positions that `differences` compared."""
    pairs = [
        (difference, said) for difference, said in zip(differences, answers, strict=True) if not difference.problem
    ]
    scores = (
        [reference.score(said.conversation, said.answer.tokens).scores for _, said in pairs]
        for reference in (golden, rough)
    )
    return mean_distance([difference for difference, _ in pairs], *scores)
