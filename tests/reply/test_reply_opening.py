"""How a reply begins, read off its rendered prompt."""

from __future__ import annotations

import pytest

from sglang_nemotron.reply.reasoning import Opening, opening

USER = "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nSay <think> twice.<|im_end|>\n"


@pytest.mark.parametrize(
    ("prompt", "thinking", "line_start"),
    [
        (USER + "<|im_start|>assistant\n<think>\n", True, True),
        (USER + "<|im_start|>assistant\n<think></think>", False, True),
        (USER + "<|im_start|>assistant\n", False, True),
        (USER + "<|im_start|>assistant\n<think>\nI begin to", True, False),
        (USER + "<|im_start|>assistant\n<think>\nI begin\n", True, True),
        (USER + "<|im_start|>assistant\n<think>\n<think>\nx\n</think>\nSure, h", False, False),
        (USER + "<|im_start|>assistant\n<think></think>Sure", False, False),
        (
            "<|im_start|>assistant\n<think>\nold\n</think>\nold<|im_end|>\n"
            + USER
            + "<|im_start|>assistant\n<think>\n",
            True,
            True,
        ),
        # stand-ins of a detector that sees no prompt
        ("<think>\n", True, True),
        ("<think></think>", False, True),
        ("<think>\n<think>\nr</think>c", False, False),
        ("", False, True),
        ("plain text of a completion", False, False),
    ],
)
def test_opening(prompt: str, thinking: bool, line_start: bool) -> None:
    assert opening(prompt) == Opening(thinking, line_start)
