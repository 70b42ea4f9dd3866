"""A whole plan: what fits, which flags and speeds, what is said of what nobody measured; mistakes in two lines."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sglang_nemotron.plan import gpus, media, models, offers, speeds
from sglang_nemotron.plan.make import Plan, Workload, make
from sglang_nemotron.plan.media import Media
from sglang_nemotron.plan.server import Flags, start
from sglang_nemotron.state.capacity import REQUEST_TOKENS
from support.benchmark_scripts import BENCHMARKS, program
from support.published import SPEC

CONTEXT = 262_144
NOTHING = Media()
BF16, FP8 = "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "NVIDIA-Nemotron-3-Nano-30B-A3B-FP8"
OMNI, NVFP4 = "Nemotron-3-Nano-Omni-30B-A3B-BF16", "Nemotron-3-Nano-Omni-30B-A3B-NVFP4"
OMNI_FP8 = "Nemotron-3-Nano-Omni-30B-A3B-FP8"


def plan(
    name: str = BF16,
    gpu: str = "h200",
    *,
    count: int = 1,
    load: tuple[int, int, int] = (1024, 1024, 256),
    seen: Media = NOTHING,
    context: int = CONTEXT,
) -> Plan:
    flags = Flags(tp_size=count, context=context)
    return make(gpus.find(gpu), count, models.of_published(name), Workload(*load, seen), flags)


def flags_of(made: Plan) -> dict[str, str]:
    return {choice.name: choice.value for choice in made.choices}


# ---- what fits


def test_the_hint_runs_three_times_as_many() -> None:
    made = plan(load=(1024, 1024, 512))
    assert (made.plain.at_once(made.tokens), made.plain.slots_each) == (138, 5)
    assert (made.advised.at_once(made.tokens), made.advised.slots_each) == (445, 3)
    assert made.fits and any("445 of 512 requests run at once" in remark for remark in made.remarks)
    # no more than these will run, and each batch of theirs has a graph
    flags = flags_of(made)
    assert flags[REQUEST_TOKENS] == "2048" and flags["--cuda-graph-max-bs-decode"] == "445"
    assert "--max-running-requests" not in flags


def test_what_comes_is_what_is_made_room_for() -> None:
    made = plan(load=(1024, 1024, 100))
    flags = flags_of(made)
    assert made.advised.max_running_requests == 100 and flags["--max-running-requests"] == "100"
    assert "--cuda-graph-max-bs-decode" not in flags and "--context-length" not in flags and "--tp" not in flags
    # what they do not need keeps prefixes
    assert made.advised.pools is not None and made.advised.pools.num_slots > 5 * 100
    assert made.command.startswith(
        f"{REQUEST_TOKENS}=2048 sglang serve --model-path nvidia/{BF16} --max-running-requests 100 "
    )


def test_every_slot_has_its_use() -> None:
    made = plan(load=(1024, 1024, 100))
    assert made.advised.slots_by_use() == {"running": 100, "tracking": 100, "cached": 1006, "padding": 1}
    assert made.plain.slots_by_use() == {"running": 138, "tracking": 276, "cached": 276, "padding": 1}
    for server in (made.advised, made.plain):
        assert server.pools is not None and sum(server.slots_by_use().values()) == server.pools.num_slots + 1
    assert sum(plan(gpu="a100-40").advised.slots_by_use().values()) == 0


def test_several_gpus_share_the_weights() -> None:
    alone, shared = plan(gpu="h100"), plan(gpu="h100", count=4)
    assert shared.advised.memory["weights"] < alone.advised.memory["weights"] / 3.9
    assert (shared.plain.at_once(2048), alone.plain.at_once(2048)) == (396, 12)
    assert flags_of(shared)["--tp"] == "4" and any("several GPUs" in remark for remark in shared.remarks)


def test_a_model_that_does_not_fit_says_what_would() -> None:
    made = plan(gpu="a100-40")
    said = " ".join(made.remarks)
    assert not made.fits and made.advised.at_once(2048) == 0
    assert "no server starts: the weights need" in said and "--count 2" in said
    # no A100 serves FP8, and nothing is said of graphs of a server that is none
    assert FP8 not in said and "graphs" not in said
    assert f"on this one starts nvidia/{FP8}" in plan(gpu="l40s").remarks
    json.dumps(made.as_json())


def test_graphs_reach_what_runs_and_no_further() -> None:
    for name, gpu, count in ((FP8, "l40s", 1), (BF16, "l40s", 2), (BF16, "h200", 1), (OMNI_FP8, "l40s", 2)):
        made = plan(name, gpu, count=count, load=(1024, 1024, 512))
        assert made.advised.flags.graphs_to == made.advised.at_once(made.tokens), (name, gpu)


# ---- shares of memory


def with_share(share: float, name: str = BF16, gpu: str = "h200") -> Plan:
    flags = Flags(context=CONTEXT, mem_fraction=share)
    return make(gpus.find(gpu), 1, models.of_published(name), Workload(1024, 1024, 8), flags)


def test_a_share_that_is_too_small_says_which_would_do() -> None:
    said = with_share(0.3).remarks
    assert said[0] == "no server starts: --mem-fraction-static 0.3 gives 41.7 GiB, and the weights take 58.9"
    (way,) = [remark for remark in said if "--mem-fraction-static" in remark and "or more" in remark]
    assert way == "leave it out, or give --mem-fraction-static 0.43 or more"
    assert not with_share(0.42).fits and with_share(0.43).fits


def test_a_share_that_leaves_nothing_to_compute_in() -> None:
    assert "--mem-fraction-static 0.95 leaves 6.6 GiB for activations; SGLang's own, 0.907, leaves 12.5" in (
        with_share(0.95).remarks
    )
    assert not any("activations" in remark for remark in with_share(0.9).remarks)
    made = with_share(0.999)
    assert (
        not made.fits
        and made.remarks[0] == "no server starts: --mem-fraction-static 0.999 leaves nothing for activations"
    )
    # what would do is less
    assert any("0.43 or more" in remark for remark in made.remarks)


@pytest.mark.parametrize("gpu", ["h100", "a100-80"])
def test_where_towers_leave_no_room_the_share_of_text_does(gpu: str) -> None:
    made = plan(OMNI, gpu, load=(1024, 1024, 4))
    assert not made.plain.starts and made.fits and flags_of(made)["--mem-fraction-static"] == "0.83"
    assert (
        made.advised.mem_fraction
        == start(gpus.find(gpu), models.of_published(BF16), Flags(context=CONTEXT)).mem_fraction
    )
    assert any(remark.startswith("without these flags no server starts") for remark in made.remarks)
    # and nobody is told so where SGLang's own does
    assert "--mem-fraction-static" not in flags_of(plan(OMNI, "h200")) | flags_of(plan(OMNI, gpu, count=2))


def test_a_whole_context_that_does_not_fit_is_said() -> None:
    made = plan(NVFP4, "rtx-pro-6000", load=(100_000, 1000, 4))
    assert made.advised.pools is not None and made.advised.pools.num_tokens > CONTEXT
    small = make(
        gpus.other(30_000),
        1,
        models.of_published(NVFP4),
        Workload(1000, 100, 1),
        Flags(context=CONTEXT, mem_fraction=0.85),
    )
    assert small.fits and small.advised.pools is not None and small.advised.pools.num_tokens < CONTEXT
    assert any("does not fit" in remark and "--context" in remark for remark in small.remarks)


@pytest.mark.parametrize(
    ("name", "gpu", "said"),
    [
        (NVFP4, "h100", "has no FP4 units"),
        (BF16, "h100", "was not measured on 1 x H100"),
        (FP8, "l40s", "CUDA graphs up to"),
    ],
)
def test_what_nobody_measured_is_said(name: str, gpu: str, said: str) -> None:
    assert any(said in remark for remark in plan(name, gpu).remarks)


@pytest.mark.parametrize(
    ("name", "gpu", "count", "message"),
    [
        (NVFP4, "b200", 8, r"232 columns of an NVFP4 expert(.|\n)*remedy: give --count one of 1, 2, 4$"),
        (FP8, "a100-80", 1, r"from compute capability 8.9 on, and an A100 has 8.0\n  remedy: choose BF16 weights"),
        (FP8, "a100-40", 1, r"from compute capability 8.9 on, and an A100 has 8.0\n  remedy: choose BF16 weights"),
        (NVFP4, "l40s", 1, r"NVFP4 requires Blackwell hardware(.|\n)*remedy: choose B200, H100 or H200"),
        (OMNI_FP8, "l40s", 1, r"TP 1 is not supported on L40S(.|\n)*remedy: choose TP 2 or more"),
        (BF16, "dgx-spark", 2, r"a DGX Spark has one GPU(.|\n)*remedy: choose TP 1"),
    ],
)
def test_what_no_server_would_load_is_refused(name: str, gpu: str, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(gpus.find(gpu), count, models.of_published(name), Workload(1024, 1024, 8), Flags(context=CONTEXT))


@pytest.mark.parametrize("total_mib", [1, 500, 1_322, 1_400])
def test_a_card_with_nothing_to_give_starts_nothing(total_mib: int) -> None:
    planned = start(gpus.other(total_mib), models.of_published(FP8), Flags(context=CONTEXT))
    assert planned.pools is None and planned.max_running_requests == 0 and planned.reason


def test_on_an_h200_nothing_needs_to_be_said() -> None:
    assert plan().remarks == () and plan(FP8).remarks == ()


@pytest.mark.parametrize("gpu", gpus.GPUS)
@pytest.mark.parametrize("name", models.PUBLISHED)
def test_every_gpu_with_every_checkpoint(name: str, gpu: str) -> None:
    model = models.of_published(name)
    if offers.refusal_of_format(gpus.GPUS[gpu], model, 1) or (name, gpu) == (OMNI_FP8, "l40s"):
        with pytest.raises(ValueError, match=r"\n  remedy: choose "):
            plan(name, gpu, load=(1024, 256, 8), context=32_768)
        return
    made = plan(name, gpu, load=(1024, 256, 8), context=32_768)
    assert sum(made.advised.memory.values()) == pytest.approx(made.gpu.total_mib / 1024)
    assert isinstance(made.speed, str) == (gpu != "h200" or "Omni" in name)
    # a server that starts keeps something for activations
    assert not made.fits or made.advised.memory["left for activations"] > 1
    json.dumps(made.as_json())


# ---- mistakes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"count": 3}, "mamba_num_heads=64 cannot be split over tp_size=3.*\n  remedy: give --count one of 1, 2, 4, 8"),
        ({"load": (CONTEXT, 1, 1)}, "a request takes 262,145 tokens.*and the context is 262,144\n  remedy: "),
        ({"context": CONTEXT + 1}, "--context is 262,145, and the checkpoint promises 262,144\n  remedy: "),
        ({"seen": Media(images=1)}, "this is a text model\n  remedy: "),
    ],
)
def test_mistakes_are_two_lines(changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        plan(**changes)
    assert str(caught.value).count("\n") == 1


# ---- media


def test_media_count_as_a_server_counts_them() -> None:
    made = media.tokens_of(Media(images=2, video_s=10, audio_s=30), SPEC, 65_536)
    # 1080p: 34 x 60 tokens; 20 frames are 10 tubelets of 14 x 18 tokens, of which 30 % are kept; 375 tokens of sound
    assert made["images"] == 2 * (2040 + 2)
    assert made["audio"] == 375 + 2
    assert made["video"] == int(10 * _frame_tokens() * (1 - SPEC.video.pruning_rate)) + 10 * 2
    assert media.tokens_of(Media(), None, 1) == {}
    total = plan(OMNI, seen=Media(images=2), context=65_536)
    assert total.tokens == 2048 + made["images"] and flags_of(total)[REQUEST_TOKENS] == str(total.tokens)


def _frame_tokens() -> int:
    from sglang_nemotron.media.video.sampling import video_grid

    rows, columns = video_grid(1920, 1080, SPEC.video)
    return rows * columns // 4


def test_a_checkpoint_without_ears() -> None:
    with pytest.raises(ValueError, match="has no sound encoder"):
        media.tokens_of(Media(audio_s=1), replace(SPEC, audio=None, sound=None), 65_536)


# ---- speeds


def test_speeds_are_those_of_the_committed_measurements() -> None:
    assert json.loads(speeds.FILE.read_text()) == program("plan_speeds.py").table()


def test_numbers_in_the_docs_are_the_same() -> None:
    text = (Path(__file__).parents[2] / "docs" / "numbers.md").read_text()
    for series, at in zip(speeds.table(), (3, 6), strict=True):
        for row in series["rows"]:
            rows = re.findall(rf"^\| {row['batch']} \|(?: [\d,]* \|){{6}}$", text, re.MULTILINE)
            (line,) = rows
            assert line.split("|")[at].strip() == f"{row['decode']:,}"


def expected(batch: int, **changes: object) -> speeds.Speed | str:
    load = {"gpu": "h200", "kind": "text", "quantization": "none", "tp_size": 1, "prompt": 1024, "answer": 1024}
    return speeds.expected(batch=batch, **(load | changes))


def test_between_two_measured_batches_it_is_interpolated() -> None:
    low, high, between = expected(128), expected(512), expected(256)
    assert isinstance(low, speeds.Speed) and isinstance(high, speeds.Speed) and isinstance(between, speeds.Speed)
    assert low.between == (128, 128) and (low.decode_off, low.prefill_off, low.steady_off) == (0, 0, 0)
    # the middle of two, on logarithms of both, is a geometric mean
    (series,) = [row for row in speeds.table() if row["quantization"] == "none"]
    curve = {row["batch"]: row["decode"] for row in series["rows"] if row["batch"] != 256}
    assert speeds.decode_at(curve, 256) == pytest.approx((low.decode * high.decode) ** 0.5)
    # rounds of prompts: between 100 in 1 s and 300 in 5 s, 200 take 3 s
    assert speeds.prefill_at({100: 100.0, 300: 60.0}, 200) == pytest.approx(200 / 3)
    # one token of an answer costs its own step and a prompt token's share of a prefill
    some = expected(200)
    assert isinstance(some, speeds.Speed) and some.between == (128, 256)
    assert 1 / some.steady == pytest.approx(1 / some.decode + 1 / some.prefill)
    assert low.decode < some.decode < between.decode and some.steady_off == max(some.decode_off, some.prefill_off) > 0


def every_curve(name: str) -> dict[str, dict[int, float]]:
    """Of every sitting and side of the committed measurements; name: decode or prefill."""
    found = {}
    for at, sitting in enumerate(json.loads((BENCHMARKS / "gpu_decode.json").read_text())["sittings"]):
        sides = [(f"{at} {side}", said["rows"]) for side, said in sitting.get("sides", {}).items()]
        for run in sitting.get("runs", ()):
            sides += [(f"{at} {run['checkpoint']} {side}", said["rows"]) for side, said in run["sides"].items()]
        found |= {side: {row.get("batch", row.get("bs")): row[name] for row in rows} for side, rows in sides}
    return {side: curve for side, curve in found.items() if len(curve) > 2}


def straight(curve: speeds.Curve, batch: int) -> float:
    """What was here before: a straight line between two rates."""
    low, high = speeds.neighbours(curve, batch)
    return curve[low] + (curve[high] - curve[low]) * (batch - low) / (high - low)


@pytest.mark.parametrize(
    ("name", "rule", "most"), [("decode", speeds.decode_at, 0.23), ("prefill", speeds.prefill_at, 0.22)]
)
def test_a_batch_that_was_left_out(name: str, rule: Callable[[speeds.Curve, int], float], most: float) -> None:
    """Each measured batch from its neighbours, over every committed series: how far off a figure between may be."""
    curves = every_curve(name)
    assert len(curves) == 7
    ours = [off for curve in curves.values() for off in speeds.left_out(curve, rule).values()]
    before = [off for curve in curves.values() for off in speeds.left_out(curve, straight).values()]
    assert len(ours) == 19 and max(map(abs, ours)) < most < max(map(abs, before))
    assert sum(map(abs, ours)) < 0.6 * sum(map(abs, before))
    # the page states both bounds
    page = (BENCHMARKS.parent / "docs" / "plan.md").read_text()
    said, _, of_straight = page.replace("\n", " ").partition("Straight lines between rates would be off by ")
    assert f"{name} was off by at most {max(map(abs, ours)):.0%}" in said
    assert f"{max(map(abs, before)):.0%}" in of_straight[:12]


def test_the_error_that_is_shown_is_that_of_the_series() -> None:
    for series in speeds.table():
        some = expected(64, quantization=series["quantization"])
        assert isinstance(some, speeds.Speed)
        for name, rule, off in (
            ("decode", speeds.decode_at, some.decode_off),
            ("prefill", speeds.prefill_at, some.prefill_off),
        ):
            curve = {row["batch"]: row[name] for row in series["rows"]}
            worst = 0.0
            for batch in (32, 128, 256):
                guess = rule({size: rate for size, rate in curve.items() if size != batch}, batch)
                worst = max(worst, abs(guess / curve[batch] - 1))
            assert off == pytest.approx(worst) and 0 < off < 0.25


def test_a_served_load_is_near_the_figure() -> None:
    """1,024 in and out, 256 and 512 at once, through a server: benchmarks/gpu_load.json, which no figure comes from."""
    made = json.loads((BENCHMARKS / "gpu_load.json").read_text())["sides"]["ours"]["rows"]
    page = (BENCHMARKS.parent / "docs" / "plan.md").read_text().replace("\n", " ")
    seen = made[0]["output_throughput"]
    told = expected(256)
    assert isinstance(told, speeds.Speed) and f"{told.steady:,.0f} were told and {seen:,.0f} came" in page
    assert told.steady / seen == pytest.approx(1, abs=0.03)
    # of 512 as many ran as there was room for, and the median request is one of these
    ran = 444
    seen, told = ran * 1024 / (made[1]["median_e2e_latency_ms"] / 1000), expected(ran)
    assert isinstance(told, speeds.Speed) and f"{told.steady:,.0f} and {seen:,.0f}" in page
    assert told.steady / seen == pytest.approx(1, abs=told.steady_off)


@pytest.mark.parametrize(
    ("batch", "changes"),
    [
        (513, {}),
        (32, {"gpu": "h100"}),
        (32, {"tp_size": 2}),
        (32, {"quantization": "mixed"}),
        (32, {"kind": "omni"}),
        (32, {"prompt": 1025}),
        (32, {"prompt": 1023}),
        (32, {"answer": 4096}),
    ],
)
def test_what_was_not_measured_has_no_figure(batch: int, changes: dict) -> None:
    said = expected(batch, **changes)
    assert isinstance(said, str) and said.startswith("not measured")


# ---- GPUs


def test_names_are_found_as_people_write_them() -> None:
    assert gpus.find("H100") is gpus.find("nvidia_h100") is gpus.GPUS["h100"]
    assert gpus.find("A100").total_mib == 81_920 and gpus.find("RTX PRO 6000").name == "rtx-pro-6000"
    with pytest.raises(ValueError, match="'h42' is no GPU that is known here\n  remedy: give one of h100, h200"):
        gpus.find("h42")


@pytest.mark.parametrize(
    ("label", "mib", "name", "capability"),
    [
        ("NVIDIA H200", 143_771, "h200", (9, 0)),
        ("NVIDIA A100-SXM4-40GB", 40_960, "a100-40", (8, 0)),
        ("NVIDIA A100 80GB PCIe", 81_920, "a100-80", (8, 0)),
        # a card of the same family with other memory is another one
        ("NVIDIA H100 NVL", 95_830, "other", None),
        ("NVIDIA L4", 23_034, "other", None),
        ("NVIDIA GB10", None, "dgx-spark", (12, 1)),
    ],
)
def test_a_drivers_name_is_known(label: str, mib: int | None, name: str, capability: tuple[int, int] | None) -> None:
    found = gpus.named(label, mib)
    assert (found.name, found.capability) == (name, capability)
    assert mib is None or found.total_mib == mib


def test_a_driver_that_says_nothing() -> None:
    with pytest.raises(ValueError, match="does not say how much memory NVIDIA X has\n  remedy: "):
        gpus.named("NVIDIA X", None)


def driver(folder: Path, said: str, code: int = 0) -> str:
    """A PATH on which nvidia-smi says so."""
    file = folder / "nvidia-smi"
    file.write_text(f"#!/bin/sh\nprintf '{said}'\nexit {code}\n")
    file.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_the_gpus_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", driver(tmp_path, "NVIDIA H200, 143771\\nNVIDIA H100 80GB HBM3, 81559\\n"))
    found, count = gpus.present()
    assert (found.name, count) == ("h100", 2)
    monkeypatch.setenv("PATH", driver(tmp_path, "NVIDIA GB10, [N/A]\\n"))
    assert gpus.present() == (gpus.GPUS["dgx-spark"], 1)
    for said, code in (("", 0), ("No devices were found", 6)):
        monkeypatch.setenv("PATH", driver(tmp_path, said, code))
        with pytest.raises(ValueError, match="nvidia-smi finds no GPU here\n  remedy: name one"):
            gpus.present()


def test_a_driver_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # in the shell's place, so that nothing is left when it is killed
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 3600\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(gpus, "ANSWERS_WITHIN_S", 0.1)
    with pytest.raises(
        ValueError, match=r"nvidia-smi does not answer within 0.1 s\n  remedy: look at the driver, or name"
    ):
        gpus.present()


def test_free_memory_is_measured_on_one_h200_alone() -> None:
    free, measured = gpus.find("h200").free_before_weights(1)
    assert measured and free / 1024 == pytest.approx(139.11, abs=0.001)
    assert gpus.find("h200").free_before_weights(8) == (pytest.approx(137.29 * 1024, abs=1), False)
    assert not gpus.find("h100").free_before_weights(1)[1]


def test_what_serves_here_is_free_as_on_its_kind() -> None:
    """A driver of another day reports some MiB more; what it holds is what was measured."""
    found = gpus.named("NVIDIA H200", 143_800)
    assert found.free_before_weights(1) == (gpus.find("h200").free_before_weights(1)[0] + 29, True)
    assert start(found, models.of_published(BF16), Flags(context=CONTEXT)).max_running_requests == 138
