"""The examples on replies run as they are, in processes of their own, against a real server."""

from __future__ import annotations

import re

import pytest

from sglang_nemotron.cli.server import ServerProcess
from support.examples import names, output
from support.scripted import SCRIPTED

# what each must show with random weights; kept to words, they think to the end unless a budget closes the block
PROMISES = {
    "reply_streaming.py": r"== reasoning_content\n(.|\n)+\[\d+ tokens, \d+ of them thinking\]",
    "reply_reasoning.py": (
        r"Reasoning on\nReasoning:\n(?!None)\s*\S(.|\n)*Reasoning off\nReasoning:\nNone\nContent:\n(?!None)\s*\S"
    ),
    "reply_tools.py": r"tool calls: \[Chat(.|\n)+name='get_weather'(.|\n)+result: \{(.|\n)+reasoning: (?!None)",
    "reply_budget.py": (
        r"thinking_budget'(.|\n)+reasoning: (?!None)(.|\n)+content: \s*\S(.|\n)+ "
        r"(\d|[123]\d|4[0-2]) of them thinking\]\n"
        r"(.|\n)+reasoning: None\ncontent: \s*\S(.|\n)+ 1 of them thinking\]"
    ),
    "reply_budget_client.py": r"reasoning: \s*\S(.|\n)+content: \s*\S",
}


def test_every_example_has_a_promise() -> None:
    assert sorted(PROMISES) == names("reply_*.py")


@pytest.mark.server(SCRIPTED)
@pytest.mark.parametrize("name", sorted(PROMISES))
def test_example(name: str, server: ServerProcess) -> None:
    said = output(name, server.url)
    assert re.search(PROMISES[name], said), said
