"""Answers about media beside the reference: what differs is said, float64 decides, and a tie may fall either way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sglang_nemotron.cli import demo_media
from sglang_nemotron.config.omni import omni_spec
from sglang_nemotron.parity import ties
from sglang_nemotron.parity.client import MediaAnswer
from sglang_nemotron.parity.compare import verdict
from sglang_nemotron.parity.compare_omni import beside_the_truth, compare_all, compare_said, noise
from sglang_nemotron.parity.conversations import QUESTIONS, Conversation, Files, Shelf, conversations
from sglang_nemotron.parity.exact import ExactOmniReference
from sglang_nemotron.parity.golden_omni import OmniGolden
from sglang_nemotron.parity.modes_omni import Said, again, one_by_one, together
from sglang_nemotron.parity.reference_omni import OmniReference, OmniScores

TOKENS = (1100, 1101, 1102)
TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def golden(omni: Path) -> OmniGolden:
    return OmniGolden(OmniReference(omni))


@pytest.fixture(scope="module")
def shelf(omni: Path) -> Shelf:
    files = Files(demo_media.photo(), demo_media.speech(), demo_media.clip())
    return Shelf(files, omni_spec(json.loads((omni / "config.json").read_text())), 32768)


@pytest.fixture(scope="module")
def upright(omni: Path, shelf: Shelf) -> Conversation:
    spec = omni_spec(json.loads((omni / "config.json").read_text()))
    return conversations(shelf, spec, "image", QUESTIONS[0])[1]


def _said(conversation: Conversation, scores: OmniScores, ending: int = 40) -> Said:
    """A server that says what these scores do; its token is the reference's likeliest wherever that is asked."""
    first, logprobs = len(scores.ids) - len(TOKENS), scores.scores.logprobs.tolist()
    return Said(
        conversation,
        MediaAnswer(
            num_prompt=first,
            ending=scores.ids[first - ending : first],
            ending_logprobs=tuple(logprobs[first - 1 - ending : first - 1]),
            tokens=TOKENS,
            output_logprobs=tuple(logprobs[first - 1 :]),
            cached=0,
        ),
    )


def _alike(scores: OmniScores) -> OmniScores:
    """The same, with the tokens that are there as the likeliest: only logprobs can differ."""
    best = scores.scores.best.clone()
    best[-len(TOKENS) :] = best.new_tensor(TOKENS)
    return replace(scores, scores=replace(scores.scores, best=best))


def test_equal_answers_are_compared_where_they_were_asked(golden: OmniGolden, upright: Conversation):
    scores = _alike(golden.score(upright, TOKENS))
    difference = compare_said("image", _said(upright, scores), scores)
    assert difference.worst == 0.0 and difference.problem == "" and difference.about == "an upright image"
    assert len(difference.prompt) == 40 and len(difference.output) == 3
    assert difference.length == golden.prompt(upright).num_tokens


def test_another_prompt_is_a_problem_and_fails(golden: OmniGolden, upright: Conversation):
    scores = _alike(golden.score(upright, TOKENS))
    said = _said(upright, scores)
    longer = replace(said, answer=replace(said.answer, num_prompt=said.answer.num_prompt + 1))
    other = replace(said, answer=replace(said.answer, ending=(1005, *said.answer.ending[1:])))
    # 0.5.23 names the vocabulary's last token 0
    renamed = replace(said, answer=replace(said.answer, ending=(0, *said.answer.ending[1:])))
    found = [compare_said("image", one, scores) for one in (longer, other, renamed)]
    assert "tokens, that of transformers" in found[0].problem and "ends in other tokens" in found[1].problem
    assert found[2].problem == "" and verdict([found[2]]).passes(0.0)
    assert not any(verdict([found[2], one]).passes(1.0) for one in found[:2])


def test_float64_is_close_to_float32_and_rounds_less(omni: Path, golden: OmniGolden, upright: Conversation):
    exact = OmniGolden(ExactOmniReference(omni))
    ours, truth = (one.score(upright, TOKENS).scores.logprobs for one in (golden, exact))
    assert 0.0 < float((ours - truth).abs().max()) < 2e-5
    # what follows a prompt changes nothing before it, but for rounding
    longer = exact.score(upright, (*TOKENS, *range(1110, 1140))).scores.logprobs
    assert float((longer[: len(truth)] - truth).abs().max()) < 1e-12
    text = [1200, 1201, 1202, 1203]
    assert float((golden.scores(text).logprobs - exact.scores(text).logprobs).abs().max()) < 2e-5


def test_a_fault_stays_one_beside_float64(omni: Path, golden: OmniGolden, upright: Conversation):
    said = _said(upright, golden.score(upright, TOKENS))
    wrong = replace(
        said.answer, output_logprobs=(said.answer.output_logprobs[0] - 1e-4, *said.answer.output_logprobs[1:])
    )
    saids = [said, replace(said, answer=wrong)]
    differences = compare_all("image", saids, golden)
    # of made-up tokens the reference has its own opinion
    differences = [replace(one, disagreements=()) for one in differences]
    exact = OmniGolden(ExactOmniReference(omni))
    kept, found = beside_the_truth(differences, saids, TOLERANCE, lambda: exact)
    assert kept is differences[0] and 9e-5 < found.worst < 1.1e-4 and found.turned == ()


def test_a_server_on_the_other_side_of_a_tie_is_equal(
    golden: OmniGolden, upright: Conversation, monkeypatch: pytest.MonkeyPatch
):
    """As if scores this far apart were a tie: the nearest of the prompt is turned in the server."""
    monkeypatch.setattr(ties, "MIN_GAP", 1e-2)
    model = golden.reference.model.language_model
    with ties.watched(model) as found:
        plain = golden.score_afresh(upright, TOKENS)
    nearest = min(found, key=lambda tie: tie.gap)
    with ties.watched(model, [nearest]):
        turned = golden.score_afresh(upright, TOKENS)
    assert float((turned.scores.logprobs - plain.scores.logprobs).abs().max()) > TOLERANCE
    said = [_said(upright, turned)]
    monkeypatch.setattr(OmniGolden, "score", lambda self, *asked: _alike(self.score_afresh(*asked)))
    afresh = golden.score_afresh
    monkeypatch.setattr(golden, "score_afresh", lambda *asked: _alike(afresh(*asked)))
    differences = compare_all("image", said, golden)
    assert differences[0].worst > TOLERANCE
    (settled,) = beside_the_truth(differences, said, TOLERANCE, lambda: golden)
    assert settled.worst < 1e-9 and settled.turned == (str(nearest),)


def test_noise_is_that_of_what_was_compared(omni: Path, golden: OmniGolden, upright: Conversation):
    import torch

    rough = OmniGolden(OmniReference(omni, torch.bfloat16))
    scores = golden.score(upright, TOKENS)
    said = [_said(upright, scores)]
    differences = compare_all("image", said, golden)
    delta = (rough.score(upright, TOKENS).scores.logprobs - scores.scores.logprobs).abs()[-43:]
    assert noise(differences, said, golden, rough) == pytest.approx(float(delta.mean()), rel=1e-9)
    assert noise(differences, said, golden, golden) == 0.0


class _Counted:
    """A client that answers nothing, and says what it was asked."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    def flush(self) -> None:
        self.asked.append("flush")

    def ask_about(self, text: str, media: object, options: object, start: int | None) -> MediaAnswer:
        self.asked.append((text.count("<|im_start|>"), start))
        return MediaAnswer(0, (), (), (), (), 0)


def test_modes_ask_in_their_own_order(golden: OmniGolden, upright: Conversation):
    prompt, ticks = golden.prompt(upright), []
    behind = prompt.num_tokens - prompt.num_ending - 1
    orders = {}
    for mode in (one_by_one, again, together):
        client = _Counted()
        found = mode(client, golden, [upright, upright], lambda: ticks.append(1))  # type: ignore[arg-type]
        orders[mode.__name__] = client.asked
        assert [one.conversation for one in found][:: 2 if mode is again else 1] == [upright, upright]
    turns = prompt.text.count("<|im_start|>")
    assert orders["one_by_one"] == ["flush", (turns, behind)] * 2
    assert orders["again"] == ["flush", (turns, None), (turns, None), (turns + 2, prompt.num_tokens)] * 2
    assert orders["together"] == ["flush", *[(turns, behind)] * 2]
    assert len(ticks) == 2 + 4 + 2
