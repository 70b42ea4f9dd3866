"""Draws the plots of docs/plots.md from the committed raw JSON, and from nothing else.

    python benchmarks/plots.py          # writes docs/plots/*.svg
    python benchmarks/plots.py --check  # exits 1 if a committed plot is not what the JSON gives

Needs matplotlib (requirements/site.txt has the release that drew the committed ones: other releases draw other bytes).
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "docs" / "plots"
DECODE, FLOOR, MEDIA = HERE / "gpu_decode.json", HERE / "decode_floor.json", HERE / "preprocess_omni.json"
SOAKS = {"soak-text": HERE / "soak_text.json", "soak-omni": HERE / "soak_omni.json"}
# plot -> what it is drawn from; each file says so in its description
SOURCES = {"decode": (DECODE, FLOOR), "prefill": (DECODE,), "media": (MEDIA,)}
SOURCES |= {name: (file,) for name, file in SOAKS.items()}
# readable on white and on black
GREY, OURS, THEIRS, LIMIT = "#7f8794", "#5a9e2f", "#c2603f", "#7f8794"
BLUE, PURPLE = "#4c78a8", "#b279a2"
TITLES = {"bf16": "BF16", "fp8": "FP8"}

Points = dict[int, float]


def described(name: str) -> str:
    """Files and digests that a plot is drawn from."""
    parts = (f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()[:16]}" for file in SOURCES[name])
    return "drawn by benchmarks/plots.py from " + ", ".join(parts)


def rows_of(checkpoint: str, side: str, what: str) -> Points:
    """Tokens a second by batch, of the sitting in which both sides ran."""
    _, sitting, _ = json.loads(DECODE.read_text())["sittings"]
    (run,) = (run for run in sitting["runs"] if run["checkpoint"] == checkpoint and side in run["sides"])
    return {row["batch"]: row[what] for row in run["sides"][side]["rows"]}


def ours(checkpoint: str, what: str) -> Points:
    """Ours, as it serves by default; FP8 alone has its batch of 1 in a later sitting, as it was mended between."""
    *_, last = json.loads(DECODE.read_text())["sittings"]
    later = {row["bs"]: row[what] for row in last["sides"].get(f"{checkpoint}, ours", {"rows": []})["rows"]}
    return rows_of(checkpoint, "few-rows", what) | later


def draw_speed(figure: Any, what: str) -> None:
    """Two panels, BF16 and FP8: tokens a second against requests at once."""
    floors = json.loads(FLOOR.read_text())["tokens_per_second"]
    for axes, checkpoint in zip(figure.subplots(1, 2), TITLES, strict=True):
        sides = [("SGLang's class", THEIRS, "o-", rows_of(checkpoint, "in-tree", what))]
        sides.append(("ours", OURS, "s-", ours(checkpoint, what)))
        if what == "decode":
            floor = {int(batch): number for batch, number in floors[checkpoint].items()}
            sides.append(("floor, computed", LIMIT, "--", floor))
        for label, color, style, points in sides:
            batches = sorted(points)
            axes.plot(batches, [points[batch] for batch in batches], style, color=color, label=label, markersize=4)
        axes.set_xscale("log", base=2)
        axes.set_xticks([1, 32, 128, 256, 512], ["1", "32", "128", "256", "512"])
        axes.set_ylim(bottom=0)
        axes.set_title(TITLES[checkpoint])
        axes.set_xlabel("requests at once")
    figure.axes[0].set_ylabel(f"{what}, tokens a second")


def draw_media(figure: Any) -> None:
    """Bars: seconds of the whole request, medians."""
    axes = figure.subplots()
    requests = json.loads(MEDIA.read_text())["requests"]
    for place, (side, label, color) in enumerate((("in-tree", "SGLang's", THEIRS), ("ours", "ours", OURS))):
        seconds = [statistics.median(request[side]["seconds"]) for request in requests.values()]
        bars = axes.barh([at + 0.38 * place for at in range(len(requests))], seconds, 0.36, color=color, label=label)
        axes.bar_label(bars, [f"{number:.3g} s" for number in seconds], padding=3, color=GREY, fontsize=8)
    axes.set_yticks([at + 0.19 for at in range(len(requests))], list(requests))
    axes.set_xlim(right=3.1)
    axes.invert_yaxis()
    axes.set_xlabel("seconds of a request before the model")


def draw_soak(figure: Any, name: str) -> None:
    """Two panels over minutes: private memory of each process, and what of the caches is held."""
    series = json.loads(SOAKS[name].read_text())["series"]
    minutes = [seconds / 60 for seconds in series["seconds"]]
    memory, slots = figure.subplots(1, 2)
    colors = {"http": OURS, "scheduler": THEIRS, "detokenizer": BLUE, "media worker": PURPLE}
    for role, sizes in series["private MB"].items():
        if role == "others":
            # the tracker of resources, some MB
            continue
        color = colors[role]
        memory.plot(minutes, sizes, color=color, label=role, linewidth=1)
    memory.set_ylabel("private memory, MB")
    gauges = series["gauges"]
    slots.plot(minutes, gauges["states_kept"], color=LIMIT, label="states kept for prefixes", linewidth=1)
    slots.plot(minutes, gauges["slots_used"], color=OURS, label="state slots held", linewidth=1)
    slots.plot(minutes, gauges["running"], color=THEIRS, label="requests that run", linewidth=1)
    # what an idle server holds: the line that a leak would lift
    rests = [at for at, idle in enumerate(series["idle"]) if idle]
    held = [gauges["slots_used"][at] for at in rests]
    slots.plot([minutes[at] for at in rests], held, ".", color=BLUE, label="slots held at rest", markersize=3)
    for axes in (memory, slots):
        axes.set_ylim(bottom=0)
        axes.set_xlabel("minutes")


def drawn(name: str) -> bytes:
    """The plot as SVG; equal bytes for equal JSON."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib.figure import Figure

    shades = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), GREY)
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "font.size": 9, **shades}):
        figure = Figure(figsize=(8, 3.4), layout="constrained")
        draw: Callable[[Any], None] = draw_media if name == "media" else lambda it: draw_speed(it, name)
        if name in SOAKS:
            draw = lambda it: draw_soak(it, name)  # noqa: E731
        draw(figure)
        for axes in figure.axes:
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_facecolor("none")
            axes.legend(frameon=False)
        file = io.BytesIO()
        metadata = {"Date": None, "Creator": None, "Description": described(name)}
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    return b"\n".join(line.rstrip() for line in file.getvalue().splitlines()) + b"\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with what is committed, and write nothing")
    check = parser.parse_args().check
    stale = []
    for name in SOURCES:
        path, plot = OUT / f"{name}.svg", drawn(name)
        if not check:
            path.write_bytes(plot)
        elif not path.exists() or path.read_bytes() != plot:
            stale.append(str(path.relative_to(HERE.parent)))
    if stale:
        print(f"not what the JSON gives: {', '.join(stale)}; run python benchmarks/plots.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
