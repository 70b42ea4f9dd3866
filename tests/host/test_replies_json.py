"""Integers of any length: in a body, in the arguments of earlier calls, in an answer that repeats a schema."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
import sglang.cli.serve  # noqa: F401
from sglang.srt.entrypoints import http_server
from sglang.srt.entrypoints.openai import serving_chat, serving_responses
from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest
from sglang.srt.utils import json_response

from sglang_nemotron.host.http import replies, reply_json
from sglang_nemotron.host.http.reply_json import ExactJson

MODULES = (http_server, serving_chat, serving_responses, json_response)
# 64 bits hold the first three, no double holds the last
NUMBERS = [0, 2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**40 + 1, -(10**40) - 1, 10**400 + 1]
EXACT = ExactJson(orjson)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A process that answers HTTP, when SGLang has read what model it serves."""
    for module in MODULES:
        monkeypatch.setattr(module, "orjson", orjson)

    def start(ours: bool) -> None:
        monkeypatch.setattr(reply_json, "serves_ours", lambda manager: ours)
        manager = SimpleNamespace(model_config=SimpleNamespace(hf_config=None))
        reply_json._then_open_json(lambda self: None)(manager)

    return start


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: f"{len(str(number))} characters")
def test_an_integer_comes_and_goes_as_it_is(number: int) -> None:
    text = f'{{"a": [{number}, 1.5, "x"]}}'
    for form in (text, text.encode(), bytearray(text.encode())):
        found = EXACT.loads(form)
        assert found == {"a": [number, 1.5, "x"]} and type(found["a"][0]) is int
    assert json.loads(EXACT.dumps(found)) == found


def test_what_orjson_makes_of_them() -> None:
    """If this fails, orjson reads them: ours can go."""
    assert type(orjson.loads(str(2**64))) is float
    with pytest.raises(orjson.JSONDecodeError, match="infinity"):
        orjson.loads(str(10**400))
    with pytest.raises(TypeError, match="64-bit"):
        orjson.dumps(2**64)


@pytest.mark.parametrize(
    "text",
    ["", "{", "NaN", '{"a": 1e400}', f'{{"a": NaN, "b": {2**70}}}', f"[{10**400}, NaN]", "9" * 4301, '"\ud800"'],
    ids=lambda text: text[:20],
)
def test_what_orjson_refuses_stays_refused(text: str) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(text)
    with pytest.raises(orjson.JSONDecodeError):
        EXACT.loads(text)


def test_other_values_are_orjsons_own() -> None:
    value = {"é": [1e300, True, None, {"x": 2**63}]}
    assert EXACT.loads(orjson.dumps(value)) == value
    assert EXACT.dumps(value) == orjson.dumps(value)
    assert EXACT.dumps({1: 2}, option=EXACT.OPT_NON_STR_KEYS) == b'{"1":2}'
    with pytest.raises(TypeError, match="not JSON serializable"):
        EXACT.dumps(object())


@pytest.mark.parametrize("ours", [True, False])
def test_bodies_and_histories(started: Any, ours: bool) -> None:
    started(ours)
    schema = {"type": "object", "properties": {"id": {"type": "integer", "enum": [2**70]}}}
    body = json.dumps({"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}).encode()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    scope = {"type": "http", "path": "/v1/responses", "headers": []}
    found = asyncio.run(http_server.ORJSONRequest(scope, receive).json())
    (member,) = found["tools"][0]["function"]["parameters"]["properties"]["id"]["enum"]
    assert (type(member) is int and member == 2**70) is ours
    arguments = serving_chat.parse_tool_call_arguments(f'{{"id": {2**70}}}')
    assert (arguments == {"id": 2**70} and type(arguments["id"]) is int) is ours
    if ours:
        # a reply that repeats its tools
        assert json.loads(json_response.dumps_json(found)) == found
        assert all(isinstance(module.orjson, ExactJson) for module in MODULES)
        request = ChatCompletionRequest(model="m", messages=[{"role": "user", "content": "q"}], **found)
        replies.check_request_tools(request)
    else:
        assert all(module.orjson is orjson for module in MODULES)
