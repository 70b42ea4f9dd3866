"""`tool_choice`, strict schemas and the other endpoints: what a scripted model says, and what it is made to say."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest
from openai import OpenAI
from scripted import SCRIPTED, Heard, ask, script, stream

from sglang_nemotron.cli.server import ServerProcess
from support.waiting import NET_S

pytestmark = pytest.mark.server(SCRIPTED)

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}
NOW = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
TOOLS = [WEATHER, NOW]
STRICT = [{"type": "function", "function": {**WEATHER["function"], "strict": True}}, NOW]
BODY = "<parameter=city>\nParis\n</parameter>\n<parameter=days>\n2\n</parameter>"
CALL = f"<tool_call>\n<function=get_weather>\n{BODY}\n</function>\n</tool_call>"
PARIS = ("get_weather", {"city": "Paris", "days": 2})
HOW = pytest.mark.parametrize("hear", [ask, stream], ids=["whole", "streamed"])


def calls(heard: Heard) -> list[tuple[str, Any]]:
    return [(name, json.loads(arguments)) for name, arguments in heard.calls]


@HOW
@pytest.mark.parametrize("thinking", [True, False], ids=["thinking", "plain"])
@pytest.mark.parametrize(
    ("choice", "tools"),
    [
        ("auto", TOOLS),
        ("auto", STRICT),
        ("required", TOOLS),
        ("required", STRICT),
        ({"type": "function", "function": {"name": "get_weather"}}, TOOLS),
    ],
    ids=["auto", "auto strict", "required", "required strict", "named"],
)
def test_a_willing_model(choice: Any, tools: Any, thinking: bool, hear: Any, server: ServerProcess) -> None:
    """What the grammar of each choice allows, the parser reads."""
    text = ("I look.\n</think>" if thinking else "") + CALL
    heard = hear(server, text, tools=tools, tool_choice=choice, enable_thinking=thinking)
    assert (heard.reasoning, heard.content, calls(heard)) == ("I look." if thinking else "", "", [PARIS])
    assert heard.finish == "tool_calls"


@HOW
@pytest.mark.parametrize("thinking", [True, False], ids=["thinking", "plain"])
@pytest.mark.parametrize("choice", ["required", "named"])
def test_an_unwilling_model_calls_all_the_same(choice: str, thinking: bool, hear: Any, server: ServerProcess) -> None:
    named = {"type": "function", "function": {"name": "now"}}
    text = ("r\n</think>" if thinking else "") + "I would rather not."
    options = {"tools": [NOW], "tool_choice": "required" if choice == "required" else named}
    heard = hear(server, text, enable_thinking=thinking, max_tokens=200, **options)
    assert heard.reasoning == ("r" if thinking else "")
    assert calls(heard)[:1] == [("now", {})]


@HOW
def test_a_strict_schema_is_kept(hear: Any, server: ServerProcess) -> None:
    """The model wants letters where the schema wants a number."""
    wrong = "r\n</think>" + CALL.replace("\n2\n", "\n2nd\n")
    assert calls(hear(server, wrong, tools=TOOLS)) == [("get_weather", {"city": "Paris", "days": "2nd"})]
    assert calls(hear(server, wrong, tools=STRICT)) == [PARIS]


@HOW
def test_calls_are_forbidden(hear: Any, server: ServerProcess) -> None:
    heard = hear(server, "r\n</think>\n" + CALL, tools=TOOLS, tool_choice="none")
    assert heard.said == ("r", CALL, []) and heard.finish == "stop"


@HOW
def test_parallel_calls(hear: Any, server: ServerProcess) -> None:
    now = "<tool_call>\n<function=now>\n</function>\n</tool_call>"
    text = f"r\n</think>\nBoth:\n{CALL}\n{now}\nThere."
    heard = hear(server, text, tools=TOOLS)
    assert (heard.content, calls(heard)) == ("Both:\nThere.", [PARIS, ("now", {})])
    one = hear(server, f"r\n</think>{CALL}{now}", tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    assert calls(one)[:1] == [PARIS]
    one = hear(server, text, tools=TOOLS, parallel_tool_calls=False)
    assert (one.content, calls(one), one.finish) == ("Both:\nThere.", [PARIS], "tool_calls")


@HOW
def test_json_answers_with_thinking(hear: Any, server: ServerProcess) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    for thinking in (True, False):
        text = ("r\n</think>" if thinking else "") + '{"n": 42}'
        heard = hear(server, text, response_format=wanted, enable_thinking=thinking)
        assert (heard.reasoning, json.loads(heard.content)) == ("r" if thinking else "", {"n": 42})


# ---- /v1/responses and /v1/messages

FLAT = [{"type": "function", **tool["function"], "strict": False} for tool in TOOLS]
INPUT = [{"name": tool["function"]["name"], "input_schema": tool["function"]["parameters"]} for tool in TOOLS]
SPOKEN = f"I look.\n</think>\nWait.\n{CALL}"


def test_responses(server: ServerProcess) -> None:
    client = OpenAI(base_url=f"{server.url}/v1", api_key="EMPTY")
    model = client.models.list().data[0].id
    reply = client.responses.create(model=model, input=script(SPOKEN), tools=FLAT, max_output_tokens=600)
    found = {item.type: item for item in reply.output}
    assert set(found) == {"reasoning", "message", "function_call"}
    assert found["reasoning"].content[0].text == "I look."
    assert found["message"].content[0].text == "Wait."
    assert (found["function_call"].name, json.loads(found["function_call"].arguments)) == PARIS


def test_responses_streamed(server: ServerProcess) -> None:
    client = OpenAI(base_url=f"{server.url}/v1", api_key="EMPTY")
    model = client.models.list().data[0].id
    text: dict[str, str] = {}
    for event in client.responses.create(
        model=model, input=script(SPOKEN), tools=FLAT, max_output_tokens=600, stream=True
    ):
        if event.type.endswith(".delta"):
            text[event.type] = text.get(event.type, "") + event.delta
    assert text["response.reasoning_text.delta"] == "I look."
    assert text["response.output_text.delta"] == "Wait."
    assert json.loads(text["response.function_call_arguments.delta"]) == PARIS[1]


def post(server: ServerProcess, path: str, body: dict[str, Any]) -> str:
    request = urllib.request.Request(server.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=NET_S) as reply:
        return reply.read().decode()


def messages_body(text: str, **more: Any) -> dict[str, Any]:
    question = [{"role": "user", "content": script(text)}]
    return {"model": "default", "max_tokens": 1500, "messages": question, "tools": INPUT, **more}


def test_messages(server: ServerProcess) -> None:
    reply = json.loads(post(server, "/v1/messages", messages_body(SPOKEN)))
    blocks = {block["type"]: block for block in reply["content"]}
    assert blocks["thinking"]["thinking"] == "I look."
    assert blocks["text"]["text"] == "Wait."
    assert (blocks["tool_use"]["name"], blocks["tool_use"]["input"]) == PARIS
    assert reply["stop_reason"] == "tool_use"


def test_messages_streamed(server: ServerProcess) -> None:
    text: dict[str, str] = {}
    for line in post(server, "/v1/messages", messages_body(SPOKEN, stream=True)).splitlines():
        if line.startswith("data: {"):
            delta = json.loads(line[6:]).get("delta") or {}
            for field in ("thinking", "text", "partial_json"):
                text[field] = text.get(field, "") + delta.get(field, "")
    assert (text["thinking"], text["text"]) == ("I look.", "Wait.")
    assert json.loads(text["partial_json"]) == PARIS[1]


def test_messages_without_thinking(server: ServerProcess) -> None:
    reply = json.loads(post(server, "/v1/messages", messages_body("Plain.", thinking={"type": "disabled"})))
    assert [block["type"] for block in reply["content"]] == ["text"]
    assert reply["content"][0]["text"] == "Plain."
