"""Every file in examples/ runs as it is, in a process of its own, against a real server."""

from __future__ import annotations

import re

import pytest

from sglang_nemotron.cli.server import ServerProcess
from support.examples import names, output, run_example
from support.scripted import SCRIPTED
from support.serving import TEXT_EXAMPLES, Served

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
    assert sorted(PROMISES) == names("text_*.py")


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
    said = output(name, server.url)
    assert re.search(PROMISES[name], said), said


@pytest.mark.server(SCRIPTED)
def test_what_a_server_refuses_is_said(server: ServerProcess):
    """A picture, to a model that takes words alone."""
    done = run_example("omni_image_base64.py", server.url)
    assert done.returncode == 1 and done.stdout == ""
    reason, remedy = done.stderr.splitlines()
    assert re.match(r"omni_image_base64.py: the server refused: .*\w", reason), reason
    assert remedy.startswith("  remedy: omni_*.py need an Omni model")
