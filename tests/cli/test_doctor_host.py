"""What the doctor says of a machine and of a model: sizes, what fits where, and what keeps a model from starting."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sglang_nemotron.checkpoint.quant_layout import layer_algorithms
from sglang_nemotron.checkpoint.spec import OMNI_PRESETS, PRESETS
from sglang_nemotron.checkpoint.writer import all_tensors, stored_tensors, write_checkpoint
from sglang_nemotron.cli import doctor, doctor_host, doctor_model
from sglang_nemotron.cli.server import is_taken
from support.hub import OMNI_IDS, TEXT_IDS

HOST = {"memory_available_gib": 20.0, "disk_free_gib": 50.0, "cache": "/c", "cache_variable": "HF_HUB_CACHE"}
HOST["cache_writable"] = True
CPU = {"kind": "cpu"}
CARD = {"kind": "cuda", "count": 2, "memory_gib": 40.0}


@pytest.mark.parametrize("name", doctor_host.WEIGHTS)
def test_weights_are_as_the_checkpoint_room_counts_them(name: str) -> None:
    kind = {"FP8": "fp8", "NVFP4": "mixed"}.get(name.rpartition("-")[2], "none")
    spec = replace((OMNI_PRESETS if "Omni" in name else PRESETS)["full"], quantization=kind)
    algorithms = layer_algorithms(spec)
    stored = (tensor for source in all_tensors(spec) for tensor in stored_tensors(spec, source, algorithms))
    assert sum(tensor.num_bytes for tensor in stored) == doctor_host.WEIGHTS[name]
    assert f"nvidia/{name}" in TEXT_IDS + OMNI_IDS


def test_what_fits() -> None:
    rows = {row["model"].rpartition("/")[2]: row["fits"] for row in doctor_host.what_fits(CARD, 0)}
    assert rows["NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"] == {1: False, 2: True, 4: False, 8: False}
    assert rows["NVIDIA-Nemotron-3-Nano-30B-A3B-FP8"] == {1: True, 2: True, 4: False, 8: False}
    # a CPU dequantises
    on_cpu = [row["fits"][1] for row in doctor_host.what_fits(CPU, 60.0)]
    assert on_cpu == [True, True, False, False, False]


def test_a_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert is_taken(port) and not doctor_host.examine_host(port, (1, 2))["port_free"]
    assert not is_taken(port)


def test_the_host() -> None:
    found = doctor_host.examine_host(30000, (3 * 2**30, 4 * 2**30))
    assert (found["memory_available_gib"], found["memory_gib"]) == (3.0, 4.0) and found["disk_free_gib"] > 0
    json.dumps(found)


# ---- a model


def report(**changes: Any) -> dict[str, Any]:
    plain = {"name": TEXT_IDS[0], "reason": None, "remedy": None, "to_fetch": None, "weights_gib": 1.0, "chosen": {}}
    return {**plain, **changes}


def test_nothing_against_it() -> None:
    assert doctor_model.faults_of(report(), HOST, CPU) == []
    big = report(weights_gib=58.8, chosen={"tp_size": 2})
    assert doctor_model.faults_of(big, HOST, CARD) == []


@pytest.mark.parametrize(
    ("changes", "host", "device", "said"),
    [
        ({"reason": "no", "remedy": "yes"}, HOST, CPU, "no"),
        ({"weights_gib": 30.0}, HOST, CPU, "30.0 GiB of weights, 20.0 GiB is what this host has free"),
        ({"weights_gib": 58.8}, HOST, CARD, "58.8 GiB of weights, 40.0 GiB is what its cards have"),
        (
            {"to_fetch": "x", "weights_gib": None, "chosen": {"tp_size": 2}},
            HOST,
            CARD,
            "58.8 GiB of weights are to be fetched",
        ),
        (
            {"to_fetch": "x", "chosen": {"tp_size": 2}},
            {**HOST, "disk_free_gib": 99.0, "cache_writable": False},
            CARD,
            "/c cannot be written",
        ),
    ],
)
def test_what_keeps_it_from_starting(changes: dict, host: dict, device: dict, said: str) -> None:
    ((reason, remedy),) = doctor_model.faults_of(report(**changes), host, device)
    assert reason.startswith(said) and remedy


@pytest.mark.parametrize(
    ("config", "whose"),
    [
        (None, "text"),
        ({"architectures": ["LlamaForCausalLM"]}, "another family: LlamaForCausalLM"),
        ({}, "another family: no architecture named"),
    ],
)
def test_whose_it_is(config: dict | None, whose: str, tmp_path: Path) -> None:
    write_checkpoint(PRESETS["toy"], tmp_path)
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    assert doctor_model.whose(tmp_path) == whose


@pytest.mark.parametrize(("text", "said"), [("{", "is damaged: "), ("[]", "is no config of a model")])
def test_a_config_that_is_none(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    found = doctor_model.examine_model(str(tmp_path), None, [])
    assert found["reason"].startswith(f"{tmp_path / 'config.json'} {said}") and found["remedy"]


def test_what_takes_no_files(tmp_path: Path) -> None:
    assert doctor_host._takes_files(tmp_path) and list(tmp_path.iterdir()) == []
    # nobody makes files there, root included
    assert not doctor_host._takes_files(Path("/sys"))


@pytest.mark.parametrize(
    ("ours", "ok", "said"),
    [
        ("text", True, "a server of a/b starts here"),
        (None, True, "a server of a/b starts here"),
        ("another family: X", True, "a/b is left to SGLang's own class (another family: X); only its arguments"),
        ("text", False, "a server would be refused"),
    ],
)
def test_the_verdict(ours: str | None, ok: bool, said: str) -> None:
    assert doctor._verdict({"ok": ok, "model": report(name="a/b", ours=ours)}).startswith(said)
    assert doctor._verdict({"ok": True}) == "a server of Nemotron 3 Nano starts here"
