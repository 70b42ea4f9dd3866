"""Clients of a server that read the beginning of a long answer and hang up."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from sglang_nemotron.parity.prompts import make_prompt
from support.parity_checks import VOCAB_SIZE
from support.waiting import NET_S


@contextmanager
def streams(url: str, count: int) -> Iterator[list[bytes]]:
    """Long answers of which one piece was read; leaving hangs up."""
    replies, pieces = [], []
    for index in range(count):
        body = {
            "input_ids": make_prompt(40 + index, VOCAB_SIZE, seed=99),
            "sampling_params": {"temperature": 0, "max_new_tokens": 3900, "ignore_eos": True},
            "stream": True,
        }
        request = urllib.request.Request(
            url + "/generate", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        reply = urllib.request.urlopen(request, timeout=NET_S)
        replies.append(reply)
        pieces.append(reply.readline())
    try:
        yield pieces
    finally:
        for reply in replies:
            reply.close()
