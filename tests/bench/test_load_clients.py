"""Several clients of one load: what each saw, put together as if one had seen it all."""

from __future__ import annotations

import pytest

from support.benchmark_scripts import program

CLIENTS = program("gpu/load_clients.py")


def record(gaps: list[list[float]], firsts: list[float], duration: float) -> dict[str, object]:
    tokens = sum(map(len, gaps)) + len(firsts)
    return {
        "itls": gaps,
        "ttfts": firsts,
        "duration": duration,
        "total_output_tokens": tokens,
        "completed": len(firsts),
    }


def test_together_is_what_one_client_would_have_seen() -> None:
    one = record([[0.01, 0.03], [0.02, 0.02]], [0.5, 0.7], 2.0)
    other = record([[0.04] * 2], [0.9], 3.0)
    both = record([[0.01, 0.03], [0.02, 0.02], [0.04] * 2], [0.5, 0.7, 0.9], 3.0)
    together, alone = CLIENTS.merged([one, other]), CLIENTS.merged([both])
    assert together.pop("clients") == 2 and alone.pop("clients") == 1
    assert together == pytest.approx(alone)
    assert together["output_throughput"] == pytest.approx(9 / 3.0)
    assert together["median_itl_ms"] == pytest.approx(30) and together["p99_itl_ms"] == pytest.approx(40)
    assert together["median_ttft_ms"] == pytest.approx(700)


def test_a_load_without_a_second_token_is_none() -> None:
    with pytest.raises(ValueError, match="second token"):
        CLIENTS.merged([record([[]], [0.5], 1.0)])


@pytest.mark.parametrize(("requests", "clients", "found"), [(512, 4, [128] * 4), (10, 3, [4, 3, 3]), (1, 1, [1])])
def test_requests_are_shared_out(requests: int, clients: int, found: list[int]) -> None:
    assert CLIENTS.shares(requests, clients) == found


@pytest.mark.parametrize("clients", [0, 5])
def test_no_client_is_idle(clients: int) -> None:
    with pytest.raises(ValueError, match=f"{clients} clients for 4"):
        CLIENTS.shares(4, clients)
