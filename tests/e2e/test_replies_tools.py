"""`tool_choice`, strict schemas and the other endpoints: what a scripted model says, and what it is made to say."""

from __future__ import annotations

import json
import urllib.request
from itertools import product
from typing import Any

import pytest
from openai import OpenAI

from sglang_nemotron.cli.server import ServerProcess
from support.scripted import SCRIPTED, Heard, ask, script, stream
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
WAYS = {"whole": ask, "streamed": stream}
HOW = pytest.mark.parametrize("hear", WAYS.values(), ids=WAYS)
THOUGHT = {"thinking": True, "plain": False}


def half(**choices: dict[str, Any]) -> pytest.MarkDecorator:
    """All combinations; without the matrix every other one: any two choices meet in some of them."""

    def case(names: tuple[str, ...]) -> Any:
        at = sum(list(of).index(name) for of, name in zip(choices.values(), names, strict=True))
        values = [of[name] for of, name in zip(choices.values(), names, strict=True)]
        return pytest.param(*values, id="-".join(names), marks=[pytest.mark.matrix] if at % 2 else [])

    return pytest.mark.parametrize(tuple(choices), [case(names) for names in product(*choices.values())])


def calls(heard: Heard) -> list[tuple[str, Any]]:
    return [(name, json.loads(arguments)) for name, arguments in heard.calls]


WILLING = {
    "auto": ("auto", TOOLS),
    "auto strict": ("auto", STRICT),
    "required": ("required", TOOLS),
    "required strict": ("required", STRICT),
    "named": ({"type": "function", "function": {"name": "get_weather"}}, TOOLS),
}


@half(asked=WILLING, thinking=THOUGHT, hear=WAYS)
def test_a_willing_model(asked: Any, thinking: bool, hear: Any, server: ServerProcess) -> None:
    """What the grammar of each choice allows, the parser reads."""
    choice, tools = asked
    text = ("I look.\n</think>" if thinking else "") + CALL
    heard = hear(server, text, tools=tools, tool_choice=choice, enable_thinking=thinking)
    assert (heard.reasoning, heard.content, calls(heard)) == ("I look." if thinking else "", "", [PARIS])
    assert heard.finish == "tool_calls"


@HOW
@pytest.mark.parametrize("thinking", THOUGHT.values(), ids=THOUGHT)
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


# ---- a response format beside tools

ANSWER: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": ANSWER}}
ANY_JSON = {"type": "json_object"}
NOW_CALL = "<tool_call>\n<function=now>\n</function>\n</tool_call>"
# an answer may quote what would be a call elsewhere
SAID = json.dumps({"a": "see <tool_call><function=now></function></tool_call>"})


@half(
    tools={"tools": TOOLS, "strict": STRICT}, wanted={"schema": FORMAT, "object": ANY_JSON}, thinking=THOUGHT, hear=WAYS
)
def test_a_format_beside_tools(tools: Any, wanted: Any, thinking: bool, hear: Any, server: ServerProcess) -> None:
    """A reply is calls or the answer, and nothing else."""
    thought = "r" if thinking else ""
    before = "r\n</think>\n" if thinking else ""
    for text, content, made in (
        (CALL, "", [PARIS]),
        (f"{CALL}\n{NOW_CALL}", "", [PARIS, ("now", {})]),
        (SAID, SAID, []),
    ):
        heard = hear(server, before + text, tools=tools, response_format=wanted, enable_thinking=thinking)
        assert (heard.reasoning, heard.content, calls(heard)) == (thought, content, made)
        assert heard.finish == ("tool_calls" if made else "stop")


@HOW
@pytest.mark.parametrize("text", [f"So\n{CALL}", f"{CALL}Done.", f"{CALL}{SAID}"])
def test_no_words_beside_calls(text: str, hear: Any, server: ServerProcess) -> None:
    """The model is not let say them: it goes on with its call, or comes to its end."""
    heard = hear(server, f"r\n</think>\n{text}", tools=TOOLS, response_format=FORMAT)
    assert (heard.content, calls(heard), heard.finish) == ("", [PARIS], "tool_calls")


@HOW
def test_a_call_that_was_demanded_wins(hear: Any, server: ServerProcess) -> None:
    named = {"type": "function", "function": {"name": "get_weather"}}
    for choice in ("required", named):
        heard = hear(server, f"r\n</think>{CALL}", tools=TOOLS, tool_choice=choice, response_format=FORMAT)
        assert (heard.reasoning, heard.content, calls(heard)) == ("r", "", [PARIS])
    one = {"parallel_tool_calls": False, "response_format": FORMAT}
    assert calls(hear(server, f"r\n</think>\n{CALL}\n{NOW_CALL}", tools=TOOLS, **one)) == [PARIS]
    heard = hear(server, "r\n</think>\n" + SAID, tools=TOOLS, tool_choice="none", response_format=FORMAT)
    assert heard.said == ("r", SAID, [])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_format_beside_tools_on_responses(stream: bool, server: ServerProcess) -> None:
    # what the Agents SDK sends for an agent that has tools and an output type
    text = {"format": {"type": "json_schema", "name": "answer", "schema": ANSWER, "strict": True}}
    strict = [{**tool, "strict": True} for tool in FLAT]
    model = OpenAI(base_url=f"{server.url}/v1", api_key="EMPTY").models.list().data[0].id
    for tools, spoken, choice, expected in (
        (FLAT, CALL, "auto", ("", [PARIS])),
        (strict, CALL, "auto", ("", [PARIS])),
        (strict, SAID, "auto", (SAID, [])),
        (FLAT, CALL, "required", ("", [PARIS])),
        (FLAT, CALL, {"type": "function", "name": "get_weather"}, ("", [PARIS])),
    ):
        body = {"model": model, "input": script(f"r\n</think>\n{spoken}"), "tools": tools, "text": text}
        body |= {"tool_choice": choice, "max_output_tokens": 600, "stream": stream}
        output = responses_output(post(server, "/v1/responses", body), stream)
        content = "".join(part["text"] for item in output if item["type"] == "message" for part in item["content"])
        made = [item for item in output if item["type"] == "function_call"]
        assert (content, [(call["name"], json.loads(call["arguments"])) for call in made]) == expected


def responses_output(text: str, stream: bool) -> list[dict[str, Any]]:
    """The items of a response, of its last event if it was streamed."""
    if not stream:
        return json.loads(text)["output"]
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert events[-1]["type"] == "response.completed"
    return events[-1]["response"]["output"]


def test_a_format_beside_tools_on_messages(server: ServerProcess) -> None:
    config = {"format": {"type": "json_schema", "schema": ANSWER}}
    for spoken, kinds in ((CALL, ["thinking", "tool_use"]), (SAID, ["thinking", "text"])):
        body = messages_body(f"r\n</think>\n{spoken}", output_config=config)
        assert [block["type"] for block in json.loads(post(server, "/v1/messages", body))["content"]] == kinds


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}], ids=["any", "named"])
def test_a_demanded_call_wins_on_messages(choice: Any, server: ServerProcess) -> None:
    config = {"format": {"type": "json_schema", "schema": ANSWER}}
    body = messages_body(f"r\n</think>\n{CALL}", output_config=config, tool_choice=choice)
    blocks = json.loads(post(server, "/v1/messages", body))["content"]
    assert [block["type"] for block in blocks] == ["thinking", "tool_use"]
    assert (blocks[1]["name"], blocks[1]["input"]) == PARIS


@HOW
@pytest.mark.parametrize("format", [{}, {"response_format": FORMAT}], ids=["tools", "beside a format"])
def test_thoughts_that_stay_in_the_content(format: Any, hear: Any, server: ServerProcess) -> None:
    """`separate_reasoning: false`: the call is none of the content all the same, and a call in thoughts is prose."""
    thoughts = "I could say <tool_call><function=now></function></tool_call>.\n</think>"
    heard = hear(server, f"{thoughts}\n{CALL}", tools=TOOLS, separate_reasoning=False, **format)
    assert (heard.reasoning, heard.content, calls(heard), heard.finish) == ("", thoughts, [PARIS], "tool_calls")


def test_a_schema_that_cannot_be_kept_is_a_400(server: ServerProcess) -> None:
    """With tools as without."""
    from openai import BadRequestError

    for schema, said in (
        ({"type": "object", "properties": {"x": {"type": "string", "format": "colour"}}}, "colour"),
        ({"type": "object", "properties": {"x": {"$ref": "#/$defs/none"}}}, "none"),
    ):
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        for tools in ({}, {"tools": TOOLS}):
            with pytest.raises(BadRequestError, match=said):
                ask(server, "r\n</think>\nx", response_format=wanted, **tools)


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
