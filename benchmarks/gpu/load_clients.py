"""One load from several clients at once: what each `bench_serving` wrote comes in, figures of all together go out.

One client in Python takes some 12,000 streamed tokens a second; faster servers need several. Knows no server.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

# of all gaps between tokens, and of all times to a first token
PERCENTILES = (50, 90, 95, 99, 99.9)


def shares(requests: int, clients: int) -> list[int]:
    """How many requests each client sends; they differ by one at most. ValueError if some would send none."""
    if not 1 <= clients <= requests:
        raise ValueError(f"{clients} clients for {requests} requests; give from 1 to {requests}")
    return [requests // clients + (place < requests % clients) for place in range(clients)]


def percentile(ordered: Sequence[float], share: float) -> float:
    """Of values in order, by the nearest rank."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share / 100))]


def merged(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures of clients that began together; each record is of `--output-details`, times in seconds."""
    gaps = sorted(gap for record in records for gaps in record["itls"] for gap in gaps)
    firsts = sorted(first for record in records for first in record["ttfts"])
    if not gaps or not firsts:
        raise ValueError("no client got a second token")
    # the slowest client ends the load
    duration = max(record["duration"] for record in records)
    tokens = sum(record["total_output_tokens"] for record in records)
    found = {
        "clients": len(records),
        "completed": sum(record["completed"] for record in records),
        "duration": duration,
        "total_output_tokens": tokens,
        "output_throughput": tokens / duration,
        "mean_itl_ms": 1e3 * statistics.fmean(gaps),
        "mean_ttft_ms": 1e3 * statistics.fmean(firsts),
    }
    for share in PERCENTILES:
        name = "median" if share == 50 else f"p{share:g}"
        found[f"{name}_itl_ms"] = 1e3 * percentile(gaps, share)
        found[f"{name}_ttft_ms"] = 1e3 * percentile(firsts, share)
    return found
