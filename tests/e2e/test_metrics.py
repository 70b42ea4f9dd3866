"""`/metrics` of real servers: every row of ours is there and counts what happened; every query of the dashboard finds
what it asks for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sglang_nemotron.cli.demo_media import clip, photo, speech
from sglang_nemotron.cli.server import ServerProcess
from sglang_nemotron.host.counts import MEDIA_SECONDS, OF_HTTP, OF_SCHEDULER, Metric
from support.hub import OMNI_IDS
from support.omni_requests import part, text
from support.parity_checks import PRESSED_TP2
from support.promql import families, faults
from support.serving import LEAK_S, OMNI, get, post, usage
from support.waiting import eventually

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards" / "sglang-nemotron.json"
METRICS = sorted({*OF_SCHEDULER, *OF_HTTP}, key=lambda metric: metric.name)


def numbers(server: ServerProcess) -> dict[str, float]:
    """Our samples by name and label."""
    lines = (line.rpartition(" ") for line in get(server.url + "/metrics").splitlines())
    return {name: float(value) for name, _, value in lines if name.startswith("sglang_nemotron_")}


def rises(server: ServerProcess, before: dict[str, float], expected: dict[str, float]) -> None:
    """Waits until these rows rose by so much, as a scheduler reports behind its answers."""

    def risen() -> dict[str, float]:
        now = numbers(server)
        return {name: now[name] - before[name] for name in expected}

    eventually(lambda: risen() == expected, net_s=LEAK_S)
    assert risen() == expected


def sample(metric: Metric) -> str:
    return metric.name + ("_bucket" if metric.kind == "histogram" else "")


@pytest.mark.server
def test_every_row_is_there_from_the_start(server: ServerProcess) -> None:
    said = get(server.url + "/metrics")
    found = families(said)
    for metric in METRICS:
        assert f"# HELP {metric.name} {metric.help}\n" in said and f"# TYPE {metric.name} {metric.kind}\n" in said
        labels = {name: values for name, values in found[sample(metric)].labels.items() if name != "le"}
        # bounded: no value that nobody declared
        assert labels == ({metric.label: set(metric.values)} if metric.label else {}), metric.name


def ask(server: ServerProcess, ids: list[int]) -> int:
    """How many tokens of a prompt the server says that it had cached."""
    params = {"max_new_tokens": 2, "ignore_eos": True}
    status, said = post(server.url, "/generate", {"input_ids": ids, "sampling_params": params})
    assert status == 200, said
    return json.loads(said)["meta_info"]["cached_tokens"]


def prompt(begin: int, number: int) -> list[int]:
    return [begin + place % 89 for place in range(number)]


PROMPTS = [f"sglang_nemotron_prompt_{kind}_tokens_total" for kind in ("hit", "computed", "recomputed")]


@pytest.mark.server
def test_prompt_tokens_are_told_apart(server: ServerProcess) -> None:
    """Two prompts part behind 70 tokens: no state is there yet, so what is cached is computed again, once."""
    shared = prompt(1000, 70)
    spent = [(shared + prompt(1200, 20), 0), (shared + prompt(1400, 20), 70)]
    for ids, recomputed in spent:
        before = numbers(server)
        assert ask(server, ids) == 0
        rises(server, before, dict(zip(PROMPTS, (0, 90, recomputed), strict=True)))
    # where two prompts part, SGLang keeps a state for the third, at the last step of its grid
    before = numbers(server)
    cached = ask(server, shared + prompt(1600, 20))
    assert 0 < cached <= 70
    rises(server, before, dict(zip(PROMPTS, (cached, 90 - cached, 70 - cached), strict=True)))


@pytest.mark.server
def test_slots_are_those_of_the_pool(server: ServerProcess) -> None:
    idle, said = usage(server), numbers(server)
    assert said["sglang_nemotron_state_slots"] == idle.slots > 0
    assert said["sglang_nemotron_state_slots_used"] == idle.slots_used == 0
    assert 0 < said["sglang_nemotron_states_kept"] < idle.slots


@pytest.mark.server(PRESSED_TP2)
def test_two_ranks_count_a_request_once(server: ServerProcess) -> None:
    """Both ranks have every request and a share of each slot: rows are those of one."""
    idle, before = usage(server), numbers(server)
    assert before["sglang_nemotron_state_slots"] == idle.slots > 0
    assert before["sglang_nemotron_state_slots_used"] == idle.slots_used == 0
    assert ask(server, prompt(1000, 90)) == 0
    rises(server, before, dict(zip(PROMPTS, (0, 90, 0), strict=True)))
    # the whole prompt but its last step lies in the cache
    before = numbers(server)
    cached = ask(server, prompt(1000, 90))
    assert 0 < cached < 90
    rises(server, before, {PROMPTS[0]: cached, PROMPTS[1]: 90 - cached})
    status, said = post(server.url, "/generate", {"input_ids": [10**9], "sampling_params": {"max_new_tokens": 1}})
    assert status == 400, said
    rises(server, before, {'sglang_nemotron_refusals_total{kind="prompt"}': 1.0})
    # what nobody has there is there all the same, once
    said = families(get(server.url + "/metrics"))
    assert [metric.name for metric in METRICS if sample(metric) not in said] == []


CHAT = "/v1/chat/completions"


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "x", "max_tokens": 4, "messages": [{"role": "user", "content": "Hello"}], **fields}


PARAMETERS = {"type": "object", "properties": {"at": {"$ref": "#/$defs/nowhere"}}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": PARAMETERS}}


@pytest.mark.server(OMNI)
@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        (CHAT, [], "body"),
        ("/generate", {"input_ids": [10**9], "sampling_params": {"max_new_tokens": 1}}, "prompt"),
        (
            "/v1/responses",
            {"model": OMNI_IDS[0], "input": [{"role": "user", "content": [{"type": "film"}]}]},
            "messages",
        ),
        (CHAT, chat(tools=[TOOL]), "tools"),
        (CHAT, chat(thinking_budget=-1), "budget"),
        (CHAT, chat(messages=[{"role": "user", "content": [part("image", b"none", "png"), text("?")]}]), "image"),
        (CHAT, chat(messages=[{"role": "user", "content": [part("audio", b"none", "wav"), text("?")]}]), "audio"),
        (
            CHAT,
            chat(messages=[{"role": "user", "content": [part("image", photo(), "jpeg")]}], video_max_frames=9999),
            "media_options",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_refusal_is_counted_once_and_under_its_kind(path: str, body: Any, kind: str, server: ServerProcess) -> None:
    before = numbers(server)
    status, said = post(server.url, path, body)
    assert status == 400, said
    expected = {name: 0.0 for name in before if name.startswith("sglang_nemotron_refusals_total")}
    rises(server, before, {**expected, f'sglang_nemotron_refusals_total{{kind="{kind}"}}': 1.0})


@pytest.mark.server(OMNI)
@pytest.mark.parametrize("closed", [True, False])
def test_a_budget_that_closes_a_block_is_counted(closed: bool, server: ServerProcess) -> None:
    before = numbers(server)
    budget = {"thinking_budget": 2 if closed else 400, "thinking_budget_grace_period": 0}
    status, said = post(server.url, CHAT, chat(max_tokens=16, ignore_eos=True, **budget))
    assert status == 200, said
    rises(server, before, {"sglang_nemotron_budgets_closed_total": float(closed)})


@pytest.mark.server(OMNI)
@pytest.mark.parametrize(
    ("kind", "item"),
    [
        ("image", lambda: part("image", photo(), "jpeg")),
        ("video", lambda: part("video", clip(), "mp4")),
        ("audio", lambda: part("audio", speech(), "wav")),
    ],
    ids=["image", "video", "audio"],
)
def test_media_are_timed_by_kind(kind: str, item: Any, server: ServerProcess) -> None:
    before = numbers(server)
    status, said = post(server.url, CHAT, chat(messages=[{"role": "user", "content": [item(), text("?")]}]))
    assert status == 200, said
    # a video may have sound, which is read with it
    counted = {f'{MEDIA_SECONDS.name}_count{{kind="{name}"}}': float(name == kind) for name in MEDIA_SECONDS.values}
    rises(server, before, counted)
    now = numbers(server)
    name = f'{MEDIA_SECONDS.name}_sum{{kind="{kind}"}}'
    assert now[name] > before[name]
    assert now["sglang_nemotron_media_workers"] > 0 == now["sglang_nemotron_media_workers_busy"]


# ---- the dashboard


def queries() -> Iterator[str]:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


@pytest.mark.server(OMNI)
def test_every_query_of_the_dashboard_finds_what_it_asks_for(server: ServerProcess) -> None:
    def wrong() -> dict[str, list[str]]:
        said = families(get(server.url + "/metrics"))
        return {query: found for query in queries() if (found := faults(query, said))}

    assert len(list(queries())) > 15
    # SGLang makes a row of a request's times with the first request
    post(server.url, CHAT, chat())
    eventually(lambda: not wrong(), net_s=LEAK_S)
    assert wrong() == {}
    # and a query for what is not there is seen
    said = families(get(server.url + "/metrics"))
    assert faults("sum(sglang_nemotron_state_slot)", said) == ["no metric sglang_nemotron_state_slot"]


def test_every_row_of_ours_is_on_the_dashboard() -> None:
    shown = " ".join(queries())
    assert [metric.name for metric in METRICS if metric.name not in shown] == []
