"""`sglang-nemotron parity` on Omni against a fake server: sound media pass, and each way to see or hear wrong fails."""

from __future__ import annotations

import builtins
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from sglang_nemotron.cli import main, parity, parity_checkpoint, parity_media
from sglang_nemotron.media import libraries
from sglang_nemotron.parity.golden_omni import OmniGolden
from sglang_nemotron.parity.reference import Reference
from sglang_nemotron.parity.reference_omni import OmniReference
from support.fake_omni import FakeOmni, fake_omni
from support.fake_server import fake_server
from support.small_omni import PATCHES


@pytest.fixture(scope="module")
def golden(omni: Path) -> OmniReference:
    return OmniReference(omni)


@pytest.fixture(autouse=True)
def loaded_once(omni: Path, golden: OmniReference, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference of one checkpoint serves all tests."""
    load = parity_media.load

    def kept(folder: Path, kind: str) -> OmniGolden:
        return OmniGolden(golden) if (folder, kind) == (omni, "float32") else load(folder, kind)

    monkeypatch.setattr(parity_media, "load", kept)


def _parity(folder: Path, url: str, *more: str) -> int:
    return main(["parity", str(folder), "--url", url, "--new-tokens", "2", "--max-length", "8", *more])


def test_sound_media_pass_beside_text(omni: Path, golden: OmniReference, tmp_path: Path, capsys):
    fake = FakeOmni(golden, PATCHES)
    with fake_omni(fake) as url:
        assert _parity(omni, url, "--modes", "image,video-sound", "--json", str(tmp_path / "out.json")) == 0
    out, err = capsys.readouterr()
    assert out.rstrip().endswith("PASS") and "allowed 5e-05" in out
    for words in ("image: 4 prompts", "a large photo", "video-sound: 2 prompts", "a clip and its sound"):
        assert words in out
    assert "conversations of mode image" in err and "6 conversations about media" in err
    raw = json.loads((tmp_path / "out.json").read_text())
    assert raw["passed"] and raw["worst"] <= 5e-5 and raw["parts"]["media"]["positions"] == raw["positions"]
    assert [answer["mode"] for answer in raw["answers"]] == ["image"] * 4 + ["video-sound"] * 2
    # every answer was compared on the question behind its media as well
    assert all(len(a["prompt"]) > 50 and len(a["output"]) == 2 for a in raw["answers"])


def _one_pixel(kind: str, read: torch.Tensor) -> torch.Tensor:
    wrong = read.clone()
    # of the photo alone: 8 of 255 in one channel of one point
    if kind == "image" and read.shape[:2] == (480, 640):
        wrong[200, 300, 1] += 8
    return wrong


def _shifted(kind: str, read: torch.Tensor) -> torch.Tensor:
    return read.roll(1, 1) if kind == "image" else read


def _late(kind: str, read: torch.Tensor) -> torch.Tensor:
    return read.roll(1, 0) if kind == "video" else read


def _one_sample(kind: str, read: torch.Tensor) -> torch.Tensor:
    wrong = read.clone()
    if kind == "audio":
        wrong[20_000] += 0.05
    return wrong


# one is enough for every run: each takes seconds, since what is wrong is set beside float64 as well
@pytest.mark.parametrize(
    ("mode", "seen", "others"),
    [
        pytest.param("image", _one_pixel, 3, id="a pixel"),
        pytest.param("image", _shifted, 0, id="an image one pixel aside", marks=pytest.mark.matrix),
        pytest.param("video", _late, 0, id="frames one place late", marks=pytest.mark.matrix),
        pytest.param("audio", _one_sample, 0, id="a sample", marks=pytest.mark.matrix),
    ],
)
def test_what_is_seen_or_heard_wrong_fails(
    mode: str, seen: Callable[..., Any], others: int, omni: Path, golden: OmniReference, tmp_path: Path, capsys
):
    with fake_omni(FakeOmni(golden, PATCHES, seen=seen)) as url:
        assert _parity(omni, url, "--modes", mode, "--json", str(tmp_path / "out.json")) == 1
    assert capsys.readouterr().out.rstrip().endswith("FAIL")
    answers = json.loads((tmp_path / "out.json").read_text())["answers"]
    worst = [max(*answer["prompt"], *answer["output"]) for answer in answers]
    assert sum(value <= 5e-5 for value in worst) == others, worst


@pytest.mark.matrix
def test_a_prompt_of_another_length_fails(omni: Path, golden: OmniReference, capsys):
    with fake_omni(FakeOmni(golden, PATCHES, more_pruned=0.05)) as url:
        assert _parity(omni, url, "--modes", "video") == 1
    out = capsys.readouterr().out
    assert "a film, q = 0.5: the server's prompt has " in out and "that of transformers" in out
    assert "4 prompts differ" in out and out.rstrip().endswith("FAIL")


@pytest.mark.matrix
def test_bfloat16_is_held_against_transformers_own(omni: Path, capsys):
    rough = OmniReference(omni, torch.bfloat16)
    with fake_omni(FakeOmni(rough, PATCHES, dtype="bfloat16")) as url:
        assert _parity(omni, url, "--modes", "audio", "--new-tokens", "8") == 0
    out, err = capsys.readouterr()
    # four questions about each
    assert "ratio 1.000, allowed 1.25" in out and "8 conversations about media" in err
    with fake_omni(FakeOmni(rough, PATCHES, seen=_hoarse, dtype="bfloat16")) as url:
        assert _parity(omni, url, "--modes", "audio", "--new-tokens", "8") == 1


def _hoarse(kind: str, read: torch.Tensor) -> torch.Tensor:
    return read * (1 + 0.5 * torch.sin(torch.arange(len(read)) / 50)) if kind == "audio" else read


# ---- what cannot be compared is told in two lines, before anything is loaded


def _told(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    said, remedy = capsys.readouterr().err.splitlines()[-2:]
    assert said.startswith("sglang-nemotron parity: ") and remedy.startswith("  remedy: ")
    return said, remedy


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(parity_checkpoint, "load", never)
    monkeypatch.setattr(parity, "ServerProcess", never)


def test_without_the_libraries_the_remedy_installs_them(omni: Path, unloaded: None, monkeypatch, capsys):
    monkeypatch.setattr(libraries, "missing", lambda: ["av", "librosa"])
    for modes in ([], ["--modes", "alone,image"]):
        assert main(["parity", str(omni), *modes]) == 2
        said, remedy = _told(capsys)
        assert "modes with media need av, librosa, which are not installed" in said
        assert "pip install '.[omni]' in a clone" in remedy and "--modes alone,concurrent,radix" in remedy


def test_without_the_libraries_text_is_compared(omni: Path, golden: OmniReference, monkeypatch, capsys):
    monkeypatch.setattr(libraries, "missing", lambda: ["av", "librosa"])
    with fake_omni(FakeOmni(golden, PATCHES)) as url:
        assert _parity(omni, url, "--modes", "alone") == 0
    assert capsys.readouterr().out.rstrip().endswith("PASS")


def test_an_old_transformers_is_named(omni: Path, golden: OmniReference, monkeypatch, capsys):
    known = builtins.__import__

    def old(name: str, *more: Any, **named: Any) -> Any:
        if name.startswith("transformers.models.nemotron_h_omni"):
            raise ModuleNotFoundError("No module named 'transformers.models.nemotron_h_omni'")
        return known(name, *more, **named)

    monkeypatch.undo()
    monkeypatch.setattr(builtins, "__import__", old)
    with fake_omni(FakeOmni(golden, PATCHES)) as url:
        assert _parity(omni, url, "--modes", "image") == 2
    said, remedy = _told(capsys)
    assert "cannot be the reference for Omni" in said and "pip install 'transformers>=" in remedy


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"architectures": ["NemotronHForCausalLM"], "model_path": "/text"}, "serves /text (NemotronHForCausalLM)"),
        ({"architectures": ["LlamaForCausalLM"], "model_path": "/llama"}, "serves /llama (LlamaForCausalLM)"),
    ],
    ids=["text", "another family"],
)
def test_a_server_of_another_model_is_refused_unasked(
    model: dict[str, Any], said: str, omni: Path, golden: OmniReference, unloaded: None, capsys
):
    fake = FakeOmni(golden, PATCHES, model=model)
    with fake_omni(fake) as url:
        assert _parity(omni, url) == 2
    assert said in _told(capsys)[0] and fake.bodies == []


def test_modes_of_media_are_for_omni_alone(folder: Path, reference: Reference, unloaded: None, capsys):
    with fake_server(reference) as url:
        assert _parity(folder, url, "--modes", "alone,image,mixed") == 2
    said, remedy = _told(capsys)
    assert "is a text model, which --modes image,mixed cannot be asked of" in said
    assert "choose from alone, concurrent, radix" in remedy


def test_a_context_that_is_too_short_is_told(omni: Path, golden: OmniReference, capsys):
    fake = FakeOmni(golden, PATCHES, context=600)
    with fake_omni(fake) as url:
        assert _parity(omni, url, "--modes", "audio") == 2
    said, remedy = _told(capsys)
    assert "serves a context of 600 tokens" in said and "--context-length" in remedy and fake.bodies == []


def test_without_a_sound_tower_nothing_is_heard(omni: Path, tmp_path: Path, unloaded: None, capsys):
    config = json.loads((omni / "config.json").read_text())
    deaf = {name: value for name, value in config.items() if not name.startswith("sound")}
    assert parity_media.modes_of(config) == list(parity_media.MEDIA_MODES)
    assert parity_media.modes_of(deaf) == ["image", "images", "video", "media-again", "media-together"]
    (tmp_path / "config.json").write_text(json.dumps(deaf))
    assert main(["parity", str(tmp_path), "--modes", "image,audio"]) == 2
    said, remedy = _told(capsys)
    assert "no sound tower, which --modes audio would need" in said and "media-together" in remedy


def _partial(folder: Path, to: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    shutil.copytree(folder, to)
    save_file(change(load_file(to / "model.safetensors")), to / "model.safetensors", {"format": "pt"})
    return to


def _half(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensors[name] for name in sorted(tensors)[: len(tensors) // 2]}


def _narrow(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: t[:, :7].contiguous() if name == "mlp1.1.weight" else t for name, t in tensors.items()}


@pytest.mark.parametrize(
    ("change", "ours", "theirs"),
    [
        (_half, "tensors that are missing", r"it lacks \d+ tensors"),
        (_narrow, "1 tensors of a wrong shape: mlp1.1.weight", "it has in other shapes 1 tensors"),
    ],
)
def test_a_folder_that_is_not_whole_is_one_sentence(
    change: Callable[..., Any], ours: str, theirs: str, omni: Path, golden: OmniReference, tmp_path: Path, capsys
):
    folder = _partial(omni, tmp_path / "part", change)
    with fake_omni(FakeOmni(golden, PATCHES)) as url:
        assert _parity(folder, url) == 2
    assert re.search(rf"cannot use \S+ whole: .*{theirs}", _told(capsys)[0])
    # before a server is started for it
    assert main(["parity", str(folder)]) == 2
    assert ours in _told(capsys)[0]


def test_a_reference_that_no_memory_holds_is_told(omni: Path, golden: OmniReference, monkeypatch, capsys):
    def with_memory(num_bytes: int) -> int:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=num_bytes))
        monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(total=0))
        with fake_omni(FakeOmni(golden, PATCHES)) as url:
            return _parity(omni, url, "--modes", "alone")

    needed = 4 * sum(tensor.numel() for tensor in load_file(omni / "model.safetensors").values())
    assert with_memory(needed - 1) == 2
    said, remedy = _told(capsys)
    assert "GiB or more to hold" in said and "sglang-nemotron verify" in remedy
    assert with_memory(needed) == 0


def test_a_folder_of_another_family_is_one_sentence(omni: Path, tmp_path: Path, unloaded: None, capsys):
    config = json.loads((omni / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    assert main(["parity", str(tmp_path)]) == 2
    said, remedy = _told(capsys)
    assert "no Nemotron 3 Nano: model_type is 'llama'" in said and "the folder or the id" in remedy


def test_help_tells_of_every_mode(capsys):
    with pytest.raises(SystemExit):
        main(["parity", "--help"])
    out = capsys.readouterr().out
    described = out[out.index("For an Omni checkpoint") :]
    assert [mode for mode in parity_media.MEDIA_MODES if not re.search(rf"^    {mode} +\w", described, re.M)] == []
    assert "sglang-nemotron[omni]" in out and "--omni" in out
