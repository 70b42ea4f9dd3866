"""Refuses a chat whose JSON body is a list, a text or a number, or asks for no answer, in servers of ours.

SGLang looks for a field in it before anything says that it must be an object, and answers 500; and it steps by `n`
before anything looks at that, and tells of an argument of `range`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from fastapi import HTTPException

from sglang_nemotron.host.requests import check_num_answers
from sglang_nemotron.host.wrapping import wrap_once

_SERVER = "sglang.srt.entrypoints.http_server"
# where SGLang reads a chat request; elsewhere it says itself what is wrong
_CHATS = ("/v1/chat/completions", "/invocations")
_KINDS = {list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number", type(None): "null"}


def check_bodies() -> None:
    """Puts ours around the reading of JSON bodies, where this process answers HTTP; may be repeated."""
    server: Any = sys.modules.get(_SERVER)
    if server is not None:
        wrap_once(((server.ORJSONRequest, "json", _objects),), "refuses_other_than_objects")


def _objects(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def json(self: Any) -> Any:
        value = await original(self)
        if self.url.path.endswith(_CHATS):
            # SGLang makes its usual answer of it; any other error here would lose its text
            if not isinstance(value, dict):
                raise HTTPException(400, f"the body is {_KINDS[type(value)]}; a chat is a JSON object")
            try:
                check_num_answers(value)
            except ValueError as error:
                raise HTTPException(400, str(error)) from error
        return value

    return json
