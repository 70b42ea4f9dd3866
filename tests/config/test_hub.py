"""Where an id's files lie, and why they cannot be had: huggingface_hub itself against a hub on this machine."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, file_download

from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.config import hub
from support.hub import OMNI_IDS, TEXT_IDS, Hub, commit_of
from support.hub import hub as running_hub

SEEDS_SPELL = TEXT_IDS + OMNI_IDS
WEIGHTS = ["*.safetensors"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in three files with an index."""
    folder = tmp_path_factory.mktemp("hub") / "whole"
    write_checkpoint(replace(PRESETS["toy"], max_shard_bytes=300_000), folder)
    return folder


@pytest.fixture
def there(whole: Path) -> Iterator[Hub]:
    with running_hub() as running:
        running.models = {name: {"main": whole} for name in SEEDS_SPELL}
        yield running


@pytest.mark.parametrize("name", SEEDS_SPELL)
def test_every_published_name_is_found(name: str, there: Hub, whole: Path, tmp_path: Path) -> None:
    assert hub.local_folder(name, cache=str(tmp_path)) is None and hub.is_id(name)
    there.download(name, tmp_path)
    found = hub.local_folder(name, cache=str(tmp_path))
    assert found is not None and found.name == commit_of(whole) and hub.unfetched(found) is None
    assert {file.name for file in found.iterdir()} == {file.name for file in whole.iterdir()}


def test_the_users_own_cache_is_asked(there: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there.download(TEXT_IDS[0], tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    assert hub.local_folder(TEXT_IDS[0]) is None
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    found = hub.local_folder(TEXT_IDS[0])
    assert found is not None and hub.config_folder(TEXT_IDS[0]) == found


def test_revisions_are_told_apart(there: Hub, whole: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_checkpoint(PRESETS["toy"], other)
    there.models[TEXT_IDS[0]]["v2"] = other
    cache = tmp_path / "cache"
    there.download(TEXT_IDS[0], cache, "v2")
    assert hub.local_folder(TEXT_IDS[0], cache=str(cache)) is None
    there.download(TEXT_IDS[0], cache)
    folders = [hub.local_folder(TEXT_IDS[0], revision, str(cache)) for revision in (None, "v2", commit_of(other))]
    assert [folder and folder.name for folder in folders] == [commit_of(f) for f in (whole, other, other)]


def test_a_folder_is_itself(whole: Path, tmp_path: Path) -> None:
    assert hub.local_folder(whole) == hub.config_folder(whole) == whole and not hub.is_id(whole)
    assert [hub.is_id(name) for name in ("s3://a/b", "a/b/c", "/a/b", "-a/b")] == [False] * 4
    with pytest.raises(ValueError, match="has no config.json\n  remedy: give the folder of a checkpoint"):
        hub.config_folder(tmp_path)
    with pytest.raises(ValueError, match="is no folder, and no id of the hub\n  remedy: "):
        hub.config_folder(tmp_path / "absent")
    with pytest.raises(
        ValueError, match=r"a/b at revision v1 is not in the cache .*\n  remedy: .*: hf download a/b --re"
    ):
        hub.config_folder("a/b", "v1")


# ---- half a download


def test_no_weights_yet(there: Hub, tmp_path: Path) -> None:
    there.download(TEXT_IDS[0], tmp_path, ignore_patterns=[*WEIGHTS, hub.INDEX])
    found = hub.local_folder(TEXT_IDS[0], cache=str(tmp_path))
    assert hub.unfetched(found) == "no weights are in the cache"
    assert hub.unfetched(None) == "nothing of it is in the cache"


@pytest.mark.parametrize("listing", [True, False], ids=["the hub's listing kept", "a listing was never kept"])
def test_some_files_of_weights(listing: bool, there: Hub, whole: Path, tmp_path: Path) -> None:
    last = max(json.loads((whole / hub.INDEX).read_text())["weight_map"].values())
    there.download(TEXT_IDS[0], tmp_path, ignore_patterns=[last])
    kept = list(tmp_path.rglob("trees/*.json"))
    assert kept
    if not listing:
        for file in kept:
            file.unlink()
    found = hub.local_folder(TEXT_IDS[0], cache=str(tmp_path))
    assert hub.unfetched(found) == f"1 of 3 files of weights are not in the cache ({last} ...)"
    assert hub.local_folder(there.download(TEXT_IDS[0], tmp_path)) == found and hub.unfetched(found) is None


def test_a_damaged_index_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / hub.INDEX).write_text('{"weight_map": ')
    assert hub.unfetched(tmp_path) is None


# ---- why not


def reason(fetch: Callable[[], object], model: str, revision: str | None = None) -> str:
    with pytest.raises(Exception) as raised:  # noqa: B017, PT011 - what it is, is what is asked here
        fetch()
    words = hub.why_not(raised.value, model, revision)
    assert words is not None
    # two lines, and transformers' own error around it says the same
    assert re.fullmatch(r"[^\n]+\n  remedy: [^\n]+", words)
    wrapped = OSError("what transformers makes of it")
    wrapped.__cause__ = raised.value
    assert hub.why_not(wrapped, model, revision) == words
    return words


def test_refusals_of_the_hub(there: Hub, tmp_path: Path) -> None:
    absent, name = "nvidia/nemotron-absent", TEXT_IDS[0]
    assert f"the hub knows no model {absent}" in reason(lambda: there.download(absent, tmp_path), absent)
    said = reason(lambda: there.download(name, tmp_path, "v9"), name, "v9")
    assert f"{name} has no revision v9" in said
    there.gated.add(name)
    said = reason(lambda: there.download(name, tmp_path), name)
    assert f"{name} is gated" in said and "HF_TOKEN" in said


def test_no_network(tmp_path: Path) -> None:
    with running_hub() as gone:
        pass
    said = reason(lambda: gone.download(TEXT_IDS[0], tmp_path), TEXT_IDS[0])
    assert "does not answer" in said and f"hf download {TEXT_IDS[0]}" in said


def test_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import hf_hub_download

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = reason(lambda: hf_hub_download(TEXT_IDS[0], "config.json", cache_dir=tmp_path), TEXT_IDS[0])
    assert "HF_HUB_OFFLINE is set" in said and hub.is_offline()


def test_a_cache_that_cannot_be_written(there: Hub, tmp_path: Path) -> None:
    # a place in which even root makes no folder
    said = reason(lambda: there.download(TEXT_IDS[0], Path("/sys/none")), TEXT_IDS[0])
    assert "no permission to write /sys/none" in said and "HF_HUB_CACHE" in said


def test_a_cache_that_is_a_file(there: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for cache in (tmp_path / "file", tmp_path / "file" / "below"):
        said = reason(lambda cache=cache: there.download(TEXT_IDS[0], cache), TEXT_IDS[0])
        assert f"{tmp_path / 'file'}" in said and "is no folder, or lies in none" in said


def test_a_disk_that_fills_up(there: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where huggingface_hub writes what comes; tests/host/test_ids.py has a server on a disk that is full."""
    written = file_download.http_get

    class Full:
        """The file that it is given, of which nothing else is asked."""

        def __init__(self, file: Any) -> None:
            self._file = file

        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    monkeypatch.setattr(file_download, "http_get", lambda url, file, **more: written(url, Full(file), **more))
    said = reason(lambda: there.download(TEXT_IDS[0], tmp_path), TEXT_IDS[0])
    assert said.startswith(f"no space left for {TEXT_IDS[0]}") and "HF_HUB_CACHE" in said


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EROFS, "no permission to write"), (errno.ENOSPC, "no space left"), (errno.EDQUOT, "no")],
)
def test_errors_of_the_disk(number: int, words: str) -> None:
    said = hub.why_not(OSError(number, "x", "/the/file"), "a/b")
    assert said is not None and words in said and "/the/file" in said


def test_other_errors_are_not_explained() -> None:
    assert hub.why_not(ValueError("x"), "a/b") is None and hub.why_not(OSError(errno.EIO, "x"), "a/b") is None
    from huggingface_hub import hf_hub_download

    assert "no id of the hub" in reason(lambda: hf_hub_download("/a/b", "config.json"), "/a/b")
