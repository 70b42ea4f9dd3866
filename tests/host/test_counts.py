"""Counting without a server: nothing before `begin`, then every row once; where a number comes from in SGLang."""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import prometheus_client
import pytest

from sglang_nemotron.family import TEXT
from sglang_nemotron.host import counts, metrics
from sglang_nemotron.host.budget import BudgetGrammar
from sglang_nemotron.host.http import chat_body
from sglang_nemotron.prompt.errors import MediaError
from sglang_nemotron.reply.budget import Budget, BudgetAutomaton, Vocabulary
from support.waiting import NET_S

OURS = SimpleNamespace(hf_config=SimpleNamespace(architectures=[TEXT]))
OTHERS = SimpleNamespace(hf_config=SimpleNamespace(architectures=["LlamaForCausalLM"]))


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that counts nothing yet; what it makes is taken back."""
    monkeypatch.setattr(counts, "_made", {})
    yield
    for row in counts._made.values():
        prometheus_client.REGISTRY.unregister(row)


def number(name: str, **labels: str) -> float | None:
    return prometheus_client.REGISTRY.get_sample_value(name, labels)


def test_names_and_labels_are_prometheus_own() -> None:
    rows = [*counts.OF_SCHEDULER, *counts.OF_HTTP]
    for row in rows:
        assert row.name.startswith("sglang_nemotron_") and row.help.endswith(".")
        assert row.name.endswith("_total") == (row.kind == "counter"), row.name
        assert bool(row.label) == bool(row.values) and len(row.values) <= 12
        assert bool(row.buckets) == (row.kind == "histogram") and list(row.buckets) == sorted(row.buckets)
    # what both kinds of process have is one row
    assert len({row.name for row in rows}) == len(set(rows))


def test_nothing_is_made_or_imported_before_it_begins() -> None:
    counts.add(counts.BUDGETS_CLOSED)
    counts.put(counts.SLOTS, 3)
    with pytest.raises(ValueError), counts.refusing("tools"):
        raise ValueError
    with counts.reading("image"):
        pass
    assert counts._made == {} and number("sglang_nemotron_state_slots") is None
    program = (
        "import sys, sglang_nemotron.host.counts as c\nwith c.reading('image'): c.add(c.REFUSALS, 1, 'body')\n"
        "sys.exit('prometheus_client' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=NET_S).returncode == 0


def test_every_value_is_there_from_the_start_and_beginning_twice_changes_nothing() -> None:
    for _ in range(2):
        counts.begin(counts.OF_SCHEDULER)
        counts.begin(counts.OF_HTTP)
    counts.add(counts.REFUSALS, 1, "tools")
    refusals = {kind: number("sglang_nemotron_refusals_total", kind=kind) for kind in counts.REFUSALS.values}
    assert refusals == {**dict.fromkeys(counts.REFUSALS.values, 0.0), "tools": 1.0}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("x"), "tools"),
        (MediaError("image 2", "is bad"), "image"),
        (MediaError("videos", "are missing"), "video"),
        (MediaError("audio 1", "is bad"), "audio"),
        (MediaError("the media", "are too long"), "media"),
    ],
)
def test_an_error_is_counted_once_however_many_checks_it_passes(error: ValueError, kind: str) -> None:
    counts.begin(counts.OF_HTTP)
    with pytest.raises(ValueError), counts.refusing("prompt"), counts.refusing("tools"):
        raise error
    rows = {name: number("sglang_nemotron_refusals_total", kind=name) for name in counts.REFUSALS.values}
    assert {name: value for name, value in rows.items() if value} == {kind: 1.0}


def test_an_error_that_takes_no_mark_is_counted() -> None:
    import pydantic

    class Model(pydantic.BaseModel):
        count: int

    counts.begin(counts.OF_HTTP)
    with pytest.raises(ValueError), counts.refusing("messages"):
        Model(count="many")  # type: ignore[arg-type]
    assert number("sglang_nemotron_refusals_total", kind="messages") == 1.0


def test_a_body_of_the_wrong_kind_is_counted() -> None:
    counts.begin(counts.OF_HTTP)
    with pytest.raises(importlib.import_module("fastapi").HTTPException):
        chat_body._check(3, chat=True)
    assert number("sglang_nemotron_refusals_total", kind="body") == 1.0


def test_a_worker_is_busy_while_it_reads() -> None:
    counts.begin(counts.OF_HTTP)
    with pytest.raises(MediaError), counts.reading("sound"):
        assert number("sglang_nemotron_media_workers_busy") == 1.0
        raise MediaError("audio 1", "is bad")
    assert number("sglang_nemotron_media_workers_busy") == 0.0
    assert number("sglang_nemotron_media_read_seconds_count", kind="audio") == 1.0


# ---- budgets

TEXTS = ("a", "\n", "</think>", "b")


def grammar(budget: Budget) -> BudgetGrammar:
    vocabulary = Vocabulary(TEXTS.__getitem__, newline=(1,), close=(2,))
    return BudgetGrammar(BudgetAutomaton(budget, vocabulary), None)


@pytest.mark.parametrize(
    ("tokens", "closed"),
    [
        # closed by its budget, at a line's end or at once
        ((0, 1, 2, 3), 1.0),
        # by the model, before that
        ((0, 2, 3), 0.0),
        # never
        ((0,), 0.0),
    ],
)
def test_a_block_that_a_budget_closes_is_counted(tokens: tuple[int, ...], closed: float) -> None:
    counts.begin(counts.OF_SCHEDULER)
    reply = grammar(Budget(2, 0))
    for token in tokens:
        reply.accept_token(token)
    assert number("sglang_nemotron_budgets_closed_total") == closed


def test_a_block_that_closes_again_is_counted_once() -> None:
    counts.begin(counts.OF_SCHEDULER)
    reply = grammar(Budget(2, 0))
    for token in (0, 1, 2):
        reply.accept_token(token)
    reply.rollback(1)
    reply.accept_token(2)
    assert number("sglang_nemotron_budgets_closed_total") == 1.0


# ---- SGLang's side


def scheduler(*, enabled: bool = True, model: Any = OURS) -> Any:
    reporter = SimpleNamespace(current_scheduler_metrics_enabled=enabled)
    pool = SimpleNamespace(mamba_pool=SimpleNamespace(size=7))
    return SimpleNamespace(metrics_reporter=reporter, model_config=model, req_to_token_pool=pool)


def place(monkeypatch: pytest.MonkeyPatch, **ranks: int) -> None:
    engine = importlib.import_module("sglang_nemotron.sglang_api.engine")
    at = SimpleNamespace(**{"attn_tp_rank": 0, "attn_cp_rank": 0, "pp_rank": 0, **ranks})
    monkeypatch.setattr(engine, "get_parallel", lambda: at)


@pytest.mark.parametrize(
    ("ranks", "server", "begins"),
    [
        ({}, scheduler(), True),
        ({}, scheduler(enabled=False), False),
        ({}, scheduler(model=OTHERS), False),
        ({"attn_tp_rank": 1}, scheduler(), False),
        ({"pp_rank": 1}, scheduler(), False),
    ],
    ids=["first rank", "without --enable-metrics", "another model", "second rank", "second stage"],
)
def test_one_rank_of_a_server_of_ours_counts(
    ranks: dict[str, int], server: Any, begins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(monkeypatch, **ranks)
    metrics._then_begin(lambda self: None)(server)
    assert counts.counts(counts.SLOTS) == begins
    assert number("sglang_nemotron_state_slots") == (7.0 if begins else None)


@pytest.mark.parametrize(
    ("manager", "begins"),
    [
        (SimpleNamespace(enable_metrics=True, model_config=OURS), True),
        (SimpleNamespace(enable_metrics=False, model_config=OURS), False),
        (SimpleNamespace(enable_metrics=True, model_config=OTHERS), False),
    ],
    ids=["ours", "without --enable-metrics", "another model"],
)
def test_a_process_that_answers_counts_before_it_has_a_processor(manager: Any, begins: bool) -> None:
    seen: list[bool] = []
    metrics._begin_first(lambda self: seen.append(counts.counts(counts.WORKERS)))(manager)
    assert seen == [begins]


def test_what_a_match_cannot_use_is_told_with_the_first_chunk_of_its_last_match() -> None:
    counts.begin(counts.OF_SCHEDULER)
    req = SimpleNamespace(prefix_len=32, host_hit_length=4)
    batch = SimpleNamespace(reqs=[req, SimpleNamespace()])
    stats = SimpleNamespace(log_hit_tokens=36, log_input_tokens=28)
    report = metrics._report(lambda self, batch, prefill_stats, **rest: rest)
    lengths = iter((60, 50))
    match = metrics._match(lambda req: SimpleNamespace(full_kv_hit_length=next(lengths)))
    match(req)
    match(req)
    assert report(None, batch=batch, prefill_stats=stats, can_run_cuda_graph=True) == {"can_run_cuda_graph": True}
    report(None, None, stats)
    names = ("hit", "computed", "recomputed")
    assert [number(f"sglang_nemotron_prompt_{name}_tokens_total") for name in names] == [72.0, 56.0, 14.0]


def test_matches_of_a_server_that_counts_nothing_are_left_as_they_are() -> None:
    req = SimpleNamespace(prefix_len=0, host_hit_length=0)
    metrics._match(lambda req: SimpleNamespace())(req)
    assert vars(req) == {"prefix_len": 0, "host_hit_length": 0}


def test_gauges_are_those_of_a_report() -> None:
    counts.begin(counts.OF_SCHEDULER)
    metrics._log_stats(lambda self, stats: None)(None, SimpleNamespace(mamba_used_tokens=3, mamba_evictable_tokens=5))
    assert (number("sglang_nemotron_state_slots_used"), number("sglang_nemotron_states_kept")) == (3.0, 5.0)


def test_a_refused_stream_is_counted_when_it_is_read() -> None:
    from sglang_nemotron.host.http.media import _dropping

    async def answers() -> Any:
        raise MediaError("video 1", "is bad")
        yield

    async def read() -> None:
        async for _ in _dropping(answers(), [], None):
            pass

    counts.begin(counts.OF_HTTP)
    with pytest.raises(MediaError):
        asyncio.run(read())
    assert number("sglang_nemotron_refusals_total", kind="video") == 1.0
