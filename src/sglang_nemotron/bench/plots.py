"""Runs come in, a picture goes out (SVG, PNG, PDF by the file's name): throughput, TTFT and latency by concurrency.

Matplotlib draws. It is of the extra `bench`, and imported inside functions.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sglang_nemotron.bench.records import Run
from sglang_nemotron.bench.table import groups

KINDS = (".svg", ".png", ".pdf")
# (title, fields of Summary with their names)
_PANELS = (
    ("output tokens a second", (("output_throughput", ""),)),
    ("time to first token, ms", (("median_ttft_ms", "median"), ("p99_ttft_ms", "p99"))),
    ("end-to-end latency, ms", (("median_e2e_latency_ms", "median"), ("p99_e2e_latency_ms", "p99"))),
)
_DASHES = ("-", "--")
_NO_DATE = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


def check(path: Path) -> None:
    """Raises ValueError before anything is measured if nothing could be drawn there."""
    if path.suffix.lower() not in KINDS:
        raise ValueError(f"{path.name!r} is no name of a picture\n  remedy: end it with {', '.join(KINDS)}")
    try:
        import matplotlib  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            "matplotlib, which draws, is not installed"
            "\n  remedy: pip install 'matplotlib>=3.9', or leave --plot out and draw later with `bench compare`"
        ) from error


def points(runs: Sequence[Run], field: str) -> dict[str, list[tuple[int, float, float, float]]]:
    """By server what is drawn: (concurrency, median of its rounds, least, greatest), by concurrency."""
    found: dict[str, list[tuple[int, float, float, float]]] = {}
    for (server, concurrency), rounds in groups(runs).items():
        values = [getattr(run.summary, field) for run in rounds]
        found.setdefault(server, []).append((concurrency, statistics.median(values), min(values), max(values)))
    return {server: sorted(line) for server, line in found.items()}


def draw(by_name: Mapping[str, Sequence[Run]], path: Path, title: str) -> None:
    """Writes the picture. by_name: runs by what the legend calls them. A line is the median of rounds, a bar their
    range. The same runs give the same bytes, without a date. Text of an SVG stays text.
    """
    import matplotlib  # pyright: ignore[reportMissingImports]
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # pyright: ignore[reportMissingImports]
    from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]

    figure = Figure(figsize=(13, 4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    measured = sorted({run.concurrency for runs in by_name.values() for run in runs if run.summary})
    for axes, (label, numbers) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        for (field, kind), dashes in zip(numbers, _DASHES, strict=False):
            _lines(axes, by_name, field, kind, dashes)
        axes.set_title(label, fontsize=10)
        axes.set_xlabel("requests at once")
        # they are usually doubled, and named as they were asked for
        axes.set_xscale("log", base=2)
        axes.set_xticks(measured, labels=[str(at) for at in measured], minor=False)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    with matplotlib.rc_context({"svg.hashsalt": "sglang-nemotron", "svg.fonttype": "none"}):
        figure.savefig(path, metadata=_NO_DATE.get(path.suffix.lower()))


def _lines(axes: Any, by_name: Mapping[str, Sequence[Run]], field: str, kind: str, dashes: str) -> None:
    for number, (name, runs) in enumerate(by_name.items()):
        for line in points(runs, field).values():
            at, middle, least, most = zip(*line, strict=True)
            spread = [
                [mid - low for mid, low in zip(middle, least, strict=True)],
                [high - mid for mid, high in zip(middle, most, strict=True)],
            ]
            label = " ".join(filter(None, (name, kind)))
            drawn = axes.errorbar(
                at, middle, yerr=spread, fmt=f"{dashes}o", color=f"C{number}", markersize=4, capsize=3, label=label
            )
            # names within an SVG
            line, _, (ranges,) = drawn.lines
            line.set_gid(f"{field}-{number}")
            ranges.set_gid(f"{field}-{number}-range")
