"""The examples that start SGLang's engine themselves: a batch offline, and a fork's subclass of a model class."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.examples import NOWHERE, run_example


@pytest.mark.matrix
@pytest.mark.server
def test_a_batch_without_a_server() -> None:
    done = run_example("engine_offline.py", NOWHERE)
    assert done.returncode == 0, done.stderr
    said = re.findall(r"^\S.*\?$|^Write .*\.$|^What is the derivative.*$", done.stdout, re.M)
    assert len(said) == 3
    # random weights say words of the tiny tokenizer, another answer to each question
    answers = re.findall(r"^  +(\S.*\w.*)$", done.stdout, re.M)
    assert len(set(answers)) == 3, done.stdout


@pytest.mark.server
def test_a_batch_of_no_model_ends_in_two_lines() -> None:
    done = run_example("engine_offline.py", NOWHERE, "/nowhere/at/all")
    assert (done.returncode, done.stdout) == (1, "")
    # libraries warn before
    reason, remedy = done.stderr.splitlines()[-2:]
    assert reason == "engine_offline.py: there is no folder /nowhere/at/all"
    assert remedy == "  remedy: give the folder or the id of a checkpoint, or nothing for a tiny one"


@pytest.mark.matrix
@pytest.mark.server
@pytest.mark.parametrize("config", [None, "{"], ids=["no config", "half a config"])
def test_a_batch_of_a_folder_that_is_no_model(config: str | None, tmp_path: Path) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    done = run_example("engine_offline.py", NOWHERE, str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    reason, remedy = done.stderr.splitlines()[-2:]
    assert reason.startswith(f"engine_offline.py: {tmp_path}: ") and remedy.startswith("  remedy: "), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.matrix
@pytest.mark.server
def test_a_fork_serves_its_subclass() -> None:
    done = run_example("fork_import.py", NOWHERE)
    assert done.returncode == 0, done.stderr
    # the subclass loaded, in SGLang's scheduler
    assert re.search(r"^fork: \d{2,} parameters of 12 layers$", done.stdout, re.M), done.stdout
    assert re.search(r"^8 tokens: .*\w", done.stdout, re.M), done.stdout
