"""Every file in examples/ runs as it is, in a process of its own, against a real server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sglang_nemotron.cli.server import ServerProcess
from support.scripted import SCRIPTED
from support.serving import TEXT_EXAMPLES, Served
from support.waiting import NET_S

EXAMPLES = Path(__file__).parents[2] / "examples"

# what the output of each example must show; a file without a line here fails the test below
PROMISES = {
    "text_chat.py": r"\[length; CompletionUsage\(",
    "text_streaming.py": r"\[(\d{2,}|[2-9]) pieces\]",
    "text_reasoning.py": (
        r"== thinking on\nreasoning: (?!None)(.|\n)+== thinking off\nreasoning: None\ncontent: (?!None)"
    ),
    # words alone call no tool; that a call comes back parsed is shown by the demo
    "text_tools.py": r"reasoning: (?!None)(.|\n)+tool calls: None",
}


def test_every_example_has_a_promise():
    assert sorted(PROMISES) == sorted(path.name for path in EXAMPLES.glob("text_*.py"))


@pytest.mark.parametrize(
    "served",
    [
        # which other tests need too
        pytest.param(SCRIPTED, id="Omni's flags", marks=pytest.mark.server(SCRIPTED)),
        pytest.param(TEXT_EXAMPLES, id="Nano's flags", marks=[pytest.mark.server(TEXT_EXAMPLES), pytest.mark.matrix]),
    ],
)
@pytest.mark.parametrize("name", sorted(PROMISES))
def test_example(name: str, served: Served, server: ServerProcess):
    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        env={**os.environ, "OPENAI_BASE_URL": f"{server.url}/v1"},
        capture_output=True,
        text=True,
        timeout=NET_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert re.search(PROMISES[name], done.stdout), done.stdout


def test_an_example_without_a_server_fails():
    env = {**os.environ, "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
    done = subprocess.run(
        [sys.executable, EXAMPLES / "text_chat.py"], env=env, capture_output=True, text=True, timeout=NET_S
    )
    assert done.returncode != 0
    assert "Connection error" in done.stderr
