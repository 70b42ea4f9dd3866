"""Plans of servers that ran on a card: their logs are committed, and every figure of theirs is what was planned."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sglang_nemotron.plan import gpus, models
from sglang_nemotron.plan.server import Flags, Server, start
from support.benchmark_scripts import BENCHMARKS, program

CONTEXT = 262_144
# what was promised is three in a hundred; what a start by hand comes to is this
CLOSE = 0.002


CHECK = program("gpu/plan_check.py")


def decode_log(checkpoint: str, side: str) -> str:
    """The log lines of one server of benchmarks/gpu_decode.json's second sitting."""
    runs = json.loads((BENCHMARKS / "gpu_decode.json").read_text())["sittings"][1]["runs"]
    (found,) = (run["sides"][side]["log"] for run in runs if run["checkpoint"] == checkpoint and side in run["sides"])
    return "\n".join(found)


def load_log(side: str, file: str = "gpu_load.json") -> str:
    return "\n".join(json.loads((BENCHMARKS / file).read_text())["sides"][side]["server"])


def omni_log() -> str:
    return "\n".join(json.loads((BENCHMARKS / "gpu_omni_workers.json").read_text())["sides"]["ours"]["log"])


BF16, FP8 = "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "NVIDIA-Nemotron-3-Nano-30B-A3B-FP8"
OMNI = "Nemotron-3-Nano-Omni-30B-A3B-BF16"
BENCH = {"context": CONTEXT, "mem_fraction": 0.85, "max_running_requests": 512, "radix_cache": False}
# (checkpoint, flags of its server, its log, figures that the log has at least)
SERVERS = {
    "bf16": (BF16, Flags(**BENCH), lambda: (BENCHMARKS / "gpu_server_h200_bf16.log").read_text(), 13),
    "bf16, graphs to 512": (BF16, Flags(**BENCH, graphs_to=512), lambda: decode_log("bf16", "few-rows"), 4),
    # that folder's config asked for no FP8 entries
    "fp8": (FP8, Flags(**BENCH, graphs_to=512, kv_dtype="bfloat16"), lambda: decode_log("fp8", "few-rows"), 4),
    # as SGLang starts it, and with our hint; neither was there when the rules were written
    "bf16, plain": (BF16, Flags(context=CONTEXT), lambda: load_log("in-tree"), 9),
    "bf16, hint": (BF16, Flags(context=CONTEXT, request_tokens=2048, graphs_to=512), lambda: load_log("ours"), 9),
    # the same of FP8
    "fp8, plain": (
        FP8,
        Flags(context=CONTEXT, kv_dtype="bfloat16"),
        lambda: load_log("fp8, SGLang's class, its defaults", "gpu_load_fp8.json"),
        9,
    ),
    "fp8, hint": (
        FP8,
        Flags(context=CONTEXT, kv_dtype="bfloat16", request_tokens=2048, graphs_to=512, max_running_requests=512),
        lambda: load_log("fp8, ours", "gpu_load_fp8.json"),
        9,
    ),
    # SGLang's own share of memory, with towers, a prefix cache and a cache of embeddings
    "omni": (OMNI, Flags(context=65_536, max_running_requests=64, graphs_to=64), omni_log, 4),
}


# its folder held a config and no weights, of which the split would have known
NO_FILES = {"fp8, hint"}


def server_of(name: str) -> Server:
    checkpoint, flags, _, _ = SERVERS[name]
    model = models.of_published(checkpoint)
    return start(gpus.find("h200"), replace(model, file_bytes=0) if name in NO_FILES else model, flags)


@pytest.mark.parametrize("name", SERVERS)
def test_a_plan_is_what_a_server_reported(name: str) -> None:
    _, _, log, at_least = SERVERS[name]
    server = server_of(name)
    rows = CHECK.deviations(server.as_reported(), CHECK.of_log(log()))
    assert len(rows) >= at_least
    off = {figure: row for figure, row in rows.items() if abs(row["off"]) > CLOSE}
    # what is left is a small difference of large figures, the 16 MiB of docs/plan.md where the KV pool is small, and
    # graphs of half a GB that the log gives in hundredths
    assert set(off) <= {"free_after_pools_gb", "kv_gb", "max_total_num_tokens", "graphs_gb"}, off
    assert all(abs(row["off"]) < 0.03 for row in off.values()), off
    if tokens := rows.get("max_total_num_tokens"):
        assert abs(tokens["planned"] - tokens["seen"]) * server.layout.kv_bytes_per_token < 20 * 2**20


def test_another_server_is_seen() -> None:
    checkpoint, _, log, _ = SERVERS["bf16"]
    wrong = Flags(context=CONTEXT, mem_fraction=0.88, max_running_requests=512, radix_cache=False)
    planned = start(gpus.find("h200"), models.of_published(checkpoint), wrong).as_reported()
    assert CHECK.deviations(planned, CHECK.of_log(log()))["max_total_num_tokens"]["off"] > 0.1


def test_the_parts_are_the_whole_gpu() -> None:
    for name in SERVERS:
        server = server_of(name)
        assert sum(server.memory.values()) == pytest.approx(143_771 / 1024), name
        assert min(server.memory.values()) >= 0, name


# ---- the program


@pytest.fixture
def plan_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    from sglang_nemotron.cli import main

    assert main(["plan", BF16, "--gpu", "h200", "--json"]) == 0
    file = tmp_path / "plan.json"
    file.write_text(capsys.readouterr().out)
    return file


def check(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["plan_check.py", *words])
    return CHECK.main()


def log_of(reported: dict[str, Any], scale: float) -> str:
    """What a server with these figures would log, its KV entries times `scale`."""
    tokens = round(reported["max_total_num_tokens"] * scale)
    return (
        f"Load weight end. elapsed=1 s, mem usage={reported['weights_gb']:.2f} GB.\n"
        f"max_total_num_tokens={tokens}, chunked_prefill_size=8192, max_prefill_tokens=16384, "
        f"max_running_requests={reported['max_running_requests']}, context_len=262144, available_gpu_mem=1.00 GB\n"
    )


@pytest.mark.parametrize(("scale", "code"), [(1.0, 0), (1.02, 0), (1.05, 1)])
def test_the_program_ends_with_its_verdict(
    scale: float, code: int, plan_json: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = json.loads(plan_json.read_text())["servers"]["plain"]["reported"]
    (tmp_path / "log").write_text(log_of(planned, scale))
    info = {"mem_fraction_static": planned["mem_fraction_static"], "internal_states": [{"max_running_requests": 138}]}
    (tmp_path / "info").write_text(json.dumps(info))
    out = tmp_path / "out.json"
    words = ("--plan", str(plan_json), "--log", str(tmp_path / "log"), "--server-info", str(tmp_path / "info"))
    assert check(monkeypatch, *words, "--server", "plain", "--out", str(out)) == code
    record = json.loads(out.read_text())
    assert record["within"] is (code == 0) and record["figures"]["mem_fraction_static"]["off"] == 0
    assert record["figures"]["max_total_num_tokens"]["off"] == pytest.approx(1 / scale - 1, abs=1e-4)


def test_an_empty_log_is_no_agreement(plan_json: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log").write_text("")
    words = ("--plan", str(plan_json), "--log", str(tmp_path / "log"), "--out", str(tmp_path / "out.json"))
    assert check(monkeypatch, *words) == 1


# ---- the page


def test_the_page_has_these_figures() -> None:
    page = (BENCHMARKS.parent / "docs" / "plan.md").read_text()
    for gpu in gpus.GPUS.values():
        assert f"| {gpu.label} | `{gpu.name}` | {gpu.total_mib:,} | {gpu.source} |" in page
    rows = re.findall(r"^\| .+ \| ([\d,]+) \| ([\d,]+) \| [\d.]+% \|$", page, re.M)
    for (name, (_, _, log, _)), (planned, reported) in zip(SERVERS.items(), rows, strict=True):
        made = server_of(name)
        assert made.pools is not None and f"{made.pools.num_tokens:,}" == planned
        assert f"#tokens: {reported.replace(',', '')}," in log()
