"""Refuses a chat whose JSON body is a list, a text or a number, or asks for no answer, and any body that is nested too
deep, in servers of ours.

SGLang looks for a field in it before anything says that it must be an object, and answers 500; and it steps by `n`
before anything looks at that, and tells of an argument of `range`. What renders a chat goes down a body by recursion.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from sglang_nemotron.host.counts import refused
from sglang_nemotron.host.door import Door
from sglang_nemotron.host.http.requests import check_num_answers, is_ours
from sglang_nemotron.prompt.bounds import check_body
from sglang_nemotron.sglang_api.wrapping import Wrap

SERVER = "sglang.srt.entrypoints.http_server"
_MANAGER = "sglang.srt.managers.tokenizer_manager"
# where SGLang reads a chat request; elsewhere it says itself what is wrong
_CHATS = ("/v1/chat/completions", "/invocations")
_KINDS = {list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number", type(None): "null"}

# whether this process answers for a model of ours; until it knows its model, it answers nothing
_serves_ours = False


def _then_look(init: Callable[..., Any]) -> Callable[..., Any]:
    # the first moment at which a process that answers HTTP knows its model
    @functools.wraps(init)
    def looked(self: Any) -> Any:
        global _serves_ours
        result = init(self)
        _serves_ours = is_ours(self)
        return result

    return looked


def _objects(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def json(self: Any) -> Any:
        value = await original(self)
        if _serves_ours:
            _check(value, chat=self.url.path.endswith(_CHATS))
        return value

    return json


def _check(value: Any, *, chat: bool) -> None:
    from fastapi import HTTPException

    try:
        if chat and not isinstance(value, dict):
            raise ValueError(f"the body is {_KINDS[type(value)]}; a chat is a JSON object")
        check_body(value)
        if chat:
            check_num_answers(value)
    except ValueError as error:
        refused(error, "body")
        # SGLang makes its usual answer of it; any other error here would lose its text
        raise HTTPException(400, str(error)) from error


CHAT_BODIES = Door(
    "chat bodies",
    "http",
    "a chat that is no JSON object is a 400",
    needs=(_MANAGER, SERVER),
    wraps=(
        Wrap(_MANAGER, "TokenizerManager", "init_tokenizer_and_processor", _then_look),
        Wrap(SERVER, "ORJSONRequest", "json", _objects),
    ),
    without="goes without our look at the bodies of chats",
)
