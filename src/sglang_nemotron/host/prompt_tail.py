"""The end of a rendered prompt, from its token ids: as much of it as tells how the reply begins, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sglang_nemotron.reply.markup import THINK_CLOSE, THINK_OPEN
from sglang_nemotron.reply.reasoning import ASSISTANT_HEADER

_TELLING = (ASSISTANT_HEADER, THINK_OPEN, THINK_CLOSE)
_FIRST_LOOK = 32


def prompt_tail(prompt: str | Sequence[int], tokenizer: Any) -> str:
    """The text of the last tokens of a prompt, reaching back to the last assistant header or think tag if it has one.

    Decoded from the end, since a prompt may be long; a tag that comes before the header is none of this reply's.
    """
    if isinstance(prompt, str):
        return prompt
    size = _FIRST_LOOK
    while True:
        ids = [int(token) for token in prompt[-size:]]
        text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if size >= len(prompt) or any(mark in text for mark in _TELLING):
            return text
        size *= 4
