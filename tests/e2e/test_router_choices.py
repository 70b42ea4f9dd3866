"""The nearest choice of experts is found, and told once."""

from __future__ import annotations

import pytest
import torch

from support.router_choices import Choice, NearestChoice
from support.small_router import small_router

# scores of four experts, of which two are taken: only what lies between the second and the third counts
SCORES = torch.tensor([[0.9, 0.9, 0.2, 0.1], [0.8, 0.4, 0.399, 0.1], [0.1, 0.5, 0.50001, 0.6]])


def _routers(*names: str) -> torch.nn.ModuleDict:
    return torch.nn.ModuleDict({name: small_router() for name in names})


def test_the_nearest_choice_is_told_once() -> None:
    routers = _routers("first", "second")
    nearest = NearestChoice(routers)
    routers["first"](SCORES[:2].logit())
    routers["second"](SCORES.logit())
    found = nearest.take()
    assert (found.token, found.router) == (2, "second")
    assert found.gap == pytest.approx(1e-5, rel=0.05)
    assert nearest.take() == Choice(float("inf"), 0, "no router")


def test_biases_count_as_they_do_in_choosing() -> None:
    routers = _routers("only")
    nearest = NearestChoice(routers)
    routers["only"].e_score_correction_bias = torch.tensor([0.0, 0.0, 0.2 + 1e-4, 0.0])
    routers["only"](torch.tensor([[0.9, 0.4, 0.2, 0.1]]).logit())
    assert nearest.take().gap == pytest.approx(1e-4, rel=0.01)
