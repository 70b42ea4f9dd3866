"""An id of the hub gets in the main process what its folder gets: sizes, checks of the headers, one clear error."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import pytest
from huggingface_hub import constants
from sglang.srt.server_args import prepare_server_args

from sglang_nemotron.checkpoint.spec import OMNI_PRESETS, PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.config import hub as hub_files
from sglang_nemotron.config.decoder import decoder_spec
from sglang_nemotron.config.omni import omni_spec
from sglang_nemotron.host import cpu, ending, fetching, refusal, startup
from support.children import run
from support.hub import OMNI_IDS, TEXT_IDS, Hub, hub
from support.places import within

TEXT, OMNI = TEXT_IDS[0], OMNI_IDS[0]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("ids")
    specs = {TEXT: replace(PRESETS["toy"], max_shard_bytes=300_000), OMNI: OMNI_PRESETS["toy"]}
    for name, spec in specs.items():
        write_checkpoint(spec, base / name)
    return {name: base / name for name in specs}


@pytest.fixture
def there(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub() as running:
        # how much there is to fetch is asked for
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        template = f"{running.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        running.models = {name: {"main": folder} for name, folder in folders.items()}
        yield running


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def check(name: str, folder: Path, **where: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    if name == OMNI:
        spec = omni_spec(config)
        startup.check_checkpoint(spec.decoder, name, "auto", omni=spec, **where)
    else:
        startup.check_checkpoint(decoder_spec(config), name, "auto", **where)


def sizes(model: str, *flags: str) -> tuple[int | None, int]:
    server_args = prepare_server_args(["--model-path", model, "--max-running-requests", "32", *flags])
    return cpu._pool_sizes(server_args, 2**30)


@pytest.mark.parametrize("name", [TEXT, OMNI])
def test_sizes_are_the_folders(name: str, there: Hub, folders: dict[str, Path], cache: Path) -> None:
    guess = sizes("somebody/elses")
    assert sizes(name) == guess
    there.download(name, cache, allow_patterns=["config.json"])
    assert sizes(name) == sizes(str(folders[name])) != guess
    assert sizes(name, "--revision", "v2") == guess


@pytest.mark.parametrize("name", [TEXT, OMNI])
def test_headers_are_read(
    name: str, there: Hub, folders: dict[str, Path], cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    check(name, folders[name])
    assert (
        "nothing of it is in the cache; SGLang fetches them" in caplog.text and "as the config says" not in caplog.text
    )
    there.download(name, cache)
    check(name, folders[name])
    assert "tensors as the config says" in caplog.text


def test_weights_of_a_download_dir(there: Hub, folders: dict[str, Path], cache: Path, tmp_path: Path) -> None:
    there.download(TEXT, tmp_path / "weights", ignore_patterns=["config.json"])
    damage(next((tmp_path / "weights").rglob("model-00002*.safetensors")))
    # where they are not looked for, they are nothing
    check(TEXT, folders[TEXT])
    with pytest.raises(ValueError, match="is truncated"):
        check(TEXT, folders[TEXT], cache=str(tmp_path / "weights"))


def damage(file: Path) -> None:
    data = file.read_bytes()
    # the file in the snapshot is a link; what others read stays
    file.unlink()
    file.write_bytes(data[:-10])


def test_a_damaged_file_is_an_error_with_a_remedy(there: Hub, folders: dict[str, Path], cache: Path) -> None:
    snapshot = there.download(TEXT, cache)
    damage(sorted(snapshot.glob("*.safetensors"))[0])
    with pytest.raises(ValueError, match=rf"is truncated[^\n]*\n  remedy: fetch it whole: hf download {TEXT}$"):
        check(TEXT, folders[TEXT])


def test_half_a_download(
    there: Hub,
    folders: dict[str, Path],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    there.download(TEXT, cache, ignore_patterns=["model-00003*"])
    check(TEXT, folders[TEXT])
    assert "1 of 3 files of weights are not in the cache" in caplog.text and "while they load" in caplog.text
    # what fetches nothing has nothing to wait for
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"1 of 3 files .*, and HF_HUB_OFFLINE is set\n  remedy: unset it, or fetch"):
        check(TEXT, folders[TEXT])


def test_half_a_download_without_an_index(there: Hub, folders: dict[str, Path], cache: Path) -> None:
    # SGLang would take what is there for all of it
    there.download(TEXT, cache, ignore_patterns=["model-00003*", "*.index.json"])
    with pytest.raises(ValueError, match=r"(?s)missing.*\n  remedy: fetch it whole: hf download"):
        check(TEXT, folders[TEXT])


def test_weights_that_do_not_fit(
    there: Hub, folders: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told before a scheduler fetches them; what is in the cache already takes no room."""
    there.download(TEXT, cache, ignore_patterns=["model-00003*"])
    (last,) = folders[TEXT].glob("model-00003*")
    usage = shutil.disk_usage(cache)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=last.stat().st_size - 1))
    with pytest.raises(ValueError, match=rf"^no space left for {TEXT}: 0.\d MiB are [^\n]+\n  remedy: free some"):
        check(TEXT, folders[TEXT])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=last.stat().st_size))
    check(TEXT, folders[TEXT])


# ---- the last words of a server whose model cannot be had


def test_command_lines() -> None:
    named = [
        ["sglang", "serve", "--model-path", "a/b"],
        ["sglang", "serve", "--model", "a/b"],
        ["sglang", "serve", "--model-path=a/b", "--tp", "2"],
        ["sglang", "serve", "a/b", "--tp", "2"],
    ]
    assert [refusal.model_path(argv) for argv in named] == ["a/b"] * 4
    assert refusal.model_path(["sglang", "serve", "--tp", "2"]) is None
    assert refusal.flag_value(["x", "--revision=v1"], "--revision") == "v1"


def test_a_cached_id_is_known_as_ours(there: Hub, cache: Path) -> None:
    argv = ["sglang", "serve", "--model-path", TEXT]
    assert not refusal._serves_ours(argv)
    there.download(TEXT, cache)
    assert refusal._serves_ours(argv) and not refusal._serves_ours([*argv, "--revision", "v2"])


def test_last_words_are_for_our_models_alone() -> None:
    error = OSError(28, "No space left on device", "/x")
    assert fetching.last_words(error, ["sglang", "serve", "--model-path", "some/llama"]) is None
    assert fetching.last_words(ValueError("x"), ["sglang", "serve", "--model-path", TEXT]) is None
    words = fetching.last_words(error, ["sglang", "serve", "--model-path", TEXT])
    assert words is not None and words.startswith("no space left")


# case -> what is said, a word of the remedy, and how the cache is mounted
ENDS: dict[str, tuple[str, str, str | None]] = {
    "wrong name": ("the hub knows no model {name}, or keeps it from you", "HF_TOKEN", None),
    "gated": ("{name} is gated.*", "HF_TOKEN", None),
    "read-only": ("{name} cannot be put into the cache: no permission to write {cache}/.*", "HF_HUB_CACHE", "ro"),
    # config and weights would fit, with a tokenizer they do not
    "full": ("no space left for {name}: 1.1 MiB are to be fetched, {cache} has .*", "HF_HUB_CACHE", "size=900k"),
}


@pytest.mark.parametrize(
    "case", ["wrong name", *(pytest.param(case, marks=pytest.mark.matrix) for case in list(ENDS)[1:])]
)
def test_serve_ends_with_two_lines(case: str, there: Hub, tmp_path: Path) -> None:
    name = "nvidia/NVIDIA-Nemotron-3-Nano-30B" if case == "wrong name" else TEXT
    there.gated |= {TEXT} if case == "gated" else set()
    wanted, word, mounted = ENDS[case]
    cache = tmp_path / "cache"
    command = [Path(sys.executable).parent / "sglang", "serve", "--model-path", name]
    env = {**os.environ, **there.environment(cache), "HF_TOKEN": ""}
    done = run([*(within(cache, mounted) if mounted else []), *command], env)
    assert done.returncode == 1
    said, remedy = done.stderr.rstrip().splitlines()[-2:]
    wanted = re.escape(wanted.format(name=name, cache=cache)).replace(r"\.\*", ".*")
    assert re.fullmatch(f"sglang-nemotron: {wanted}", said), done.stderr[-2000:]
    assert remedy.startswith("  remedy: ") and word in remedy
    assert "Traceback" not in done.stderr


@pytest.mark.matrix
def test_serve_on_a_port_in_use(folders: dict[str, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run([Path(sys.executable).parent / "sglang", "serve", "--model-path", folders[TEXT], "--port", port])
    assert done.returncode == 1
    assert done.stderr.rstrip().splitlines()[-2:] == [
        f"sglang-nemotron: port {port} of 127.0.0.1 is in use",
        "  remedy: choose another with --port",
    ]
    assert "Load weight begin" not in done.stderr and "Traceback" not in done.stderr


# ---- what a check of ours refuses


def _raised(by: Callable[[], object]) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    try:
        by()
    except ValueError as error:
        return type(error), error, error.__traceback__
    raise AssertionError("it raised nothing")


def _ours() -> object:
    return hub_files.config_folder("/nowhere/at/all")


def _somebodys() -> object:
    return int("x")


@pytest.mark.parametrize(("by", "serves"), [(_ours, True), (_ours, False), (_somebodys, True)])
def test_a_refusal_is_said_without_its_traceback(
    by: Callable[[], object], serves: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a server; a program around the engine keeps its tracebacks, and so does what is not ours."""
    passed_on: list[BaseException] = []
    monkeypatch.setattr(fetching, "_hook_before", lambda kind, error, trace: passed_on.append(error))
    monkeypatch.setattr(ending, "is_command", lambda: serves)
    monkeypatch.setattr(sys, "argv", ["sglang", "serve", "--model-path", "/nowhere/at/all"])
    raised = _raised(by)
    fetching._hook(*raised)
    said = capsys.readouterr().err
    if by is _ours and serves:
        assert passed_on == [] and said == f"\nsglang-nemotron: {raised[1]}\n" and said.count("\n") == 3
    else:
        assert passed_on == [raised[1]] and said == ""
