"""SGLang's warnings about tokenizers stay out of the log for our checkpoints, and in it for others."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from sglang_nemotron.checkpoint.spec import OMNI_PRESETS, PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.host import alarms


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alarms")
    write_checkpoint(PRESETS["toy"], folder / "text")
    write_checkpoint(OMNI_PRESETS["toy"], folder / "omni")
    # the same files under a model type that nobody knows
    shutil.copytree(folder / "text", folder / "strange")
    config = folder / "strange" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "strange"}))
    return folder


@pytest.fixture(autouse=True)
def _fresh() -> None:
    alarms._is_ours.cache_clear()


def warnings_of(name: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What SGLang says of a tokenizer that is loaded with --trust-remote-code."""
    from sglang.srt.utils.hf_transformers_utils import get_tokenizer

    alarms.quieten()
    caplog.clear()
    with caplog.at_level(logging.WARNING, alarms.LOGGER):
        get_tokenizer(str(name), trust_remote_code=True)
    return [record.getMessage() for record in caplog.records if record.name == alarms.LOGGER]


@pytest.mark.parametrize("name", ["text", "omni"])
def test_of_ours_nothing_is_said(name: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of(folder / name, caplog) == []


def test_of_others_it_is(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (said,) = warnings_of(folder / "strange", caplog)
    assert said.startswith(f"Tokenizer for {folder / 'strange'} is still TokenizersBackend after retries")


def test_other_words_about_ours_pass(folder: Path) -> None:
    def passes(message: str, *args: object) -> bool:
        return bool(alarms._FILTER.filter(logging.LogRecord("x", logging.WARNING, "x", 1, message, args, None)))

    ours = str(folder / "text")
    assert not passes(alarms.HARMLESS[1] + ", reloading", ours)
    assert passes("Tokenizer for %s is broken", ours) and passes("no arguments") and passes(alarms.HARMLESS[0])
    assert passes(alarms.HARMLESS[0], "/nowhere/at/all") and passes(alarms.HARMLESS[0], "nobody/nothing")


def test_sglang_still_says_so() -> None:
    """A message that changed would pass the filter."""
    import sglang.srt.utils.hf_transformers as package

    sources = "".join(path.read_text() for path in Path(package.__file__).parent.glob("*.py"))
    assert [message for message in alarms.HARMLESS if message not in sources] == []


def test_the_row_sees_that_the_filter_is_gone() -> None:
    alarms.quieten()
    assert alarms.ALARMS.is_ours() is None
    logging.getLogger(alarms.LOGGER).removeFilter(alarms._FILTER)
    try:
        assert alarms.ALARMS.is_ours() == f"the filter of {alarms.LOGGER} is gone"
    finally:
        alarms.quieten()
