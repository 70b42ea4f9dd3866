"""Histories on every endpoint of a server: the prompt is the template's own of the same chat, and nothing vanishes."""

from __future__ import annotations

import base64
import json
import urllib.request
from functools import cache
from typing import Any

import pytest
from transformers import AutoTokenizer

from sglang_nemotron.cli.server import ServerProcess
from support.omni_media import film, photo
from support.omni_requests import part, uri
from support.scripted import SCRIPTED, script
from support.serving import OMNI, Servers, post
from support.waiting import NET_S

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
U = {"role": "user", "content": "hi"}
LONG = 123456789012345678901234567890
# an image has as many tokens at the least
LEAST = 256


def assistant(content: Any = "", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def call(arguments: Any) -> dict[str, Any]:
    return {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}


def result(content: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "c", "content": content}


# SGLang leaves a few of a response's tokens for itself
LIMIT: dict[str, dict[str, Any]] = {
    CHAT: {"max_tokens": 1},
    RESPONSES: {"max_output_tokens": 16, "store": False},
    MESSAGES: {"max_tokens": 1},
}


def _tokens_of(path: str, usage: dict[str, Any]) -> int:
    if path == CHAT:
        return usage["prompt_tokens"]
    return usage["input_tokens"] + (usage.get("cache_read_input_tokens", 0) if path == MESSAGES else 0)


class Prompts:
    """The prompts of one server, endpoint by endpoint, and what transformers makes of a chat."""

    def __init__(self, server: ServerProcess, checkpoint: Any) -> None:
        self._url = server.url
        # /v1/responses takes no other name
        with urllib.request.urlopen(f"{server.url}/v1/models", timeout=NET_S) as reply:
            self._model = json.load(reply)["data"][0]["id"]
        self._tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)

    def ask(self, path: str, **body: Any) -> Any:
        """The answer, or the status and text of an error."""
        status, answer = post(self._url, path, self._body(path, body))
        return json.loads(answer) if status == 200 else (status, answer)

    def _body(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return {"model": self._model, **LIMIT.get(path, {}), **body}

    def golden(self, messages: list[Any], **options: Any) -> str:
        options = {"add_generation_prompt": True, **options}
        return self._tokenizer.apply_chat_template(messages, tokenize=False, **options)

    def of_chat(self, messages: list[Any], **more: Any) -> str:
        answer = self.ask(CHAT, messages=messages, return_prompt_token_ids=True, **more)
        assert isinstance(answer, dict), answer
        ids = answer.get("prompt_token_ids") or answer["choices"][0]["prompt_token_ids"]
        return self._tokenizer.decode(ids)

    def of_tokenize(self, messages: list[Any], **more: Any) -> str:
        answer = self.ask("/v1/tokenize", messages=messages, **more)
        assert isinstance(answer, dict) and answer["count"] == len(answer["tokens"]), answer
        return self._tokenizer.decode(answer["tokens"])

    def num(self, messages: list[Any], **options: Any) -> int:
        """The tokens of a chat, if it is transformers that renders it."""
        return len(self._tokenizer.encode(self.golden(messages, **options), add_special_tokens=False))

    def used(self, path: str, **body: Any) -> int:
        """The tokens of a prompt as its answer counts them, those of a cache among them; streamed as whole."""
        answer = self.ask(path, **body)
        assert isinstance(answer, dict), answer
        whole, streamed = (_tokens_of(path, usage) for usage in (answer["usage"], self._usage_streamed(path, body)))
        assert whole == streamed, (path, body)
        return whole

    def _usage_streamed(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        wish = {"stream_options": {"include_usage": True}} if path == CHAT else {}
        status, answer = post(self._url, path, self._body(path, body) | wish | {"stream": True})
        assert status == 200, answer
        events = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: {")]
        if path == MESSAGES:
            return events[0]["message"]["usage"]
        return events[-1]["response"]["usage"] if path == RESPONSES else events[-1]["usage"]

    def refused(self, path: str, **body: Any) -> str:
        """What a 400 says, streamed as whole."""
        (whole, streamed) = (
            post(self._url, path, self._body(path, body) | {"stream": stream}) for stream in (False, True)
        )
        assert whole == streamed and whole[0] == 400, (path, whole, streamed)
        return whole[1]

    def counted(self, **body: Any) -> int:
        answer = self.ask(f"{MESSAGES}/count_tokens", **body)
        assert isinstance(answer, dict), answer
        return answer["input_tokens"]


@pytest.fixture
def prompts(server: ServerProcess, servers: Servers, request: pytest.FixtureRequest) -> Prompts:
    marker = request.node.get_closest_marker("server")
    assert marker is not None
    return Prompts(server, servers.checkpoint(marker.args[0].checkpoint))


# ---- text


PARTS = [{"type": "text", "text": "line 1"}, {"type": "text", "text": "line 2"}]
CLEAN: list[list[dict[str, Any]]] = [
    [U, assistant("Hello.")],
    [U, assistant("Hello.", reasoning_content="t")],
    [U, assistant(tool_calls=[call({})])],
    [{"role": "user", "content": PARTS}],
    [{"role": "system", "content": PARTS}, U],
    [U, assistant(PARTS), U],
    [U, assistant(tool_calls=[call({})]), result(PARTS)],
]


@pytest.mark.server(SCRIPTED)
def test_chats_are_what_their_template_makes_of_them(prompts: Prompts) -> None:
    for messages in CLEAN:
        assert prompts.of_chat(messages) == prompts.of_tokenize(messages) == prompts.golden(messages)


@pytest.mark.server(SCRIPTED)
def test_content_in_parts_on_the_other_endpoints(prompts: Prompts) -> None:
    """A list is what the template makes of a list, whatever an endpoint calls its parts."""

    def parts(kind: str) -> list[dict[str, Any]]:
        return [{**one, "type": kind} for one in PARTS]

    golden = prompts.num([{"role": "user", "content": PARTS}, assistant(PARTS), U])
    asked = [{"role": "user", "content": parts("input_text")}, assistant(parts("output_text")), U]
    assert prompts.used(RESPONSES, input=asked) == golden
    assert prompts.used(MESSAGES, messages=[{"role": "user", "content": PARTS}, assistant(PARTS), U]) == golden
    golden = prompts.num([U, assistant(tool_calls=[call({})]), result(PARTS)])
    called = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    answered = {"type": "function_call_output", "call_id": "c", "output": parts("input_text")}
    assert prompts.used(RESPONSES, input=[U, called, answered]) == golden
    block = {"type": "tool_use", "id": "c", "name": "f", "input": {}}
    told = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": PARTS}]}
    assert prompts.used(MESSAGES, messages=[U, assistant([block]), told]) == golden


@pytest.mark.server(SCRIPTED)
def test_messages_are_gone_on_with(prompts: Prompts) -> None:
    begun: list[dict[str, Any]] = [
        {"content": '{"answer":'},
        {"content": [{"type": "text", "text": "So"}]},
        {"content": "<think>\nI thought.\n</think>\nSo"},
        {"content": "So", "reasoning_content": "I thought."},
        {"content": "<think>\nI thi"},
    ]
    for last in begun:
        messages = [U, assistant(**last)]
        golden = prompts.golden(messages, add_generation_prompt=False, continue_final_message=True)
        assert prompts.of_chat(messages, continue_final_message=True) == golden
        assert prompts.of_tokenize(messages, continue_final_message=True) == golden
        assert prompts.of_chat([U, assistant(**last, prefix=True)]) == golden
    for messages in ([U], [U, assistant(None, reasoning_content="I thought")]):
        status, answer = prompts.ask(CHAT, messages=messages, continue_final_message=True)
        assert status == 400 and "there is nothing to continue" in answer
    status, answer = prompts.ask(CHAT, messages=[{**U, "prefix": True}])
    assert status == 400 and "messages[0] has prefix: true" in answer


@pytest.mark.server(SCRIPTED)
def test_arguments_of_a_history(prompts: Prompts) -> None:
    given: list[tuple[Any, Any]] = [
        *((nothing, {}) for nothing in ("{}", {}, None, "", " ", "null")),
        ('{"a": "x\ny"}', {"a": "x\ny"}),
        ('{"a": "x', {"a": "x"}),
        ('{"a": NaN}', {"a": "NaN"}),
        (json.dumps({"a": LONG}), {"a": LONG}),
        ("[1]", None),
        ('"x"', None),
    ]
    for arguments, clean in given:
        asked = {"messages": [U, assistant(tool_calls=[call(arguments)]), result("r")]}
        item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": arguments}
        items = {"input": [U, item, {"type": "function_call_output", "call_id": "c", "output": "r"}]}
        block = {"type": "tool_use", "id": "c", "name": "f", "input": arguments}
        answered = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "r"}]}
        blocks = {"messages": [U, assistant([block]), answered]}
        bodies: list[tuple[str, dict[str, Any]]] = [(CHAT, asked), (MESSAGES, blocks)]
        if isinstance(arguments, str):
            bodies.append((RESPONSES, items))
        for path, body in bodies:
            if clean is None:
                assert "[1] calls 'f'" in prompts.refused(path, **body), path
            else:
                golden = prompts.num([U, assistant(tool_calls=[call(clean)]), result("r")])
                assert prompts.used(path, **body) == golden, (path, arguments)
        if clean is not None:
            assert prompts.counted(**blocks) == prompts.used(MESSAGES, **blocks)


@pytest.mark.server(SCRIPTED)
def test_instructions_and_thoughts_on_every_endpoint(prompts: Prompts) -> None:
    one, two = ({"role": "system", "content": text} for text in ("One.", "Two."))
    answered = assistant("A", reasoning_content="t")
    golden = prompts.num([{"role": "system", "content": "One.\n\nTwo."}, U, answered, two, U])
    developer = {**two, "role": "developer"}
    history = [U, assistant("A", reasoning="t"), developer, U]
    assert prompts.used(CHAT, messages=[one, developer, *history]) == golden
    assert prompts.used(RESPONSES, instructions="One.", input=[developer, *history]) == golden
    hidden = {"type": "redacted_thinking", "data": "x"}
    thought = {"type": "thinking", "thinking": "t", "signature": "s"}
    body = {
        "system": [{"type": "text", "text": text} for text in ("One.", "Two.")],
        "messages": [U, assistant([hidden, thought, {"type": "text", "text": "A"}]), two, U],
    }
    assert prompts.counted(**body) == prompts.used(MESSAGES, **body) == golden


@pytest.mark.server(SCRIPTED)
def test_thinking_is_switched_off_by_every_name(prompts: Prompts) -> None:
    thoughtless = prompts.golden([U], enable_thinking=False)
    for wish in ({"enable_thinking": False}, {"reasoning": {"enabled": False}}, {"thinking": {"type": "disabled"}}):
        assert prompts.of_chat([U], **wish) == thoughtless
        answer = prompts.ask(RESPONSES, input="hi", **wish)
        assert isinstance(answer, dict), answer
        assert [item["type"] for item in answer["output"]] in ([], ["message"]), answer
        assert answer["usage"]["output_tokens_details"]["reasoning_tokens"] == 0
        blocks = prompts.ask(MESSAGES, messages=[U], **wish)["content"]
        assert all(block["type"] == "text" for block in blocks)
    for path, body in ((CHAT, {"messages": [U]}), (RESPONSES, {"input": "hi"}), (MESSAGES, {"messages": [U]})):
        thinking = {"type": "enabled", "budget_tokens": 1024}
        assert "in two ways" in prompts.refused(path, enable_thinking=False, thinking=thinking, **body)


@pytest.mark.server(SCRIPTED)
def test_messages_begin_the_reply(prompts: Prompts) -> None:
    asked = {"role": "user", "content": script(" is 3.</think>")}
    begun = {"messages": [asked, assistant("The answer")], "max_tokens": 60, "temperature": 0}
    golden = [asked, assistant("The answer")]
    number = prompts.num(golden, add_generation_prompt=False, continue_final_message=True)
    assert prompts.counted(**begun) == prompts.used(MESSAGES, **begun) == number
    assert prompts.ask(MESSAGES, **begun)["content"] == [{"type": "text", "text": " is 3.</think>"}]
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
    assert "no room to think" in prompts.refused(MESSAGES, **{**begun, **thinking})
    use = {"type": "tool_use", "id": "c", "name": "f", "input": {}}
    assert "ends with tool_use" in prompts.refused(MESSAGES, messages=[U, assistant([use])])


@pytest.mark.server(SCRIPTED)
def test_an_error_reaches_the_model(prompts: Prompts) -> None:
    use = {"type": "tool_use", "id": "c", "name": "f", "input": {}}
    failed = {"type": "tool_result", "tool_use_id": "c", "content": "no such file", "is_error": True}
    body = {"messages": [U, assistant([use]), {"role": "user", "content": [failed]}]}
    golden = prompts.num([U, assistant(tool_calls=[call({})]), result("Error: no such file")])
    assert prompts.counted(**body) == prompts.used(MESSAGES, **body) == golden


# ---- media


@cache
def picture() -> str:
    return uri("image", photo(64, 64, seed=3), "png")


def shown(path: str, parts: list[str]) -> dict[str, Any]:
    """A body in which a tool answers with these parts: "image", or a text."""
    if path == CHAT:
        image: Any = {"type": "image_url", "image_url": {"url": picture()}}
        contents = [image if one == "image" else {"type": "text", "text": one} for one in parts]
        return {"messages": [U, assistant(tool_calls=[call("{}")]), result(contents)]}
    if path == RESPONSES:
        image = {"type": "input_image", "image_url": picture()}
        output = [image if one == "image" else {"type": "input_text", "text": one} for one in parts]
        called = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
        return {"input": [U, called, {"type": "function_call_output", "call_id": "c", "output": output}]}
    source = {"type": "base64", "media_type": "image/png", "data": picture().partition(",")[2]}
    image = {"type": "image", "source": source}
    blocks = [image if one == "image" else {"type": "text", "text": one} for one in parts]
    answered = {"type": "tool_result", "tool_use_id": "c", "content": blocks}
    use = {"type": "tool_use", "id": "c", "name": "f", "input": {}}
    return {"messages": [U, assistant([use]), {"role": "user", "content": [answered]}]}


@pytest.mark.server(SCRIPTED)
def test_a_text_model_refuses_media_of_a_tool(prompts: Prompts) -> None:
    for path in (CHAT, RESPONSES, MESSAGES):
        assert "text" in prompts.refused(path, **shown(path, ["ok", "image"])), path
    status, answer = prompts.ask(f"{MESSAGES}/count_tokens", **shown(MESSAGES, ["image"]))
    assert status == 400 and "reads text only" in answer


@pytest.mark.server(OMNI)
def test_media_of_a_tool_lie_in_its_turn(prompts: Prompts) -> None:
    for parts in (["ok"], ["image"], ["ok", "image"], ["a", "image", "b", "image"]):
        slotted = "\n".join("<image>" if one == "image" else one for one in parts)
        golden = prompts.golden([U, assistant(tool_calls=[call({})]), result(slotted)])
        prompt = prompts.of_chat(**shown(CHAT, parts))
        # a run of an image's tokens stands where its slot stood, between two tags
        rest = prompt
        for before in golden.split("<image>")[:-1]:
            assert rest.startswith(f"{before}<img>" + "<image>" * LEAST), parts
            rest = rest.partition("</img>")[2]
        assert rest == golden.split("<image>")[-1]
        for path in (RESPONSES, MESSAGES):
            assert prompts.used(path, **shown(path, parts)) == prompts.used(CHAT, **shown(CHAT, parts)), path
        body = shown(MESSAGES, parts)
        assert prompts.counted(**body) == prompts.used(MESSAGES, **body)


@pytest.mark.server(OMNI)
def test_media_elsewhere_are_a_400(prompts: Prompts) -> None:
    image = {"type": "image_url", "image_url": {"url": picture()}}
    for role in ("system", "assistant"):
        status, answer = prompts.ask(CHAT, messages=[{"role": role, "content": [image]}, U])
        assert status == 400 and "Media belong in user messages" in answer
    status, answer = prompts.ask(
        RESPONSES, input=[{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]
    )
    assert status == 400 and "input[0] has a part of type 'input_file'" in answer


@pytest.mark.server(OMNI)
def test_counting_is_what_serving_takes(prompts: Prompts) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": picture().partition(",")[2]}
    asked = {"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": "look"}]}
    for more in ({}, {"system": "s"}, {"thinking": {"type": "disabled"}}, {"enable_thinking": False}):
        body = {"messages": [asked], **more}
        assert prompts.counted(**body) == prompts.used(MESSAGES, **body) > LEAST
    begun = {"messages": [asked, assistant("So")]}
    assert prompts.counted(**begun) == prompts.used(MESSAGES, **begun) > LEAST
    broken = {**source, "data": base64.b64encode(b"no image").decode()}
    status, answer = prompts.ask(
        f"{MESSAGES}/count_tokens", messages=[{"role": "user", "content": [{"type": "image", "source": broken}]}]
    )
    assert status == 400 and "image 1: not an image" in answer
    moving = part("video", film(64, 64, seed=4, num_frames=24), "mp4")
    chat = [{"role": "user", "content": [moving, {"type": "text", "text": "look"}]}]
    for options in ({}, {"mm_processor_kwargs": {"video_pruning_rate": 0.0}}):
        tokens = prompts.ask("/v1/tokenize", messages=chat, **options)["count"]
        assert tokens == prompts.used(CHAT, messages=chat, **options) > LEAST


@pytest.mark.server(OMNI)
def test_omni_goes_on_with_a_message(prompts: Prompts) -> None:
    for content in ('{"answer":', "a <image> typed", "I thought.\n</think>\nSo"):
        clean = f"<think>\n{content}" if "</think>" in content else content
        golden = prompts.golden([U, assistant(clean)], add_generation_prompt=False, continue_final_message=True)
        assert prompts.of_chat([U, assistant(content)], continue_final_message=True) == golden
