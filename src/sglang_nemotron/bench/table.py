"""Numbers of a benchmark in the layout of SGLang's "Serving Benchmark Result", and many of them in one row each."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from sglang_nemotron.bench.records import Run, Summary

_WIDTH = 50
# (label, field of Summary) by section; the rows that the cookbooks show, in their order
_SECTIONS = (
    (
        "End-to-End Latency",
        "-",
        (
            ("Mean E2E Latency (ms):", "mean_e2e_latency_ms"),
            ("Median E2E Latency (ms):", "median_e2e_latency_ms"),
            ("P90 E2E Latency (ms):", "p90_e2e_latency_ms"),
            ("P99 E2E Latency (ms):", "p99_e2e_latency_ms"),
        ),
    ),
    (
        "Time to First Token",
        "-",
        (
            ("Mean TTFT (ms):", "mean_ttft_ms"),
            ("Median TTFT (ms):", "median_ttft_ms"),
            ("P99 TTFT (ms):", "p99_ttft_ms"),
        ),
    ),
    (
        "Time per Output Token (excl. 1st token)",
        "-",
        (
            ("Mean TPOT (ms):", "mean_tpot_ms"),
            ("Median TPOT (ms):", "median_tpot_ms"),
            ("P99 TPOT (ms):", "p99_tpot_ms"),
        ),
    ),
    (
        "Inter-Token Latency",
        "-",
        (
            ("Mean ITL (ms):", "mean_itl_ms"),
            ("Median ITL (ms):", "median_itl_ms"),
            ("P95 ITL (ms):", "p95_itl_ms"),
            ("P99 ITL (ms):", "p99_itl_ms"),
            ("Max ITL (ms):", "max_itl_ms"),
        ),
    ),
)
# `>`: numbers, to the right
COLUMNS = (
    *("server", ">concurrency", ">rounds", ">out tok/s", ">(range)", ">req/s", ">TTFT p50", ">p99", ">TPOT p50"),
    *(">E2E p50", ">p99", ">failed"),
)


def result(run: Run) -> str:
    """One run as the cookbooks print it. Numbers that the client does not have are left out, failures added."""
    summary = run.summary
    assert summary is not None, "a table of nothing"
    lines = [
        _title("Serving Benchmark Result", "="),
        _row("Backend:", "sglang" if run.client == "bench_serving" else "openai"),
        _row("Traffic request rate:", "inf"),
        _row("Max request concurrency:", run.concurrency),
        _row("Successful requests:", summary.completed),
        *([_row("Failed requests:", run.failed)] if run.failed else []),
        _row("Benchmark duration (s):", summary.duration),
        _row("Total input tokens:", summary.total_input),
        *_known("Total input text tokens:", summary.total_input_text),
        *_known("Total input vision tokens:", summary.total_input_vision),
        _row("Total generated tokens:", summary.total_output),
        *_known("Total generated tokens (retokenized):", summary.total_output_retokenized),
        _row("Request throughput (req/s):", summary.request_throughput),
        _row("Input token throughput (tok/s):", summary.input_throughput),
        _row("Output token throughput (tok/s):", summary.output_throughput),
        _row("Peak output token throughput (tok/s):", summary.max_output_tokens_per_s),
        _row("Peak concurrent requests:", summary.max_concurrent_requests),
        _row("Total token throughput (tok/s):", summary.total_throughput),
        _row("Concurrency:", summary.concurrency),
    ]
    for title, mark, rows in _SECTIONS:
        lines += [_title(title, mark), *(_row(label, getattr(summary, name)) for label, name in rows)]
    return "\n".join([*lines, "=" * _WIDTH])


def middle(runs: Sequence[Run]) -> Run:
    """The round that stands for all of one server and concurrency: the middle one by output throughput, the slower of
    two. A round is taken whole, so that its numbers belong together.
    """
    done = sorted((run for run in runs if run.summary), key=lambda run: _summary(run).output_throughput)
    return done[(len(done) - 1) // 2]


def groups(runs: Iterable[Run]) -> dict[tuple[str, int], list[Run]]:
    """Rounds by server and concurrency, without those in which nothing was completed, in the order of measuring."""
    found: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        if run.summary is not None:
            found.setdefault((run.server, run.concurrency), []).append(run)
    return found


def rows(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """One row per server and concurrency, for COLUMNS; medians over rounds, and the range of throughput."""
    return [_overview(server, concurrency, rounds) for (server, concurrency), rounds in groups(runs).items()]


def _overview(server: str, concurrency: int, rounds: Sequence[Run]) -> tuple[str, ...]:
    done = [_summary(run) for run in rounds]
    rates = [one.output_throughput for one in done]

    def mid(name: str) -> str:
        return f"{statistics.median(getattr(one, name) for one in done):,.1f}"

    return (
        server,
        str(concurrency),
        str(len(done)),
        mid("output_throughput"),
        f"{min(rates):,.1f}-{max(rates):,.1f}" if len(done) > 1 else "",
        f"{statistics.median(one.request_throughput for one in done):,.2f}",
        *(mid(name) for name in ("median_ttft_ms", "p99_ttft_ms", "median_tpot_ms")),
        *(mid(name) for name in ("median_e2e_latency_ms", "p99_e2e_latency_ms")),
        str(sum(run.failed for run in rounds)),
    )


def _summary(run: Run) -> Summary:
    assert run.summary is not None
    return run.summary


def _title(text: str, mark: str) -> str:
    # the outer title has a space on either side, as SGLang's
    return (f" {text} " if mark == "=" else text).center(_WIDTH, mark)


def _known(label: str, value: int | None) -> list[str]:
    return [] if value is None else [_row(label, value)]


def _row(label: str, value: float | str) -> str:
    return f"{label:<40} {value:.2f}" if isinstance(value, float) else f"{label:<40} {value}"
