"""Chats on SGLang's endpoints with our hooks in place: what is rendered is what transformers makes of the same chat."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseReasoningItem
from sglang.srt.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from sglang.srt.entrypoints.anthropic.serving import AnthropicServing
from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest, ResponsesRequest, TokenizeRequest
from sglang.srt.entrypoints.openai.serving_responses import OpenAIServingResponses
from sglang.srt.entrypoints.openai.serving_tokenize import OpenAIServingTokenize
from transformers import PreTrainedTokenizerFast

from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.checkpoint.template import chat_template
from sglang_nemotron.checkpoint.tokenizer import tokenizer_files
from sglang_nemotron.host.http import chat_body, history
from sglang_nemotron.host.http.reply_json import ExactJson
from sglang_nemotron.sglang_api import http as serving_names
from sglang_nemotron.sglang_api.http import ResponsesError
from support.chat_endpoint import endpoint

U = {"role": "user", "content": "hi"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": "x"}}}
RESULT = {"role": "tool", "tool_call_id": "c", "content": "r"}
LONG = 123456789012345678901234567890


def assistant(content: Any = "", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


class Judge:
    """A text model's tokenizer and template: what transformers makes of a chat, and SGLang's endpoints around it."""

    def __init__(self, folder: Path) -> None:
        for name, text in tokenizer_files(PRESETS["toy"].vocab_size, 4096).items():
            (folder / name).write_text(text)
        self.tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder)
        self.tokenizer.chat_template = chat_template("text")
        config = SimpleNamespace(is_multimodal=False, hf_config=None)
        self.manager = SimpleNamespace(
            tokenizer=self.tokenizer, model_config=config, nemotron_replies_are_ours=True, mm_processor=None
        )
        self.chat = endpoint(self.manager)
        self.messages = AnthropicServing.__new__(AnthropicServing)
        self.messages.openai_serving_chat = self.chat
        self.messages._merge_inline_system = False
        # asks for settings of a server
        self.chat._validate_request = lambda request: None
        self.responses = endpoint(self.manager, OpenAIServingResponses)
        self.responses.msg_store = {}
        self.tokenize = OpenAIServingTokenize.__new__(OpenAIServingTokenize)
        self.tokenize.tokenizer_manager = self.manager
        self.tokenize.chat_serving = self.chat

    def golden(self, messages: list[dict[str, Any]], **options: Any) -> str:
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, **{"add_generation_prompt": True, **options}
        )

    def shown(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def of_chat(self, messages: list[dict[str, Any]], **more: Any) -> str:
        request = ChatCompletionRequest(model="m", messages=messages, **more)
        return self.shown(self.chat._process_messages(request, False).prompt_ids)

    def of_tokenize(self, messages: list[dict[str, Any]], **more: Any) -> str:
        return self.shown(self.tokenize._tokenize_chat_request(TokenizeRequest(messages=messages, **more)))

    def of_messages(self, messages: list[dict[str, Any]], **more: Any) -> str:
        request = AnthropicMessagesRequest(model="m", max_tokens=1, messages=messages, **more)
        chat = self.messages._convert_to_chat_completion_request(request)
        return self.shown(self.chat._process_messages(chat, False).prompt_ids)

    def of_responses(self, items: Any, **more: Any) -> str:
        request = ResponsesRequest(model="m", input=items, **more)
        return self.shown(asyncio.run(self.responses._make_request(request, None, self.tokenizer))[2][0])


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    importlib.import_module(chat_body.SERVER)
    history.HISTORIES.open()
    assert history.HISTORIES.is_ours() is None
    return Judge(tmp_path_factory.mktemp("tokenizer"))


# ---- /v1/chat/completions and /v1/tokenize


PARTS = [{"type": "text", "text": "line 1"}, {"type": "text", "text": "line 2"}]
CHATS: dict[str, list[dict[str, Any]]] = {
    "a last answer": [U, assistant("Hello.")],
    "a last answer and thoughts": [U, assistant("Hello.", reasoning_content="t")],
    "a last call": [U, assistant(tool_calls=[CALL])],
    "parts of a user": [{"role": "user", "content": PARTS}],
    "parts of an instruction": [{"role": "system", "content": PARTS}, U],
    "parts of an answer": [U, assistant(PARTS), U],
    "parts of a result": [U, assistant(tool_calls=[CALL]), {**RESULT, "content": PARTS}],
    "a later instruction": [U, assistant("A"), {"role": "system", "content": "s"}, U],
}


@pytest.mark.parametrize("chat", CHATS)
def test_a_chat_is_what_its_template_makes_of_it(judge: Judge, chat: str) -> None:
    messages = CHATS[chat]
    assert judge.of_chat(messages) == judge.of_tokenize(messages) == judge.golden(messages)


@pytest.mark.parametrize(
    "last",
    [
        {"content": '{"answer":'},
        {"content": PARTS},
        {"content": "<think>\nI thought.\n</think>\nSo"},
        {"content": "So", "reasoning_content": "I thought."},
        {"content": "<think>\nI thi"},
    ],
)
def test_a_message_to_go_on_with(judge: Judge, last: dict[str, Any]) -> None:
    messages = [U, assistant(**last)]
    golden = judge.golden(messages, add_generation_prompt=False, continue_final_message=True)
    assert judge.of_chat(messages, continue_final_message=True) == golden
    assert judge.of_tokenize(messages, continue_final_message=True) == golden
    assert judge.of_chat(messages, chat_template_kwargs={"continue_final_message": True}) == golden
    assert judge.of_chat([U, assistant(prefix=True, **last)]) == golden


def test_nothing_to_go_on_with_is_refused(judge: Judge) -> None:
    for messages in ([U], [U, assistant(None, reasoning_content="t")]):
        with pytest.raises(ValueError, match="there is nothing to continue"):
            judge.of_chat(messages, continue_final_message=True)
    with pytest.raises(ValueError, match="prefix: true"):
        judge.of_chat([U, assistant("A", prefix=True), U])


def test_broken_arguments_are_rendered_and_told_in_one_line(judge: Judge, caplog: pytest.LogCaptureFixture) -> None:
    function = {"name": "f", "arguments": '{"a": "x'}
    broken = [{**CALL, "function": function}, {**CALL, "function": function}]
    with caplog.at_level(logging.WARNING):
        prompt = judge.of_chat([U, assistant(tool_calls=broken), RESULT])
    assert prompt == judge.golden([U, assistant(tool_calls=[CALL, CALL]), RESULT])
    assert len([record for record in caplog.records if "messages[1] calls 'f'" in record.message]) == 1
    with pytest.raises(ValueError, match=r"messages\[1\] calls 'f' \(id 'c'\) with the arguments \[1\]"):
        judge.of_chat([U, assistant(tool_calls=[{**CALL, "function": {"name": "f", "arguments": "[1]"}}])])


def test_long_integers_keep_their_digits(judge: Judge) -> None:
    for arguments in ({"a": LONG}, json.dumps({"a": LONG})):
        call = {**CALL, "function": {"name": "f", "arguments": arguments}}
        assert f"\n{LONG}\n" in judge.of_chat([U, assistant(tool_calls=[call]), RESULT])


def test_leading_instructions_are_one(judge: Judge) -> None:
    messages = [{"role": "system", "content": "One."}, {"role": "developer", "content": "Two."}, U]
    assert judge.of_chat(messages) == judge.golden([{"role": "system", "content": "One.\n\nTwo."}, U])


@pytest.fixture
def own_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a server that was started with --trust-request-chat-template."""
    monkeypatch.setattr(serving_names, "get_serving", lambda: SimpleNamespace(trust_request_chat_template=True))


def test_a_request_brings_no_template_unless_the_operator_lets_it(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A template is a program: one that counts to a billion would hold every request. SGLang lets /v1/responses."""
    monkeypatch.setattr(serving_names, "get_serving", lambda: SimpleNamespace(trust_request_chat_template=False))
    own = {"chat_template": "{%- for _ in range(99999) -%}{%- for _ in range(99999) -%}{%- endfor -%}{%- endfor -%}"}
    for ask in (judge.of_chat, judge.of_tokenize):
        with pytest.raises(ValueError, match="has a chat_template, which this server takes from its operator alone"):
            ask([U], chat_template_kwargs=own)
    with pytest.raises(ResponsesError, match="has a chat_template"):
        judge.of_responses("hi", chat_template_kwargs=own)
    # the operator's own, which SGLang puts into each request
    monkeypatch.setattr(judge.chat, "default_chat_template_kwargs", {"chat_template": "[{{ messages[0].content }}]"})
    assert judge.of_chat([U], chat_template_kwargs={"chat_template": "[{{ messages[0].content }}]"}) == "[hi]"


@pytest.mark.usefixtures("own_templates")
def test_a_template_that_refuses_is_a_users_error(judge: Judge) -> None:
    own = '{{- raise_exception("not " ~ messages[0].content) -}}'
    with pytest.raises(ValueError, match="not hi"):
        judge.of_chat([U], chat_template_kwargs={"chat_template": own})


@pytest.mark.usefixtures("own_templates")
def test_a_template_of_bare_tools_gets_them(judge: Judge) -> None:
    own = '{%- for tool in tools -%}{{- "[" ~ tool["name"].upper() ~ "]" -}}{%- endfor -%}'
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    assert judge.of_chat([U], tools=tools, chat_template_kwargs={"chat_template": own}) == "[F]"


def test_media_reach_no_text_model(judge: Judge) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:,x"}}
    for messages in (
        [{"role": "user", "content": [image]}],
        [U, assistant(tool_calls=[CALL]), {**RESULT, "content": [image]}],
    ):
        with pytest.raises(ValueError, match="reads text only; .* image"):
            judge.of_chat(messages)


def test_other_models_keep_sglangs_rendering(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge.manager, "nemotron_replies_are_ours", False)
    assert "<|im_start|>user\nHello.<|im_end|>" in judge.of_chat([U, assistant("Hello.")])
    assert not judge.chat.supports_native_reasoning_history()
    assert "user\nSo<|im_end|>" in judge.of_messages([U, assistant("So")])
    labelled = judge.of_responses([{"role": "developer", "content": "Two."}, U])
    assert "system\nTwo.<|im_end|>" not in labelled and "Two." in labelled


# ---- /v1/responses


def test_items_of_responses_are_that_chat(judge: Judge) -> None:
    items = [
        {"role": "developer", "content": "Two."},
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "t"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a": "x'},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "r"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "developer", "content": "Later."},
        {"role": "assistant", "content": "So"},
    ]
    chat = [
        {"role": "system", "content": "One.\n\nTwo."},
        U,
        assistant(tool_calls=[CALL], reasoning_content="t"),
        RESULT,
        assistant("No."),
        {"role": "system", "content": "Later."},
        assistant("So"),
    ]
    assert judge.of_responses(items, instructions="One.") == judge.golden(chat)


def test_a_stored_response_is_gone_on_from(judge: Judge) -> None:
    said = {"type": "output_text", "text": "A", "annotations": []}
    stored = [
        ResponseReasoningItem(id="r", type="reasoning", summary=[], content=[{"type": "reasoning_text", "text": "t"}]),
        ResponseOutputMessage(id="m", type="message", role="assistant", status="completed", content=[said]),
        ResponseFunctionToolCall(type="function_call", call_id="c", name="f", arguments='{"a": "x'),
    ]
    judge.responses.msg_store["resp_1"] = [U, *stored]
    answer = [{"type": "function_call_output", "call_id": "c", "output": "r"}]
    chat = [U, assistant("A", reasoning_content="t", tool_calls=[CALL]), RESULT]
    assert judge.of_responses(answer, previous_response_id="resp_1") == judge.golden(chat)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"type": "function_call", "call_id": "c", "name": "f", "arguments": "[1]"}, r"input\[1\] calls 'f' with"),
        ({"role": "user", "content": [{"type": "input_file", "file_data": "x"}]}, r"input\[1\] .*'input_file'"),
        ({"role": "user", "content": [{"type": "input_image", "file_id": "x"}]}, r"input\[1\] .*without image_url"),
        (
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_file", "file_id": "x"}]},
            r"input\[1\] .*'input_file'",
        ),
        ({"type": "item_reference", "id": "x"}, "Unsupported"),
    ],
)
def test_no_item_of_responses_vanishes(judge: Judge, item: dict[str, Any], said: str) -> None:
    with pytest.raises(ResponsesError, match=said):
        judge.of_responses([U, item])


def test_integers_of_responses_keep_their_digits(judge: Judge) -> None:
    item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": json.dumps({"a": LONG})}
    assert f"\n{LONG}\n" in judge.of_responses([U, item])


# ---- /v1/messages


def test_blocks_of_messages_are_that_chat(judge: Judge, caplog: pytest.LogCaptureFixture) -> None:
    use = {"type": "tool_use", "id": "c", "name": "f", "input": {"a": LONG, "b": None}}
    failed = {"type": "tool_result", "tool_use_id": "c", "content": "no such file", "is_error": True}
    hidden = {"type": "redacted_thinking", "data": "x"}
    thought = {"type": "thinking", "thinking": "t", "signature": "s"}
    sent = [
        U,
        assistant([hidden, thought, {"type": "text", "text": "I look."}, use]),
        {"role": "user", "content": [failed, {"type": "text", "text": "and "}, {"type": "text", "text": "now?"}]},
    ]
    call = {**CALL, "function": {"name": "f", "arguments": {"a": LONG, "b": None}}}
    chat = [
        {"role": "system", "content": "One.\n\nTwo."},
        U,
        assistant("I look.", reasoning_content="t", tool_calls=[call]),
        {**RESULT, "content": "Error: no such file"},
        {"role": "user", "content": "and now?"},
    ]
    with caplog.at_level(logging.WARNING):
        prompt = judge.of_messages(sent, system=[{"type": "text", "text": text} for text in ("One.", "Two.")])
    assert prompt == judge.golden(chat)
    assert "1 blocks of redacted_thinking are left out" in caplog.text


def test_messages_end_with_the_beginning_of_the_reply(judge: Judge) -> None:
    golden = judge.golden([U, assistant("So")], add_generation_prompt=False, continue_final_message=True)
    assert golden.endswith("<|im_start|>assistant\n<think></think>So")
    for content in ("So", [{"type": "text", "text": "So"}]):
        assert judge.of_messages([U, assistant(content)]) == golden
        assert judge.of_messages([U, assistant(content)], thinking={"type": "disabled"}) == golden
        for thinking in ({"type": "adaptive"}, {"type": "enabled", "budget_tokens": 1024}):
            with pytest.raises(ValueError, match="leaves no room to think"):
                judge.of_messages([U, assistant(content)], thinking=thinking)
    use = {"type": "tool_use", "id": "c", "name": "f", "input": {}}
    with pytest.raises(ValueError, match="ends with tool_use"):
        judge.of_messages([U, assistant([use])])
    with pytest.raises(ValueError, match="nothing to continue"):
        judge.of_messages([U, assistant([{"type": "thinking", "thinking": "t", "signature": "s"}])])


def test_messages_switch_thinking_off_without_a_parser_too(judge: Judge) -> None:
    assert judge.chat.reasoning_parser is None
    assert judge.of_messages([U], thinking={"type": "disabled"}) == judge.golden([U], enable_thinking=False)
    assert judge.of_messages([U]) == judge.golden([U])


# ---- bodies


def read(path: str, raw: bytes) -> Any:
    async def parsed(self: Any) -> Any:
        if not hasattr(self, "_json"):
            # as it is read in a server of ours
            self._json = ExactJson(orjson).loads(raw)
        return self._json

    request = SimpleNamespace(url=SimpleNamespace(path=path))
    reader = history._read_body(parsed)
    first = asyncio.run(reader(request))
    assert asyncio.run(reader(request)) is first is request._json
    return first


@pytest.fixture(autouse=True)
def _ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_answers_ours", True)


def test_bodies_say_what_they_mean_in_fields_that_are_read() -> None:
    sent = {"enable_thinking": False, "messages": [assistant("A", reasoning="t")], "n": 1}
    body = read("/v1/chat/completions", json.dumps(sent).encode())
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert body["messages"][0]["reasoning_content"] == "t"
    # a raw prompt is SGLang's
    assert read("/generate", json.dumps(sent).encode()) == sent
    assert read("/v1/chat/completions", b"[1]") == [1]


def test_a_body_that_says_two_things_is_a_400() -> None:
    raw = json.dumps({"enable_thinking": False, "thinking": {"type": "enabled"}}).encode()
    with pytest.raises(Exception, match="in two ways") as caught:
        read("/v1/chat/completions", raw)
    assert getattr(caught.value, "status_code", None) == 400
