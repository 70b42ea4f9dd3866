"""Where an id of ModelScope's lies, as SGLang finds it: its own function and ours are asked for the same folder."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest
import requests

from sglang_nemotron.config import hub, modelscope
from support.hub import OMNI_IDS, TEXT_IDS

TEXT, OMNI = TEXT_IDS[0], OMNI_IDS[0]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(modelscope.VARIABLE, "true")
    monkeypatch.setenv(modelscope.CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def checkpoint(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def snapshot(cache: Path, model: str, revision: str = "master") -> Path:
    """As modelscope 1.38 and later lay it out."""
    return checkpoint(cache / "models" / model.replace("/", "--") / "snapshots" / revision)


def taken_by_sglang(model: str, *flags: str) -> str:
    from sglang.srt.arg_groups.model_path_hook import handle_modelscope_paths
    from sglang.srt.arg_groups.overrides import resolving_view
    from sglang.srt.server_args import prepare_server_args

    server_args = prepare_server_args(["--model-path", model, "--tokenizer-path", model, *flags])
    handle_modelscope_paths(server_args)
    return resolving_view(server_args).model_path


@pytest.mark.parametrize("value", ["1", "true", "True"])
def test_the_variable(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sglang.srt.environ import envs

    monkeypatch.delenv(modelscope.VARIABLE, raising=False)
    assert not modelscope.is_used()
    monkeypatch.setenv(modelscope.VARIABLE, value)
    assert modelscope.is_used() and envs.SGLANG_USE_MODELSCOPE.get()
    monkeypatch.setenv(modelscope.VARIABLE, "0")
    assert not modelscope.is_used() and not envs.SGLANG_USE_MODELSCOPE.get()


@pytest.mark.parametrize("model", [TEXT, OMNI])
def test_a_folder_in_the_cache_is_the_model(model: str, cache: Path) -> None:
    assert hub.local_folder(model) is None and hub.is_id(model)
    folder = checkpoint(cache / "models" / model)
    assert hub.local_folder(model) == hub.local_folder(model, "v2") == hub.config_folder(model) == folder
    assert taken_by_sglang(model) == str(folder)
    # what SGLang never asks anybody about is no id any more
    assert not hub.is_id(model)


def test_a_folder_of_a_download_dir(cache: Path, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "weights" / TEXT)
    assert hub.local_folder(TEXT) is None
    assert hub.local_folder(TEXT, cache=str(tmp_path / "weights")) == folder
    assert taken_by_sglang(TEXT, "--download-dir", str(tmp_path / "weights")) == str(folder)


def test_a_snapshot_is_found_and_stays_an_id(cache: Path) -> None:
    """SGLang compares its files with ModelScope's before it takes them, so that a start still needs a network."""
    other, folder = snapshot(cache, TEXT, "v2"), snapshot(cache, TEXT)
    assert (hub.local_folder(TEXT), hub.local_folder(TEXT, "v2"), hub.local_folder(TEXT, "v3")) == (folder, other, None)
    assert hub.is_id(TEXT) and hub.unfetched(folder) == "no weights are in the cache"


def test_what_the_other_hub_has_does_not_count(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    there = tmp_path / "hf" / f"models--{TEXT.replace('/', '--')}"
    checkpoint(there / "snapshots" / ("a" * 40))
    (there / "refs").mkdir()
    (there / "refs" / "main").write_text("a" * 40)
    assert hub.local_folder(TEXT) is None
    # huggingface_hub's word is none about ModelScope
    assert not hub.is_offline()
    monkeypatch.delenv(modelscope.VARIABLE)
    assert hub.local_folder(TEXT) is not None and hub.is_offline()


def test_the_config_that_sglang_wants_of_the_other_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SGLang's own reader, on a machine that has all of the model from ModelScope and cannot reach Hugging Face."""
    from huggingface_hub import constants
    from sglang.srt.utils.hf_transformers.config import HfModelConfigParser

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "none"))
    for remedy in ("fetch it whole: modelscope download", "give its folder in the id's place: /.*/models/nvidia/"):
        with pytest.raises(OSError) as raised:
            HfModelConfigParser().parse(TEXT, trust_remote_code=False)
        said = hub.why_not(raised.value, TEXT)
        assert said is not None and re.search(f"before ModelScope, and does not get it\n  remedy: {remedy}", said), said
        (cache / "models" / TEXT).mkdir(parents=True, exist_ok=True)


def test_remedies_name_modelscope(cache: Path) -> None:
    with pytest.raises(ValueError, match=f"not in the cache .*\n  remedy: .*: modelscope download --model {TEXT}$"):
        hub.config_folder(TEXT)
    assert hub.cache_folder() == (cache / "models", modelscope.CACHE)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (requests.ConnectionError("Max retries exceeded"), "cannot be had from ModelScope.*: Max retries exceeded"),
        (requests.HTTPError("[E3010] no such model"), r"cannot be had from ModelScope.*: \[E3010\] no such model"),
        (OSError(errno.ENOSPC, "No space left on device", "/c"), "cannot be put into the cache: No space left"),
    ],
)
def test_why_not(error: Exception, words: str, cache: Path) -> None:
    wrapped = ValueError("what SGLang makes of it")
    wrapped.__cause__ = error
    for raised in (error, wrapped):
        said = hub.why_not(raised, TEXT)
        assert said is not None and re.match(f"{TEXT} {words}[^\n]*\n  remedy: [^\n]+$", said), said
        assert "HF_HUB_CACHE" not in said
    assert hub.why_not(ValueError("x"), TEXT) is None
