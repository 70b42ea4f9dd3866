"""A tie of experts is found, turned and told; an answer that equals neither way stays wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHTopkRouter

from sglang_nemotron.parity.client import Answer
from sglang_nemotron.parity.compare import Difference
from sglang_nemotron.parity.ties import nearest_way, watched
from support.small_router import small_router

# scores of four experts for three tokens, of which two are taken: the last token's second and third are a tie
SCORES = torch.tensor([[0.9, 0.8, 0.2, 0.1], [0.8, 0.4, 0.399, 0.1], [0.1, 0.5, 0.500001, 0.6]])


@pytest.fixture
def router() -> NemotronHTopkRouter:
    return small_router(scale=2.5)


@pytest.fixture
def model(router: NemotronHTopkRouter) -> torch.nn.Module:
    return torch.nn.ModuleDict({"layer": torch.nn.ModuleDict({"gate": router})})


def test_a_tie_is_found_and_nothing_changes(router: NemotronHTopkRouter, model: torch.nn.Module):
    plain = router(SCORES.logit())
    with watched(model) as ties:
        seen = router(SCORES.logit())
    (tie,) = ties
    assert (tie.token, tie.router) == (2, "layer.gate") and tie.gap == pytest.approx(1e-6, rel=0.2)
    assert str(tie) == "token 2, layer.gate: two experts 1e-06 apart"
    assert all(torch.equal(a, b) for a, b in zip(plain, seen, strict=True))
    # no hook is left behind
    router(SCORES.logit())
    assert ties == [tie]


def test_a_turned_tie_takes_the_next_expert_with_its_weight(router: NemotronHTopkRouter, model: torch.nn.Module):
    with watched(model) as ties:
        _, weights, chosen = router(SCORES.logit())
    with watched(model, ties):
        _, turned_weights, turned = router(SCORES.logit())
    assert set(chosen[2].tolist()) == {3, 2} and turned[2].tolist() == [3, 1]
    assert turned_weights[2].tolist() == pytest.approx([2.5 * 0.6 / 1.1, 2.5 * 0.5 / 1.1], abs=1e-5)
    assert torch.equal(chosen[:2], turned[:2]) and torch.equal(weights[:2], turned_weights[:2])


def test_experts_in_groups_are_left_alone(router: NemotronHTopkRouter, model: torch.nn.Module):
    router.num_group = 2
    with watched(model) as ties:
        router(SCORES.logit())
    assert ties == []


def _compared(router: NemotronHTopkRouter, server_chose: int) -> Difference:
    """As far from a server that takes this expert for the last token as the router's other choices are."""
    _, _, chosen = router(SCORES.logit())
    delta = 0.0 if server_chose in chosen[2].tolist() else 1e-2
    return Difference("m", Answer((), (), (), (), 0), (), (delta,), (), 0)


@pytest.mark.parametrize("server_chose", [1, 2])
def test_a_server_may_take_either_side_of_a_tie(server_chose: int, router: Any, model: torch.nn.Module):
    apart = _compared(router, server_chose).worst > 0
    # the router itself takes the third of the two
    assert apart == (server_chose == 1)
    found = nearest_way(model, lambda: _compared(router, server_chose), 5e-5)
    assert found.worst == 0.0
    assert found.turned == (("token 2, layer.gate: two experts 1e-06 apart",) if apart else ())


def test_what_no_tie_explains_stays_wrong(router: NemotronHTopkRouter, model: torch.nn.Module):
    # the first expert is far from both sides of the tie
    found = nearest_way(model, lambda: _compared(router, 0), 5e-5)
    assert found.worst == 1e-2 and found.turned == ()
