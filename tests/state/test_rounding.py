"""Random rounding of fp16 states: who asks for it, and draws that no two layers, ranks or steps share."""

from __future__ import annotations

import pytest
import torch

from sglang_nemotron.state.rounding import ROUNDING, state_rounding

HALF_SHPN = torch.zeros(2, 3, 4, 5, dtype=torch.float16)


@pytest.mark.parametrize(
    ("asked", "dtype", "given"),
    [
        ("stochastic", torch.float16, True),
        ("stochastic", torch.float32, False),
        ("stochastic", torch.bfloat16, False),
        ("nearest", torch.float16, False),
        (None, torch.float16, False),
    ],
)
def test_only_fp16_states_of_a_server_that_was_asked(
    asked: str | None, dtype: torch.dtype, given: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ROUNDING, raising=False)
    if asked is not None:
        monkeypatch.setenv(ROUNDING, asked)
    assert (state_rounding(HALF_SHPN.to(dtype), rank=0, num_ranks=1) is not None) == given


def test_streams_and_seeds_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROUNDING, "stochastic")
    ranks = [state_rounding(HALF_SHPN, rank=rank, num_ranks=2) for rank in range(2)]
    draws = [rounding.of_layer(layer) for rounding in ranks if rounding is not None for layer in range(3)]
    assert len({draw.stream for draw in draws}) == 6
    first, seed_1 = ranks[0], draws[0].seed_1
    assert first is not None and seed_1.item() == 0
    first.next_step()
    # the same tensor, which a captured graph moves on by itself
    assert seed_1.item() == 1 and first.of_layer(0).seed_1 is seed_1
