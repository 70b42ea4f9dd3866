"""Thinking budgets on a real server: a scripted model that thinks on is closed off where its request says, and only it.

Bytes are tokens here, so the numbers of tokens are numbers of characters (a few pairs such as "th" aside).
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import pytest
from openai import BadRequestError
from scripted import SCRIPTED, Heard, ask, script, stream, streams

from sglang_nemotron.cli.server import ServerProcess
from support.waiting import NET_S

pytestmark = pytest.mark.server(SCRIPTED)

HOW = pytest.mark.parametrize("hear", [ask, stream], ids=["whole", "streamed"])
# each letter one token
LINES = "abc\nxyz\npqr"
SCRIPT = f"{LINES}\n</think>\nyes"
TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "string"}}}},
}
CALL = "<tool_call>\n<function=f>\n<parameter=x>\n1\n</parameter>\n</function>\n</tool_call>"
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
JSON_ANSWER = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}


def limited(tokens: int, grace: int | None = None) -> dict[str, Any]:
    params = {"thinking_budget": tokens}
    return {"custom_params": params if grace is None else {**params, "thinking_budget_grace_period": grace}}


# budget and grace -> the reasoning that is left
LEFT = {
    (0, None): "",
    (0, 0): "",
    (1, None): "abc",
    (3, None): "abc",
    (4, None): "abc",
    (5, None): "abc\nxyz",
    (1, 0): "a",
    (1, 1): "ab",
    (6, 0): "abc\nxy",
    (6, 1): "abc\nxyz",
    (9, 500): LINES,
    (100000, None): LINES,
}


@HOW
@pytest.mark.parametrize(("budget", "left"), LEFT.items(), ids=lambda value: str(value).replace("\n", " "))
def test_budget(budget: tuple[int, int | None], left: str, hear: Any, server: ServerProcess) -> None:
    heard = hear(server, SCRIPT, **limited(*budget))
    assert heard.said == (left, "yes", [])
    assert heard.finish == "stop"


def test_a_batch_of_different_budgets(server: ServerProcess) -> None:
    """Also requests without one, twice each: the second finds the first one's prompt in the cache."""
    kinds: list[tuple[dict[str, Any], str]] = [
        ({}, LINES),
        *((limited(*budget), left) for budget, left in LEFT.items()),
    ]
    wanted = kinds * 2
    for heard, (_, left) in zip(streams(server, [(SCRIPT, options) for options, _ in wanted]), wanted, strict=True):
        assert heard.said == (left, "yes", [])


@HOW
def test_usage(hear: Any, server: ServerProcess) -> None:
    heard = hear(server, SCRIPT, **limited(1, 0))
    # a, newline and </think> of 3, then newline, y, es and the end of the turn
    assert heard.usage.reasoning_tokens == 3
    assert heard.usage.completion_tokens == 7
    assert hear(server, SCRIPT, **limited(0)).usage.reasoning_tokens == 1


@HOW
@pytest.mark.parametrize("name", ["thinking_token_budget", "thinking_budget", "max_thinking_tokens"])
def test_names_in_the_body(name: str, hear: Any, server: ServerProcess) -> None:
    """The first is what clients of vLLM send."""
    assert hear(server, SCRIPT, **{name: 3}).said == ("abc", "yes", [])


@HOW
@pytest.mark.parametrize("tokens", [0, 3, 100])
def test_with_a_json_schema(tokens: int, hear: Any, server: ServerProcess) -> None:
    heard = hear(server, LINES + '\n</think>{"n": 42}', response_format=JSON_ANSWER, **limited(tokens))
    assert heard.reasoning == {0: "", 3: "abc", 100: LINES}[tokens]
    assert json.loads(heard.content) == {"n": 42}


@HOW
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_with_tools(choice: str, hear: Any, server: ServerProcess) -> None:
    heard = hear(server, f"{LINES}\n</think>{CALL}", tools=[TOOL], tool_choice=choice, **limited(3))
    assert (heard.reasoning, heard.content) == ("abc", "")
    assert [(name, json.loads(arguments)) for name, arguments in heard.calls] == [("f", {"x": "1"})]


@HOW
def test_a_call_in_thinking_ends_the_budget(hear: Any, server: ServerProcess) -> None:
    """What follows the call is no thinking, however long."""
    text = "abc\n" + CALL.replace("\n1\n", "\n" + "long " * 30 + "\n")
    heard = hear(server, text, tools=[TOOL], **limited(40, 0))
    assert (heard.reasoning, heard.content) == ("abc", "")
    ((_, arguments),) = heard.calls
    assert json.loads(arguments) == {"x": "long " * 30}


@HOW
def test_no_thinking_needs_no_budget(hear: Any, server: ServerProcess) -> None:
    heard = hear(server, "A </think> b.", enable_thinking=False, **limited(0))
    assert heard.said == ("", "A </think> b.", [])


@HOW
def test_going_on_in_the_middle_of_a_thought(hear: Any, server: ServerProcess) -> None:
    messages = [{"role": "user", "content": script(SCRIPT)}, {"role": "assistant", "content": "<think>\nSo"}]
    heard = hear(server, "", messages=messages, continue_final_message=True, **limited(0))
    # the prompt stands in the middle of a line, so a newline is forced first: it is the block's own
    assert heard.said == ("", "yes", [])


# ---- /generate

PROMPT = f"<|im_start|>user\n{script(SCRIPT)}<|im_end|>\n<|im_start|>assistant\n<think>\n"


def generate(server: ServerProcess, **body: Any) -> Any:
    request = urllib.request.Request(
        server.url + "/generate", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=NET_S) as reply:
        return json.loads(reply.read())


@pytest.mark.parametrize(
    "where",
    [
        {"max_thinking_tokens": 3},
        {"thinking_token_budget": 3},
        {"sampling_params": {"custom_params": {"thinking_budget": 3}}},
    ],
    ids=["body", "vLLM's", "custom_params"],
)
def test_generate(where: dict[str, Any], server: ServerProcess) -> None:
    params = {"max_new_tokens": 100, **where.pop("sampling_params", {})}
    assert generate(server, text=PROMPT, sampling_params=params, **where)["text"] == "abc\n</think>\nyes"


def test_generate_a_list(server: ServerProcess) -> None:
    many = [{"max_new_tokens": 100, **more} for more in (limited(0), {}, limited(3))]
    texts = [one["text"] for one in generate(server, text=[PROMPT] * 3, sampling_params=many)]
    assert texts == ["</think>\nyes", SCRIPT, "abc\n</think>\nyes"]


def test_generate_with_a_schema(server: ServerProcess) -> None:
    prompt = PROMPT.replace(script(SCRIPT), script(LINES + '\n</think>{"n": 1}'))
    params = {"max_new_tokens": 100, "json_schema": json.dumps(SCHEMA), **limited(3)}
    reply = generate(server, text=prompt, sampling_params=params, require_reasoning=True)
    assert reply["text"] == 'abc\n</think>{"n": 1}'
    with pytest.raises(urllib.error.HTTPError) as refused:
        generate(server, text=prompt, sampling_params=params)
    assert refused.value.code == 400
    assert "require_reasoning" in refused.value.read().decode()


# ---- other endpoints


def test_messages(server: ServerProcess) -> None:
    """Anthropic's budget, which that API wants to be 1024 at least."""
    thought = "a\n" * 514
    body = {
        "model": "default",
        "max_tokens": 1100,
        "messages": [{"role": "user", "content": script(thought + "</think>\nyes")}],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }
    request = urllib.request.Request(
        server.url + "/v1/messages", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=NET_S) as reply:
        blocks = {block["type"]: block for block in json.loads(reply.read())["content"]}
    assert blocks["thinking"]["thinking"] == "a\n" * 511 + "a"
    assert blocks["text"]["text"] == "yes"


def test_responses(server: ServerProcess) -> None:
    from openai import OpenAI

    client = OpenAI(base_url=f"{server.url}/v1", api_key="EMPTY")
    model = client.models.list().data[0].id
    reply = client.responses.create(
        model=model, input=script(SCRIPT), max_output_tokens=200, extra_body={"thinking_token_budget": 3}
    )
    found = {item.type: item.content[0].text for item in reply.output}
    assert found == {"reasoning": "abc", "message": "yes"}


# ---- bad input


@HOW
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"custom_params": {"thinking_budget": -1}}, "thinking_budget is -1"),
        ({"custom_params": {"thinking_budget": "many"}}, "thinking_budget is 'many'"),
        ({"thinking_token_budget": 10**9}, "thinking_token_budget is 1000000000"),
        ({"thinking_token_budget": 1, "custom_params": {"thinking_budget": 2}}, "these thinking budgets differ"),
    ],
)
def test_bad_budgets_are_a_400(options: dict[str, Any], said: str, hear: Any, server: ServerProcess) -> None:
    with pytest.raises(BadRequestError, match=said):
        hear(server, SCRIPT, **options)


def test_bad_budgets_of_generate(server: ServerProcess) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        generate(server, text=PROMPT, max_thinking_tokens=10**9)
    assert refused.value.code == 400
    assert "max_thinking_tokens is 1000000000" in refused.value.read().decode()


def test_the_server_lives_on(server: ServerProcess) -> None:
    heard: Heard = ask(server, SCRIPT)
    assert heard.said == (LINES, "yes", [])
