"""Calls that `max_tokens` or a stop string cuts inside a value, on a real server: told as cut, streamed and whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sglang_nemotron.cli.server import ServerProcess
from support.scripted import SCRIPTED, script
from support.serving import Servers, post

pytestmark = pytest.mark.server(SCRIPTED)

PROPERTIES = {"n": {"type": "integer"}, "command": {"type": "string"}}
PARAMETERS = {"type": "object", "properties": PROPERTIES}
HEAD = "r\n</think>\nI look.\n<tool_call>\n<function=bash>\n<parameter=n>\n3\n</parameter>\n<parameter=command>\n"
TAIL = "\n</parameter>\n</function>\n</tool_call>"
FUNCTION = "</function>"
BEGUN = '{"n": 3, "command": "ls -la -la'


def call(value: str) -> str:
    return HEAD + value + TAIL


CUT: dict[str, tuple[str, dict[str, Any], str]] = {
    # what the model says, how it is cut, and what the response says of itself
    "by its length": (call("ls" + " -la" * 60), {"max_output_tokens": 120}, "incomplete"),
    "by a stop string": (call("ls -la -la STOP -la"), {"stop": ["STOP"]}, "completed"),
    "by a closing tag of its own": (call("ls -la -la\n<function=f>\n</function>"), {"stop": [FUNCTION]}, "completed"),
}


def response(
    server: ServerProcess, servers: Servers, text: str, stream: bool, **options: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The response, of the last event if it was streamed, and the events."""
    tools = [{"type": "function", "name": "bash", "parameters": PARAMETERS}]
    body = {"model": str(servers.checkpoint(SCRIPTED.checkpoint)), "input": script(text), "tools": tools}
    body |= {"max_output_tokens": 600, "temperature": 0, "store": False, "stream": stream, **options}
    status, answer = post(server.url, "/v1/responses", body)
    assert status == 200, answer
    if not stream:
        return json.loads(answer), []
    events = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: {")]
    return events[-1]["response"], events


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("label", CUT)
def test_a_response_tells_a_call_that_was_cut(
    label: str, stream: bool, server: ServerProcess, servers: Servers
) -> None:
    text, options, status = CUT[label]
    reply, events = response(server, servers, text, stream, **options)
    assert reply["status"] == status
    assert (reply["incomplete_details"] or {}).get("reason") == (
        "max_output_tokens" if status == "incomplete" else None
    )
    (made,) = [item for item in reply["output"] if item["type"] == "function_call"]
    assert made["status"] == "incomplete" and made["arguments"].startswith(BEGUN)
    assert "STOP" not in made["arguments"]
    with pytest.raises(ValueError):
        json.loads(made["arguments"])
    if stream:
        assert events[-1]["type"] == f"response.{status}"
        deltas = [event for event in events if event["type"] == "response.function_call_arguments.delta"]
        assert "".join(event["delta"] for event in deltas) == made["arguments"]
        done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        assert (done[-1]["type"], done[-1]["status"]) == ("function_call", "incomplete")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "options",
    [
        {"stop": ["</parameter>"]},
        {"stop": ["</parameter>\n</function>"]},
        {"stop": ["</tool_call>"]},
        {"stop": ["\n</tool_call>"]},
    ],
    ids=["parameter", "function", "call", "call and its newline"],
)
def test_a_closing_tag_as_stop_string_leaves_a_whole_call(
    options: Any, stream: bool, server: ServerProcess, servers: Servers
) -> None:
    spoken = "<tool_call>\n<function=bash>\n<parameter=command>\nls" + TAIL
    reply, _ = response(server, servers, f"r\n</think>\n{spoken}", stream, **options)
    assert reply["status"] == "completed"
    (made,) = [item for item in reply["output"] if item["type"] == "function_call"]
    assert (made["status"], json.loads(made["arguments"])) == ("completed", {"command": "ls"})


@pytest.mark.parametrize("label", CUT)
def test_a_streamed_message_leaves_its_json_open(label: str, server: ServerProcess) -> None:
    text, options, _ = CUT[label]
    ends = {"stop_sequences": options["stop"]} if "stop" in options else {"max_tokens": 120}
    tools = [{"name": "bash", "input_schema": PARAMETERS}]
    body = {"model": "default", "messages": [{"role": "user", "content": script(text)}], "tools": tools}
    body |= {"max_tokens": 600, "temperature": 0, "stream": True, **ends}
    status, answer = post(server.url, "/v1/messages", body)
    assert status == 200, answer
    events = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: {")]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    written = "".join(delta.get("partial_json", "") for delta in deltas)
    assert written.startswith(BEGUN)
    with pytest.raises(ValueError):
        json.loads(written)
    (end,) = [event["delta"] for event in events if event["type"] == "message_delta"]
    assert end["stop_reason"] == ("stop_sequence" if "stop" in options else "max_tokens")
