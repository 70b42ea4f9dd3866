"""The numbers of a benchmark: worked out by hand, and beside SGLang's own arithmetic over the same requests."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest

from sglang_nemotron.bench.records import Summary, Timed
from sglang_nemotron.bench.statistics import gaps, summarise


def test_two_requests_by_hand():
    one = Timed(10, 3, start_s=100.0, ttft_s=0.5, latency_s=1.5, itl_s=(0.25, 0.75))
    two = Timed(20, 1, start_s=100.25, ttft_s=1.0, latency_s=1.0, itl_s=())
    lost = Timed(start_s=100.0, error="planted")
    found = summarise([one, lost, two], 2.0)
    assert found is not None
    assert (found.completed, found.total_input, found.total_output) == (2, 30, 4)
    assert (found.request_throughput, found.output_throughput, found.total_throughput) == (1.0, 2.0, 17.0)
    # (1.5 - 0.5) / (3 - 1); a reply of one token has none
    assert found.mean_tpot_ms == found.p99_tpot_ms == 500
    assert (found.mean_itl_ms, found.median_itl_ms, found.max_itl_ms) == (500, 500, 750)
    assert (found.mean_ttft_ms, found.mean_e2e_latency_ms, found.concurrency) == (750, 1250, 1.25)
    # from 1.0 to 1.5, 99 % of the way
    assert found.p99_e2e_latency_ms == pytest.approx(1495)
    # tokens at 0.5 and 0.75 of the first second, at 1.25 and 1.5 of the next; both are under way in both
    assert (found.max_output_tokens_per_s, found.max_concurrent_requests) == (2.0, 2)
    assert found.total_input_text == 30 and found.total_output_retokenized is None


def test_nothing_completed_is_no_number():
    assert summarise([Timed(start_s=0.0, error="x")], 1.0) is None


def test_a_chunk_of_several_tokens_is_several_gaps():
    assert gaps([(1.0, 1), (2.0, 5), (2.5, 6)]) == (0.25, 0.25, 0.25, 0.25, 0.5)
    # without a count it is one
    assert gaps([(1.0, None), (2.0, None), (2.5, None)]) == (1.0, 0.5)
    # a chunk that adds no token is passed over, and its time with it
    assert gaps([(1.0, 1), (2.0, 1), (3.0, 2)]) == (2.0,)
    assert gaps([]) == gaps([(1.0, 7)]) == ()


def _some(seed: int) -> list[Timed]:
    draw, made = random.Random(seed), []
    for number in range(40):
        itl = tuple(draw.random() / 5 for _ in range(draw.randrange(12)))
        ttft = draw.random()
        made.append(
            Timed(
                prompt_tokens=draw.randrange(1, 99),
                output_tokens=1 + len(itl),
                start_s=1000 + draw.random() * 3,
                ttft_s=ttft,
                latency_s=ttft + sum(itl) + 0.01,
                itl_s=itl,
                error="planted" if number % 9 == 4 else None,
            )
        )
    return made


@pytest.mark.parametrize("seed", range(3))
def test_as_sglang_counts(seed: int):
    serving = pytest.importorskip("sglang.benchmark.serving")
    requests = _some(seed)

    class Words:
        def encode(self, text: str, add_special_tokens: bool) -> list[str]:
            return text.split()

    outputs = [
        serving.RequestFuncOutput(
            success=one.error is None,
            latency=one.latency_s,
            ttft=one.ttft_s,
            itl=list(one.itl_s),
            output_len=one.output_tokens,
            start_time=one.start_s,
        )
        for one in requests
    ]
    rows = [serving.DatasetRow(prompt="", prompt_len=one.prompt_tokens, output_len=9) for one in requests]
    theirs, _ = serving.calculate_metrics(rows, outputs, 7.5, Words(), "sglang")
    ours = summarise(requests, 7.5)
    assert ours is not None
    # what SGLang keeps elsewhere, or fills with zeros that we leave out
    apart = {"duration", "total_input_vision", "total_output_retokenized"}
    names = [one.name for one in dataclasses.fields(Summary) if one.name not in apart]
    assert len(names) == 26
    assert {name: float(getattr(ours, name)) for name in names} == pytest.approx(
        {name: float(getattr(theirs, name)) for name in names}, rel=1e-9
    )


def test_another_percentile_would_be_seen(monkeypatch: pytest.MonkeyPatch):
    """The comparison above can fail: with the nearest rank in place of interpolation it does."""
    import numpy as np

    plain = np.percentile

    def nearest(values: Any, percent: float) -> Any:
        return plain(values, percent, method="nearest")

    right = summarise(_some(0), 7.5)
    monkeypatch.setattr(np, "percentile", nearest)
    assert summarise(_some(0), 7.5) != right
