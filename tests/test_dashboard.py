"""The dashboard's file, and the reader of its queries, which sees what is wrong. tests/e2e asks a live server."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from support.promql import Family, Series, faults, series

ROOT = Path(__file__).parents[1]
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "sglang-nemotron.json"
THERE = {
    "x_total": Family("counter", {"kind": {"a"}}),
    "x": Family("gauge", {}),
    "t_bucket": Family("histogram", {"le": {"1"}}),
}


def dashboard() -> dict[str, Any]:
    return json.loads(DASHBOARD.read_text())


def test_the_reader_finds_every_selector() -> None:
    query = 'sum by (kind) (rate(a_total{kind="x", instance=~"$instance"}[5m])) * 60 - (b / max(sglang:c{}))'
    rated = Series("a_total", (("kind", "=", "x"), ("instance", "=~", "$instance")), ("kind",), True)
    assert series(query) == [rated, Series("b"), Series("sglang:c")]


@pytest.mark.parametrize(
    "query",
    [
        *("", "sum(", "sum(a))", "a b", "rate(a)", "rate(a[5m]", "deriv(a[5m])", "a{kind=}", "a{kind~'x'}", "a[5x]"),
        *("histogram_quantile(0.5, rate(a[5m]))", "histogram_quantile(0.5, sum by (x) (rate(a_bucket[5m])))", "a +"),
    ],
)
def test_what_is_no_query_is_refused(query: str) -> None:
    with pytest.raises(ValueError):
        series(query)


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("sum(y)", "no metric y"),
        ("sum(x_total)", "x_total is a counter, and is not put into a rate"),
        ("rate(x[5m])", "x is a gauge, and is put into a rate"),
        ('rate(x_total{sort="a"}[5m])', "x_total has no label sort"),
        ('rate(x_total{kind="b"}[5m])', "x_total has no kind 'b'"),
        ("sum by (le, kind) (rate(t_bucket[5m]))", "t_bucket has no label kind"),
    ],
)
def test_what_would_show_nothing_is_seen(query: str, fault: str) -> None:
    assert faults(query, THERE) == [fault]
    assert faults('sum by (instance) (rate(x_total{kind="a"}[5m]))', THERE) == []


def test_panels_have_queries_of_one_source_and_places_of_their_own() -> None:
    panels = dashboard()["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    sources = ROOT / "deploy" / "grafana" / "provisioning" / "datasources" / "prometheus.yaml"
    (source,) = re.findall(r"uid: (\w+)", sources.read_text())
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": source} and panel["description"].endswith(".")
            for target in panel["targets"]:
                assert series(target["expr"]) and target["legendFormat"]


def test_servers_can_be_chosen_and_sglangs_own_is_linked() -> None:
    found = dashboard()
    (variable,) = found["templating"]["list"]
    queries = [target["expr"] for panel in found["panels"] for target in panel.get("targets", ())]
    assert all(("instance", "=~", f"${variable['name']}") in one.matchers for query in queries for one in series(query))
    (link,) = found["links"]
    assert link["url"] in (DASHBOARD.parent / "README.md").read_text()
