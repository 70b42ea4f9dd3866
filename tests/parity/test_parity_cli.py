"""`sglang-nemotron parity --url` against a fake server: 0 for a sound one, 1 for a fault, 2 if it cannot be asked."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from sglang_nemotron.cli import main, parity_checkpoint
from sglang_nemotron.parity.reference import Reference
from support.fake_server import fake_server, sound
from support.hub import OMNI_IDS, TEXT_IDS, hub

QUICK = ["--new-tokens", "6", "--max-length", "20"]


def _parity(folder: Path, url: str, *more: str) -> int:
    return main(["parity", str(folder), "--url", url, *QUICK, *more])


def test_a_sound_server_passes(folder: Path, reference: Reference, tmp_path: Path, capsys):
    with fake_server(reference) as url:
        assert _parity(folder, url, "--json", str(tmp_path / "out.json")) == 0
    out, err = capsys.readouterr()
    for mode in ("alone", "concurrent", "radix"):
        assert f"{mode}: " in out and f"sequences of mode {mode}" in err
    assert out.rstrip().endswith("PASS") and "allowed 2e-05" in out
    raw = json.loads((tmp_path / "out.json").read_text())
    assert raw["passed"] and raw["worst"] <= 2e-5
    assert {answer["mode"] for answer in raw["answers"]} == {"alone", "concurrent", "radix"}
    assert raw["positions"] == sum(len(a["prompt"]) + len(a["output"]) for a in raw["answers"])


def _one_off(kind: str, position: int, error: float):
    return lambda k, p, logprob: logprob + error if (k, p) == (kind, position) else logprob


@pytest.mark.parametrize(
    "fault",
    [_one_off("output", 5, 4e-5), _one_off("prompt", 3, -4e-5), _one_off("output", 0, math.nan)],
    ids=["output", "prompt", "nan"],
)
def test_a_wrong_number_fails(folder: Path, reference: Reference, fault, capsys):
    with fake_server(reference, fault=fault) as url:
        assert _parity(folder, url, "--modes", "alone") == 1
    assert capsys.readouterr().out.rstrip().endswith("FAIL")


def test_a_wrong_token_fails_though_its_logprob_is_right(folder: Path, reference: Reference, capsys):
    with fake_server(reference, second_best_at=2) as url:
        assert _parity(folder, url, "--modes", "alone") == 1
    assert " 0 greedy tokens differ" not in capsys.readouterr().out


def test_the_tolerance_is_the_users(folder: Path, reference: Reference):
    with fake_server(reference, fault=_one_off("output", 5, 1e-3)) as url:
        assert _parity(folder, url, "--modes", "alone", "--tolerance", "2e-3") == 0


def test_bfloat16_is_held_against_transformers_own(folder: Path, reference: Reference, capsys):
    import torch

    rough = Reference(folder, torch.bfloat16)
    with fake_server(rough, dtype="bfloat16") as url:
        assert _parity(folder, url, "--modes", "alone", "--max-length", "5") == 0
    out, err = capsys.readouterr()
    # four of each length
    assert "ratio" in out and "20 prompts of 1 to 5 tokens" in err
    with fake_server(rough, fault=lambda k, p, logprob: logprob + 0.5, dtype="bfloat16") as url:
        assert _parity(folder, url, "--modes", "alone", "--max-length", "5") == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--modes", "alone,other"], "--modes has other"),
        (["--new-tokens", "0"], "--new-tokens is 0"),
        (["--dtype", "bfloat16"], "the server computes in float32"),
        (["--server-args=--tp 2"], "drop them or --url"),
    ],
)
def test_bad_arguments(folder: Path, reference: Reference, more: list[str], said: str, capsys):
    with fake_server(reference) as url:
        assert _parity(folder, url, *more) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("served", "asked"),
    [
        ({"architectures": ["NemotronH_Nano_Omni_Reasoning_V3"], "model_path": "/omni"}, None),
        ({"architectures": ["NemotronHForCausalLM"], "model_path": OMNI_IDS[0]}, TEXT_IDS[0]),
    ],
    ids=["another architecture", "another id"],
)
def test_a_server_of_another_model_is_refused_unasked(
    served: dict, asked: str | None, folder: Path, reference: Reference, capsys, monkeypatch, tmp_path: Path
):
    def never(*_: object, **__: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(parity_checkpoint, "load", never)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with hub() as there:
        there.models[TEXT_IDS[0]] = {"main": folder}
        there.download(TEXT_IDS[0], tmp_path)
    with fake_server(reference, model=served) as url:
        assert main(["parity", asked or str(folder), "--url", url]) == 2
        said, remedy = capsys.readouterr().err.splitlines()[-2:]
        assert f"{url} serves {served['model_path']}" in said and f"parity {served['model_path']} --url {url}" in remedy


def test_a_partial_folder_is_one_sentence(folder: Path, reference: Reference, tmp_path: Path, capsys):
    shutil.copytree(folder, tmp_path / "part")
    for file in (tmp_path / "part").glob("*.safetensors"):
        tensors = load_file(file)
        save_file({name: tensors[name] for name in sorted(tensors)[: len(tensors) // 2]}, file)
    with fake_server(reference) as url:
        assert _parity(tmp_path / "part", url) == 2
    said, remedy = capsys.readouterr().err.splitlines()[-2:]
    assert re.search(r"cannot use \S+ whole: it lacks \d+ tensors \(\S+ \.\.\.\)", said) and len(said) < 400
    assert remedy.startswith("  remedy: ")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "another family: LlamaForCausalLM"),
        ({"architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h", "moe_latent_size": 8}, "Super, Ultra"),
    ],
)
def test_a_folder_of_another_model_is_not_served(
    config: dict, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a server was started")

    monkeypatch.setattr("sglang_nemotron.cli.parity.ServerProcess", never)
    (tmp_path / "config.json").write_text(json.dumps(config))
    for more in ([], ["--url", "http://127.0.0.1:9"]):
        assert main(["parity", str(tmp_path), *more]) == 2
        reason, remedy = capsys.readouterr().err.splitlines()
        assert reason.startswith(f"sglang-nemotron parity: {tmp_path} is no Nemotron 3 Nano: ") and said in reason
        assert remedy.startswith("  remedy: give the folder or the id of one")


def test_a_folder_without_a_checkpoint(tmp_path: Path, capsys):
    assert main(["parity", str(tmp_path)]) == 2
    assert "has no config.json" in capsys.readouterr().err


def test_a_server_that_refuses_or_is_not_there(folder: Path, reference: Reference, capsys):
    with fake_server(reference, status=500) as url:
        assert _parity(folder, url) == 2
    assert "answered 500" in capsys.readouterr().err
    assert _parity(folder, "http://127.0.0.1:9") == 2
    assert "does not answer" in capsys.readouterr().err


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["parity", "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    for word in ("what passes:", "examples:", "1.25 times", "exit code is 0", "make-checkpoint"):
        assert word in out


def test_sound_changes_nothing():
    assert sound("output", 0, -1.5) == -1.5
