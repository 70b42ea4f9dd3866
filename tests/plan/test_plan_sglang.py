"""SGLang's own decisions about memory, by its own functions: on GPUs that are not there, ours are the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_nemotron.checkpoint.spec import OMNI_PRESETS, PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.plan import gpus, models, server
from sglang_nemotron.plan.server import Flags, Server, start
from support.children import end_with_parent
from support.waiting import NET_S

TESTS = Path(__file__).parents[1]
CONTEXT = 262_144
TEXT = models.of_published("NVIDIA-Nemotron-3-Nano-30B-A3B-BF16")


@pytest.mark.parametrize("chunk", [2048, 4096, 8192, 16384])
def test_prefill_graphs_are_counted_as_sglang_counts_them(chunk: int) -> None:
    from sglang.srt.arg_groups.cuda_graph_hook import generate_prefill_cuda_graph_batch_sizes

    assert server.prefill_buckets(chunk) == len(generate_prefill_cuda_graph_batch_sizes(chunk))


@pytest.mark.parametrize("post_capture", [False])
def test_towers_take_the_share_that_sglang_takes(post_capture: bool) -> None:
    from sglang.srt.arg_groups.memory_hook import adjust_mem_fraction_for_vlm

    from sglang_nemotron.host.hf_config_omni import NanoOmniConfig

    config = NanoOmniConfig(**json.loads((TESTS / "data" / "nano-omni-30b-a3b.config.json").read_text()))
    theirs = adjust_mem_fraction_for_vlm(0.9, SimpleNamespace(hf_config=config), post_capture, 143_771)
    sizes = {"tp_size": 1, "chunk": 8192, "graphs_to": 256}
    alone = round((143_771 - (512 + 8192 * 1.5 + 128 + 512)) / 143_771, 3)
    ours = server.mem_fraction_of(143_771, **sizes, has_towers=True)
    assert ours / alone == pytest.approx(theirs / 0.9)


@pytest.mark.parametrize("most", [None, 1, 256, 5000])
@pytest.mark.parametrize("context", [4096, 65_536, CONTEXT])
@pytest.mark.parametrize("name", ["h100", "h200", "dgx-spark"])
def test_requests_are_as_many_as_sglang_admits(
    name: str, context: int, most: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sglang.srt.mem_cache import kv_cache_configurator as theirs

    made = start(gpus.find(name), TEXT, Flags(context=context, max_running_requests=most))
    assert made.pools is not None
    schedule = SimpleNamespace(max_running_requests=most, max_mamba_cache_size=made.pools.num_slots)
    monkeypatch.setattr(theirs, "get_schedule", lambda: schedule)
    configurator: Any = SimpleNamespace(
        model_config=SimpleNamespace(context_len=context),
        attn_dp_size=1,
        mambaish_config=object(),
        _calculate_mamba_ratio=lambda: 5,
    )
    admitted = theirs.KVCacheConfigurator.resolve_max_num_reqs(configurator, made.pools.num_tokens)
    assert made.max_running_requests == admitted


# ---- the whole resolution of arguments, in a process of its own


# (checkpoint, GPU, ranks, hint, most requests, batches of the graphs)
CASES = [
    *(("text", name, tp, hint, None, None) for name in gpus.GPUS for tp, hint in ((1, None), (4, 2048))),
    *(
        ("omni", name, tp, hint, 64, None)
        for name in ("h100", "h200", "b200", "l40s")
        for tp, hint in ((1, None), (2, 4096))
    ),
    ("text", "h200", 1, 8192, 512, 512),
    ("text", "h200", 1, 2048, 100, None),
]


def checkpoint(base: Path, kind: str) -> Path:
    # heads that four ranks can share
    spec = {"text": PRESETS, "omni": OMNI_PRESETS}[kind]["small"]
    if not (folder := base / kind).exists():
        write_checkpoint(replace(spec, num_attention_heads=8), folder)
    return folder


@pytest.fixture(scope="module")
def resolved(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Server, dict[str, Any]]]:
    """(ours, SGLang's) of every case."""
    base, lines, planned = tmp_path_factory.mktemp("planted"), [], []
    for kind, name, tp, hint, most, graphs_to in CASES:
        folder, gpu = checkpoint(base, kind), gpus.GPUS[name]
        argv = ["--model-path", str(folder), "--tp-size", str(tp)]
        argv += ["--max-running-requests", str(most)] if most else []
        argv += ["--cuda-graph-max-bs-decode", str(graphs_to)] if graphs_to else []
        lines.append({"argv": argv, "mib": gpu.total_mib, "capability": gpu.capability, "hint": hint})
        model = models.find(str(folder))
        flags = Flags(tp_size=tp, context=model.decoder.max_positions, request_tokens=hint)
        planned.append(start(gpu, model, replace(flags, max_running_requests=most, graphs_to=graphs_to)))
    done = subprocess.run(
        [sys.executable, "-m", "support.planted_gpu"],
        input="\n".join(map(json.dumps, lines)),
        capture_output=True,
        text=True,
        timeout=NET_S,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])},
        preexec_fn=end_with_parent,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(theirs) == len(planned)
    return list(zip(planned, theirs, strict=True))


@pytest.mark.matrix
@pytest.mark.parametrize("at", range(len(CASES)), ids=lambda at: "-".join(map(str, CASES[at])))
def test_arguments_resolve_to_what_was_planned(at: int, resolved: list[tuple[Server, dict[str, Any]]]) -> None:
    ours, theirs = resolved[at]
    assert ours.mem_fraction == pytest.approx(theirs["mem_fraction_static"])
    assert (ours.chunk_tokens, ours.graphs_to) == (theirs["chunked_prefill_size"], theirs["graphs_to"])
    assert ours.strategy == theirs["mamba_radix_cache_strategy"]
    # where nobody says one, SGLang falls back to it later
    assert ours.ratio == pytest.approx(theirs["mamba_full_memory_ratio"] or 0.9)
    assert ours.embedding_cache_mb == theirs["embedding_cache_mb"]
