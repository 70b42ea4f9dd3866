"""Pictures of `bench`: which lines there are, where their points lie by the SVG itself, and the same bytes again."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from sglang_nemotron.bench import plots, records
from sglang_nemotron.bench.records import Run, Timed
from sglang_nemotron.bench.statistics import summarise
from sglang_nemotron.cli import main
from support.fake_bench import MODEL, FakeBench, fake_bench

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def matplotlib() -> None:
    """What draws. In CI it must be there, as it is in the lock."""
    if importlib.util.find_spec("matplotlib") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("matplotlib is not installed; the extra dev has it")


def some_run(concurrency: int, round_: int = 0, slow: float = 1.0, server: str = "http://a") -> Run:
    """Four requests in 6 s and their like: 2 tokens a second, 500 ms to the first, 1,500 ms in all, times `slow`."""
    requests = tuple(
        Timed(10, 3, start_s=float(number), ttft_s=0.5 * slow, latency_s=1.5 * slow, itl_s=(0.5 * slow, 0.5 * slow))
        for number in range(4)
    )
    return Run(server, concurrency, round_, "own", 4, requests, summarise(requests, 6.0 * slow))


BY_NAME = {
    "A": [some_run(1), some_run(4), some_run(4, 1, slow=2.0), some_run(16, slow=4.0)],
    "B": [some_run(4, slow=0.5, server="http://b"), replace(some_run(9, server="http://b"), summary=None)],
}


def test_points_are_medians_with_their_range() -> None:
    found = plots.points(BY_NAME["A"] + BY_NAME["B"], "output_throughput")
    assert found == {
        "http://a": [(1, 2.0, 2.0, 2.0), (4, 1.5, 1.0, 2.0), (16, 0.5, 0.5, 0.5)],
        "http://b": [(4, 4.0, 4.0, 4.0)],
    }


def test_where_nothing_can_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="end it with .svg, .png, .pdf"):
        plots.check(tmp_path / "x.bmp")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match="remedy: pip install 'matplotlib>=3.9', or"):
        plots.check(tmp_path / "x.svg")


@pytest.mark.parametrize("kind", plots.KINDS)
def test_the_same_runs_give_the_same_bytes(kind: str, tmp_path: Path, matplotlib: None) -> None:
    files = [tmp_path / f"{name}{kind}" for name in ("one", "two")]
    for file in files:
        plots.check(file)
        plots.draw(BY_NAME, file, "title")
    first, second = (file.read_bytes() for file in files)
    assert first == second and first[:4] in (b"<?xm", b"\x89PNG", b"%PDF")
    # no date, which would differ tomorrow
    assert not re.search(rb"CreationDate|dc:date|20\d\d-\d\d-\d\d", first)
    plots.draw({**BY_NAME, "B": []}, files[1], "title")
    assert files[1].read_bytes() != first


class Panel:
    """One of the three, read from the SVG: its words, and what a place in it means on its axes."""

    def __init__(self, axes: ET.Element) -> None:
        self.axes = axes
        self.words = [text.text or "" for text in axes.iter(f"{SVG}text")]
        x, y = self._ticks("xtick", "x"), self._ticks("ytick", "y")
        (first, at), (last, to) = min(x), max(x)
        # doubled concurrencies lie evenly
        self._x = lambda place: 2 ** (math.log2(first) + (place - at) / (to - at) * math.log2(last / first))
        (low, bottom), (high, top) = min(y), max(y)
        self._y = lambda place: low + (place - bottom) / (top - bottom) * (high - low)
        self.concurrencies, self.least = sorted(label for label, _ in x), low

    def _ticks(self, name: str, axis: str) -> list[tuple[float, float]]:
        found = []
        for group in self.axes.iter(f"{SVG}g"):
            label = next(group.iter(f"{SVG}text"), None)
            if group.get("id", "").startswith(name) and label is not None:
                (use,) = group.iter(f"{SVG}use")
                found.append((float((label.text or "").replace("\N{MINUS SIGN}", "-")), float(use.get(axis, "nan"))))
        return found

    def lines(self) -> set[str]:
        """Names of what was drawn."""
        return {name for group in self.axes.iter(f"{SVG}g") if "-" in (name := group.get("id", ""))}

    def points(self, name: str) -> list[tuple[float, float]]:
        """(concurrency, value) of each point of a line, or of both ends of each range."""
        (group,) = [group for group in self.axes.iter(f"{SVG}g") if group.get("id") == name]
        found = []
        for path in group.findall(f"{SVG}path"):
            places = re.findall(r"[ML] ([\d.]+) ([\d.]+)", path.get("d", ""))
            found += [(self._x(float(x)), self._y(float(y))) for x, y in places]
        return found


@pytest.fixture
def panels(tmp_path: Path, matplotlib: None) -> list[Panel]:
    plots.draw(BY_NAME, tmp_path / "x.svg", "what was asked")
    root = ET.parse(tmp_path / "x.svg").getroot()
    assert "what was asked" in [text.text for text in root.iter(f"{SVG}text")]
    return [Panel(group) for group in root.iter(f"{SVG}g") if group.get("id", "").startswith("axes_")]


# what stands over a panel, and its lines: field of the summary -> kind that the legend gives it
PANELS = [
    ("output tokens a second", {"output_throughput": ""}),
    ("time to first token, ms", {"median_ttft_ms": " median", "p99_ttft_ms": " p99"}),
    ("end-to-end latency, ms", {"median_e2e_latency_ms": " median", "p99_e2e_latency_ms": " p99"}),
]


def test_axes_and_legends(panels: list[Panel]) -> None:
    assert len(panels) == len(PANELS)
    for panel, (title, fields) in zip(panels, PANELS, strict=True):
        assert title in panel.words and "requests at once" in panel.words
        # each concurrency that something answered at has its own tick, and values begin at nothing
        assert panel.concurrencies == [1, 4, 16] and panel.least == 0
        assert panel.lines() == {
            f"{field}-{number}{what}" for field in fields for number in (0, 1) for what in ("", "-range")
        }
        assert [word for word in panel.words if word[:1] in ("A", "B")] == [
            name + kind for kind in fields.values() for name in BY_NAME
        ]


def test_points_lie_where_they_belong(panels: list[Panel]) -> None:
    for panel, (_, fields) in zip(panels, PANELS, strict=True):
        for field in fields:
            for number, runs in enumerate(BY_NAME.values()):
                ((expected),) = plots.points(runs, field).values()
                line = panel.points(f"{field}-{number}")
                # a line of one point has no path, and a marker alone
                if len(expected) > 1:
                    assert [at for at, _ in line] == pytest.approx([at for at, *_ in expected], rel=1e-3)
                    assert [value for _, value in line] == pytest.approx([mid for _, mid, *_ in expected], rel=1e-3)
                ends = panel.points(f"{field}-{number}-range")
                assert [value for _, value in ends] == pytest.approx(
                    [end for _, _, low, high in expected for end in (low, high)], rel=1e-3
                )


def test_a_shifted_point_is_seen(panels: list[Panel]) -> None:
    """The reading of a picture itself: what stands at 4 requests does not pass for another value."""
    seen = dict((round(at), value) for at, value in panels[0].points("output_throughput-0"))
    assert seen[4] == pytest.approx(1.5, rel=1e-3) and seen[4] != pytest.approx(1.51, rel=1e-3)


# ---- through the commands


def texts(file: Path) -> list[str]:
    return [text.text or "" for text in ET.parse(file).getroot().iter(f"{SVG}text")]


def test_a_measurement_is_drawn(tmp_path: Path, matplotlib: None, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.svg"
    few = ["--num-prompts", "3", "--input-len", "8", "--output-len", "4", "--range-ratio", "1", "--concurrency", "1,2"]
    with fake_bench(FakeBench()) as url:
        assert main(["bench", "speed", url, *few, "--plot", str(file)]) == 0
    assert f"wrote {file}" in capsys.readouterr().err
    assert {f"{MODEL}, 8 in, 4 out", "1", "2", "median", "p99"} <= set(texts(file))


def test_a_comparison_is_drawn(tmp_path: Path, matplotlib: None) -> None:
    files = [tmp_path / name for name in ("a.json", "b.json")]
    for file, (name, runs) in zip(files, BY_NAME.items(), strict=True):
        about = {"date": "today", "servers": [{"url": runs[0].server, "model": f"model {name}"}]}
        file.write_text(json.dumps(records.raw(runs, about)))
    assert main(["bench", "compare", *map(str, files), "--plot", str(tmp_path / "both.svg")]) == 0
    words = texts(tmp_path / "both.svg")
    assert "A and B" in words and "A model A at http://a median" in words and "B model B at http://b p99" in words
