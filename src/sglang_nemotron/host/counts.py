"""What we count of a running server: numbers of this process come in, rows of SGLang's `/metrics` go out.

Nothing is made, and every call does nothing, until `begin` is called, which `metrics.py` does in servers of ours with
`--enable-metrics`. Must never know where in SGLang a number comes from.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from sglang_nemotron.prompt.errors import MediaError


@dataclass(frozen=True)
class Metric:
    """One row, or one for each value of its label, all of which are there from the start.

    A gauge is summed over processes, as HTTP workers and data-parallel ranks have parts of their own.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    label: str = ""
    values: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


SLOTS: Final = Metric("sglang_nemotron_state_slots", "gauge", "Slots for Mamba states, without the one of padding.")
SLOTS_USED: Final = Metric("sglang_nemotron_state_slots_used", "gauge", "State slots that requests hold.")
STATES_KEPT: Final = Metric(
    "sglang_nemotron_states_kept", "gauge", "States that the prefix cache keeps and no request holds."
)
HIT_TOKENS: Final = Metric(
    "sglang_nemotron_prompt_hit_tokens_total", "counter", "Prompt tokens taken from the prefix cache."
)
COMPUTED_TOKENS: Final = Metric(
    "sglang_nemotron_prompt_computed_tokens_total", "counter", "Prompt tokens that were computed."
)
RECOMPUTED_TOKENS: Final = Metric(
    "sglang_nemotron_prompt_recomputed_tokens_total",
    "counter",
    "Of the computed prompt tokens, those whose keys and values were cached, but no state behind them was kept.",
)
BUDGETS_CLOSED: Final = Metric(
    "sglang_nemotron_budgets_closed_total", "counter", "Think blocks that a thinking budget closed."
)
# budgets of a grammar that cannot wait are refused by the scheduler
REFUSALS: Final = Metric(
    "sglang_nemotron_refusals_total",
    "counter",
    "Requests that were answered 400 by a check of this package, by what was wrong.",
    "kind",
    (
        *("body", "prompt", "messages", "tools", "format", "stop", "budget"),
        *("media_options", "image", "video", "audio", "media"),
    ),
)
WORKERS: Final = Metric("sglang_nemotron_media_workers", "gauge", "Processes that read media.")
WORKERS_BUSY: Final = Metric("sglang_nemotron_media_workers_busy", "gauge", "Media workers that read an item now.")
MEDIA_SECONDS: Final = Metric(
    "sglang_nemotron_media_read_seconds",
    "histogram",
    "Seconds that a media worker took to read one item, by its kind; refused ones too.",
    "kind",
    ("image", "video", "audio"),
    (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)

OF_SCHEDULER: Final = (
    *(SLOTS, SLOTS_USED, STATES_KEPT, HIT_TOKENS, COMPUTED_TOKENS, RECOMPUTED_TOKENS, BUDGETS_CLOSED, REFUSALS),
)
OF_HTTP: Final = (REFUSALS, WORKERS, WORKERS_BUSY, MEDIA_SECONDS)

# where an error says that it was counted, as it passes several checks
_COUNTED = "nemotron_counted"
_made: dict[Metric, Any] = {}


def begin(metrics: Iterable[Metric]) -> None:
    """Makes the rows of this process; may be repeated. SGLang has named the folder of its metrics by then."""
    import prometheus_client

    for metric in metrics:
        if metric in _made:
            continue
        labels = [metric.label] if metric.label else []
        match metric.kind:
            case "counter":
                made: Any = prometheus_client.Counter(metric.name, metric.help, labels)
            case "gauge":
                made = prometheus_client.Gauge(metric.name, metric.help, labels, multiprocess_mode="livesum")
            case "histogram":
                made = prometheus_client.Histogram(metric.name, metric.help, labels, buckets=metric.buckets)
        _made[metric] = made
        for value in metric.values:
            made.labels(value)


def counts(metric: Metric) -> bool:
    """Whether this process has the row."""
    return metric in _made


def add(metric: Metric, amount: float = 1, value: str = "") -> None:
    """Adds to a counter or a gauge. value: of its label, one of `metric.values`."""
    if (made := _made.get(metric)) is not None:
        (made.labels(value) if metric.label else made).inc(amount)


def put(metric: Metric, number: float) -> None:
    """Sets a gauge."""
    if (made := _made.get(metric)) is not None:
        made.set(number)


# ---- refusals


def refused(error: ValueError, kind: str) -> None:
    """Counts a refusal once, however many checks its error passes; one of a medium under that medium's kind."""
    if REFUSALS not in _made or getattr(error, _COUNTED, False):
        return
    # some errors of pydantic take no attribute, and pass one check alone
    with contextlib.suppress(AttributeError):
        setattr(error, _COUNTED, True)
    if isinstance(error, MediaError):
        kind = _kind_of(error.item)
    add(REFUSALS, 1, kind)


@contextlib.contextmanager
def refusing(kind: str) -> Iterator[None]:
    """Around a check, whose ValueError is a 400."""
    try:
        yield
    except ValueError as error:
        refused(error, kind)
        raise


def _kind_of(item: str) -> str:
    """Of "image 2" and "images": image; media for what is none of the three kinds."""
    word = item.partition(" ")[0].removesuffix("s")
    return word if word in MEDIA_SECONDS.values else "media"


# ---- media workers


@contextlib.contextmanager
def reading(kind: str) -> Iterator[None]:
    """Around the time in which a worker reads an item. kind: as in `ReadRequest`."""
    if MEDIA_SECONDS not in _made:
        yield
        return
    add(WORKERS_BUSY)
    began = time.monotonic()
    try:
        yield
    finally:
        add(WORKERS_BUSY, -1)
        label = "audio" if kind == "sound" else kind
        _made[MEDIA_SECONDS].labels(label).observe(time.monotonic() - began)
