"""From the times of single requests to the numbers of a benchmark, each as SGLang's `bench_serving` defines it.

Pure arithmetic. Source of the definitions: `calculate_metrics` of SGLang 0.5.23, sglang/benchmark/serving.py;
tests/bench/test_statistics.py holds both beside each other.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from sglang_nemotron.bench.records import Summary, Timed


def summarise(requests: Sequence[Timed], duration_s: float, *, text_alone: bool = True) -> Summary | None:
    """The numbers of one run whose client tells when each request began and ended; None if none was completed.

    text_alone: the prompts had no media. Failed requests count nowhere. Throughputs are over the whole duration. TPOT
    is (latency - TTFT) / (tokens - 1) of a request of two tokens or more, one value per request; ITL is one value per
    token after the first, of all requests together. Percentiles are interpolated linearly (NumPy's default). Peaks are
    of seconds that begin with the first request; a request counts in each second in which it was under way.
    """
    done = [one for one in requests if one.error is None]
    if not done:
        return None
    latencies = [_seconds(one.latency_s) for one in done]
    tpots = [(_seconds(one.latency_s) - one.ttft_s) / (one.output_tokens - 1) for one in done if one.output_tokens > 1]
    itls = [gap for one in done for gap in one.itl_s]
    ttfts = [one.ttft_s for one in done]
    total_input, total_output = sum(one.prompt_tokens for one in done), sum(one.output_tokens for one in done)
    tokens, together = _peaks(done)
    return Summary(
        duration=duration_s,
        completed=len(done),
        total_input=total_input,
        total_input_text=total_input if text_alone else None,
        total_input_vision=None,
        total_output=total_output,
        total_output_retokenized=None,
        request_throughput=len(done) / duration_s,
        input_throughput=total_input / duration_s,
        output_throughput=total_output / duration_s,
        total_throughput=(total_input + total_output) / duration_s,
        max_output_tokens_per_s=float(tokens),
        max_concurrent_requests=together,
        concurrency=sum(latencies) / duration_s,
        mean_e2e_latency_ms=_mean(latencies),
        median_e2e_latency_ms=_at(latencies, 50),
        p90_e2e_latency_ms=_at(latencies, 90),
        p99_e2e_latency_ms=_at(latencies, 99),
        mean_ttft_ms=_mean(ttfts),
        median_ttft_ms=_at(ttfts, 50),
        p99_ttft_ms=_at(ttfts, 99),
        mean_tpot_ms=_mean(tpots),
        median_tpot_ms=_at(tpots, 50),
        p99_tpot_ms=_at(tpots, 99),
        mean_itl_ms=_mean(itls),
        median_itl_ms=_at(itls, 50),
        p95_itl_ms=_at(itls, 95),
        p99_itl_ms=_at(itls, 99),
        max_itl_ms=1000 * max(itls, default=0.0),
    )


def gaps(events: Sequence[tuple[float, int | None]]) -> tuple[float, ...]:
    """Inter-token latencies of one stream.

    events: of each chunk with text, its time and how many tokens the server had counted by then, None if it does not
    tell. A chunk of n new tokens stands for n equal gaps, as in bench_serving's `sglang` backend; where the server
    does not count along, for one, as in its OpenAI backends. A chunk without a new token is passed over.
    """
    found: list[float] = []
    if not events:
        return ()
    before, counted = events[0]
    for time, count in events[1:]:
        new = 1 if count is None or counted is None else count - counted
        if new <= 0:
            continue
        found += [(time - before) / new] * new
        before, counted = time, count
    return tuple(found)


def _peaks(done: Sequence[Timed]) -> tuple[int, int]:
    """(most tokens that came in one second, most requests that were under way in one)."""
    first = min(_seconds(one.start_s) for one in done)
    tokens: Counter[int] = Counter()
    together: Counter[int] = Counter()
    for one in done:
        began = _seconds(one.start_s) - first
        together.update(range(int(began), int(began + _seconds(one.latency_s)) + 1))
        came = began + one.ttft_s
        tokens[int(came)] += 1
        for gap in one.itl_s:
            came += gap
            tokens[int(came)] += 1
    return max(tokens.values()), max(together.values())


def _seconds(value: float | None) -> float:
    assert value is not None and math.isfinite(value), "a completed request without its times"
    return value


def _mean(seconds: Sequence[float]) -> float:
    return float(np.mean(seconds)) * 1000 if seconds else 0.0


def _at(seconds: Sequence[float], percent: float) -> float:
    return float(np.percentile(seconds, percent)) * 1000 if seconds else 0.0
