"""`sglang-nemotron plan`: what it prints, as tables and as JSON, with which exit code, and its mistakes."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from pathlib import Path

import pytest

from sglang_nemotron import cli
from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.cli import plan_chart

BF16 = "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"
NVFP4 = "nvidia/Nemotron-3-Nano-Omni-30B-A3B-NVFP4"


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "no-hub"))


def printed(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert cli.main(["plan", *words]) == code
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["plan", *words]) == 2
    said = capsys.readouterr()
    assert said.out == "" and re.fullmatch(r"sglang-nemotron plan: [^\n]+\n  remedy: [^\n]+\n", said.err), said.err
    return said.err


def test_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, BF16, "--gpu", "h200")
    lines = out.splitlines()
    assert lines[0] == f"{BF16} on H200, 143,771 MiB (nvidia-smi here, benchmarks/gpu_decode.json)"
    assert re.search(r"^weights +58\.82 +█+", out, re.M) and re.search(r"^KV pages +8\.83 +█+", out, re.M)
    assert re.search(r"^with the flags below +256 +256 +1,265 +3 +1,542,692 +extra_buffer_lazy$", out, re.M)
    assert re.search(r"^without hint and limits +138 +138 +690 +5 +6,136,175 +extra_buffer$", out, re.M)
    assert re.search(r"^decode +10,564 +256 requests at once, measured at 256$", out, re.M) and "±" not in out
    assert "source: benchmarks/gpu_decode.json" in out and f"sglang serve --model-path {BF16} " in out
    assert "towers" not in out and "note:" not in out


def test_json_is_one_object_and_the_same_plan(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed(capsys, BF16, "--gpu", "h200", "--json"))
    assert found["fits"] is True and found["servers"]["advised"]["requests_at_once"] == 256
    reported = found["servers"]["plain"]["reported"]
    assert (reported["max_running_requests"], reported["max_mamba_cache_size"]) == (138, 690)
    assert sum(found["servers"]["plain"]["memory_gib"].values()) == pytest.approx(143_771 / 1024, abs=0.01)
    assert found["speed"]["decode"] == 10_564 and found["speed"]["source"] == "benchmarks/gpu_decode.json"
    assert [flag["name"] for flag in found["flags"]][:2] == ["SGLANG_NEMOTRON_REQUEST_TOKENS", "--max-running-requests"]


def test_between_measured_batches_the_error_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    words = (BF16, "--gpu", "h200", "--concurrency", "200")
    out = printed(capsys, *words)
    speed = json.loads(printed(capsys, *words, "--json"))["speed"]
    assert re.search(rf"^decode +{speed['decode']:,.0f} +±20% +200 requests at once, between 128 and 256", out, re.M)
    assert re.search(rf"^prefill +{speed['prefill']:,.0f} +±1% ", out, re.M) and "a measured batch was left out" in out
    assert (round(speed["decode_off"], 2), round(speed["prefill_off"], 2)) == (0.2, 0.01)
    for changed in ("--input 1000", "--input 1100", "--output 2000"):
        out = printed(capsys, *words, *changed.split())
        assert re.search(r"^tokens a second: not measured with ", out, re.M), changed


def test_a_model_that_does_not_fit_ends_with_one(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, BF16, "--gpu", "l40s", code=1)
    assert "note: no server starts: the weights need" in out and "sglang serve" not in out
    assert json.loads(printed(capsys, BF16, "--gpu", "l40s", "--json", code=1))["fits"] is False


def test_media_and_what_was_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--gpu", "rtx-pro-6000", "--images", "2", "--audio", "30", "--context", "32768", "--concurrency", "16")
    out = printed(capsys, NVFP4, *words)
    assert "1,024 + 4,084 of images + 377 of audio in, 1,024 out, 6,509 tokens" in out
    assert "tokens a second: not measured on this set-up" in out and re.search(r"^towers +2\.68", out, re.M)
    assert "--context-length" in out


def test_a_folder_and_a_gpu_by_its_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(PRESETS["toy"], tmp_path / "toy")
    folder = str(tmp_path / "toy")
    out = printed(capsys, folder, "--memory-mib", "24000", "--input", "100", "--output", "100", "--concurrency", "4")
    assert out.startswith(f"{folder} on a GPU, 24,000 MiB (--memory-mib)") and f"file headers of {folder}" in out
    given = ("--kv-cache-dtype", "fp8_e4m3", "--mamba-ssm-dtype", "float16", "--mem-fraction-static", "0.5")
    found = json.loads(
        printed(capsys, folder, "--memory-mib", "24000", "--input", "9", "--output", "9", *given, "--json")
    )
    server = found["servers"]["advised"]
    assert (server["kv_dtype"], server["ssm_dtype"]) == ("float8_e4m3fn", "float16")
    assert server["reported"]["mem_fraction_static"] == 0.5
    assert {"--kv-cache-dtype", "--mamba-ssm-dtype", "--mem-fraction-static"} <= {
        flag["name"] for flag in found["flags"]
    }


def test_the_gpus_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "nvidia-smi"
    file.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771'\necho 'NVIDIA H200, 143771'\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert printed(capsys, BF16).startswith(f"{BF16} on H200, 143,771 MiB (nvidia-smi here)")
    assert "on 2 x H200" in printed(capsys, BF16, "--count", "2")
    assert "--count is 4, and 2 GPUs are here" in refused(capsys, BF16, "--count", "4")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("no/such/folder/here --gpu h200", "is no folder, and no id of the hub"),
        ("some-owner/some-model --gpu h200", "is not in the cache of this machine"),
        (f"{BF16} --gpu h42", "'h42' is no GPU that is known here"),
        (f"{BF16} --gpu h100 --count 3", "cannot be split over tp_size=3"),
        (f"{BF16} --gpu h100 --count 0", "--count is 0"),
        (f"{BF16} --gpu h100 --context 1000000", "the checkpoint promises 262,144"),
        (f"{BF16} --gpu h100 --input 300000", "a request takes 301,024 tokens"),
        (f"{BF16} --gpu h100 --output 0", "--output is 0"),
        (f"{BF16} --gpu h100 --images 1", "this is a text model"),
        (f"{BF16} --gpu h100 --video -1", "--video is -1.0"),
        (f"{BF16} --gpu h100 --audio -1", "--audio is -1.0"),
        (f"{BF16} --gpu h100 --memory-mib 1", "--gpu and --memory-mib were both given"),
        (f"{BF16} --gpu h100 --mem-fraction-static 1.5", "--mem-fraction-static is 1.5"),
        (f"{BF16} --gpu h100 --free-gib 80", "--free-gib is 80.0, and H100 80GB has 79.65 GiB in all"),
        (f"{BF16} --gpu h100 --free-gib -1", "--free-gib is -1.0"),
        (f"{BF16} --gpu h100 --revision other", "--revision is 'other', of which the cache of this machine has no"),
        (". --gpu h100 --revision other", "--revision is 'other', and . is a folder"),
        (f"{NVFP4} --gpu l40s", "NVFP4 requires Blackwell hardware"),
        (f"{BF16} --gpu dgx-spark --count 2", "a DGX Spark has one GPU"),
    ],
)
def test_mistakes_are_two_lines(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refused(capsys, *words.split())


@pytest.mark.parametrize("name", ["", " "])
def test_no_name_is_no_folder(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"MODEL is {name!r}" in refused(capsys, name, "--gpu", "h200")


def test_a_revision_of_the_cache_is_planned_and_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a published name too: its files are looked at, and the command names the revision."""
    write_checkpoint(PRESETS["toy"], tmp_path / "toy")
    repository = tmp_path / "no-hub" / ("models--" + BF16.replace("/", "--"))
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "mine").write_text("0123")
    (repository / "snapshots").mkdir()
    (tmp_path / "toy").rename(repository / "snapshots" / "0123")
    words = ("--gpu", "h200", "--input", "9", "--output", "9", "--concurrency", "4")
    out = printed(capsys, BF16, "--revision", "mine", *words)
    assert f"file headers of {repository}" in out and f"--model-path {BF16} --revision mine " in out
    # another one is not in the cache, and the published shape stands for no revision
    assert "published shape" in printed(capsys, BF16, *words)
    assert "--revision is 'other'" in refused(capsys, BF16, "--revision", "other", *words)


def test_what_a_user_has_seen_free_goes_first(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("--gpu", "h100"), ("--gpu", "h200", "--count", "4")):
        found = json.loads(printed(capsys, BF16, *words, "--free-gib", "79", "--json"))
        server = found["servers"]["plain"]
        assert server["free_before_weights_measured"] and server["reported"]["free_before_weights_gb"] == 79
        assert not any("was not measured on" in remark and "CUDA" in remark for remark in found["remarks"])


@pytest.mark.parametrize("size", ["1920", "0x4", "axb", "10x0"])
def test_sizes(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["plan", BF16, "--gpu", "h200", "--image-size", size])
    assert f"'{size}' is no size; write WIDTHxHEIGHT" in capsys.readouterr().err


# ---- bars


@pytest.mark.parametrize(
    ("share", "plain", "drawn"),
    [(0, False, ""), (1, False, "█" * 32), (2, False, "█" * 32), (-1, False, ""), (0.5, True, "#" * 16)]
    + [(1 / 32 / 8, False, "▏"), (1.5 / 32, False, "█▌")],
)
def test_bars(share: float, plain: bool, drawn: str) -> None:
    assert plan_chart.bar(share, plain=plain) == drawn


def test_a_terminal_without_blocks_gets_plain_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert cli.main(["plan", BF16, "--gpu", "h200"]) == 0
    sys.stdout.flush()
    assert re.search(rb"^weights +58\.82  #{13} ", raw.getvalue(), re.M)
