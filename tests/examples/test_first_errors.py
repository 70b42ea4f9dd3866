"""An example whose server or file is not there says so in two lines, with the remedy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.examples import EXAMPLES, NOWHERE, names, run_example
from support.waiting import NET_S

# which ask a server
CLIENTS = [name for pattern in ("text_*.py", "reply_*.py", "omni_*.py") for name in names(pattern)]
WITH_FILES = [name for name in CLIENTS if "sample.file" in (EXAMPLES / name).read_text() and "_url" not in name]


# one of each kind, and all of them in the matrix
@pytest.mark.parametrize("which", [CLIENTS[::7], pytest.param(CLIENTS, marks=pytest.mark.matrix)], ids=["some", "all"])
def test_without_a_server_each_ends_in_two_lines(which: list[str]) -> None:
    assert len(CLIENTS) >= 19
    with ThreadPoolExecutor(2) as pool:
        for name, done in zip(which, pool.map(lambda name: run_example(name, NOWHERE), which), strict=True):
            assert (done.returncode, done.stdout) == (1, ""), name
            reason, remedy = done.stderr.splitlines()
            assert reason == f"{name}: no server answers at {NOWHERE}/v1"
            assert remedy.startswith("  remedy: `sglang serve --model-path MODEL` starts one; OPENAI_BASE_URL")


@pytest.mark.parametrize("name", ["omni_audio.py", "omni_image_base64.py"])
def test_without_its_file_an_example_ends_in_two_lines(name: str) -> None:
    done = run_example(name, NOWHERE, "nowhere.bin")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"{name}: nowhere.bin: No such file or directory\n"
        "  remedy: give a file that is there, or none: the package ships one\n"
    )


def test_what_takes_files_says_so() -> None:
    assert len(WITH_FILES) >= 7
    assert [name for name in WITH_FILES if f"{name} [FILE" not in (EXAMPLES / name).read_text()] == []


def test_a_client_without_the_package_is_told_to_give_a_file(tmp_path: Path) -> None:
    """On a machine that has the OpenAI client alone."""
    for name in ("omni_video.py", "sample.py"):
        shutil.copy(EXAMPLES / name, tmp_path)
    code = (
        "import importlib.util, runpy, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'sglang_nemotron' else find(name)\n"
        "sys.argv = ['omni_video.py']\n"
        "sys.path.insert(0, '.')\n"
        "runpy.run_path('omni_video.py', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "OPENAI_BASE_URL": NOWHERE},
        capture_output=True,
        text=True,
        timeout=NET_S,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "omni_video.py: no file was given, and sglang-nemotron, which has some, is not installed\n"
        "  remedy: give a FILE\n"
    )


def test_other_faults_keep_their_traceback(tmp_path: Path) -> None:
    """The two lines are for what a user can mend."""
    fault = tmp_path / "fault.py"
    fault.write_text("import sample\nsample.plain_errors()\nraise ValueError('ours')\n")
    done = subprocess.run(
        [sys.executable, fault],
        env={**os.environ, "PYTHONPATH": str(EXAMPLES)},
        capture_output=True,
        text=True,
        timeout=NET_S,
    )
    assert done.returncode == 1 and "Traceback" in done.stderr and done.stderr.endswith("ValueError: ours\n")
