"""A response format beside tools: what becomes of SGLang's constraint, on its own requests."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest, ResponsesRequest

from sglang_nemotron.host.http import answer_format
from sglang_nemotron.host.http.answer_format import Fitted, fit_format
from sglang_nemotron.host.parsers import PARSERS
from sglang_nemotron.host.reply_flags import PARSER
from support.chat_endpoint import OpenAIServingChat
from support.reply_room import OPENAI_TOOLS

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
TEXT = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}
THINKS = "<|im_start|>assistant\n<think>\n"
NATIVE = ("ebnf", "root ::= [a]")


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> None:
    PARSERS.open()
    answer_format.FORMATS.open()
    monkeypatch.setattr(answer_format, "_backend", lambda: "xgrammar")
    monkeypatch.setattr("sglang_nemotron.sglang_api.http.get_serving", lambda: serving_flags(False))


def serving_flags(no_blanks: bool) -> Any:
    return SimpleNamespace(constrained_json_disable_any_whitespace=no_blanks, constrained_json_max_whitespace_cnt=None)


def chat(**fields: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest(
        model="m", messages=[{"role": "user", "content": "q"}], **{"tools": OPENAI_TOOLS, **fields}
    )


def fitted(request: Any, *, reasoning: str | None = PARSER, tools: str = PARSER, elsewhere: bool = False) -> Any:
    """What stands in the place of SGLang's constraint, and whether the reply is calls or an answer."""
    serving: Any = OpenAIServingChat.__new__(OpenAIServingChat)
    serving.reasoning_parser, serving.tool_call_parser = reasoning, tools
    result = SimpleNamespace(tool_call_constraint=NATIVE)
    answers = fit_format(serving, request, result, THINKS, schema_elsewhere=elsewhere)
    return result.tool_call_constraint, answers


def test_what_has_no_format_or_no_tools_is_let_alone() -> None:
    for request in (
        chat(),
        chat(response_format={"type": "text"}),
        chat(tools=None, response_format=FORMAT),
        chat(tool_choice="none", response_format=FORMAT),
    ):
        assert fitted(request) == (NATIVE, False)


def test_another_parser_or_backend_keeps_the_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fitted(chat(response_format=FORMAT), tools="qwen3_coder") == (NATIVE, False)
    monkeypatch.setattr(answer_format, "_backend", lambda: "llguidance")
    assert fitted(chat(response_format=FORMAT)) == (NATIVE, False)


def test_auto_makes_both_of_it() -> None:
    for format in (FORMAT, {"type": "json_object"}):
        constraint, answers = fitted(chat(response_format=format))
        assert answers and isinstance(constraint, Fitted) and constraint.won is None
        assert len(constraint.tags) == len(OPENAI_TOOLS) and constraint.parallel and not constraint.thoughts
    assert not fitted(chat(response_format=FORMAT, parallel_tool_calls=False))[0].parallel
    # a response's schema is no part of the chat that it is rendered as
    assert fitted(chat(), elsewhere=True)[1]


def test_thoughts_that_no_parser_waits_for_are_in_the_grammar() -> None:
    assert fitted(chat(response_format=FORMAT), reasoning=None)[0].thoughts


def test_a_strict_tool_keeps_its_schema() -> None:
    loose, strict = (
        {"type": "function", "function": {"name": name, "parameters": SCHEMA, "strict": name == "strict"}}
        for name in ("loose", "strict")
    )
    tags = fitted(chat(tools=[loose, strict], response_format=FORMAT))[0].tags
    assert [tag["content"]["type"] for tag in tags] == ["star", "json_schema"]
    assert tags[1]["content"]["json_schema"] == SCHEMA


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_demanded_call_wins(choice: Any) -> None:
    request = chat(tool_choice=choice, response_format=FORMAT)
    constraint, answers = fitted(request)
    assert constraint == Fitted(won=NATIVE) and not answers
    params = request.to_sampling_params([], {}, tool_call_constraint=constraint)
    assert (params["ebnf"], params.get("json_schema")) == (NATIVE[1], None)
    response = ResponsesRequest(model="m", input="q", text=TEXT)
    params = response.to_sampling_params(None, {}, tool_call_constraint=constraint)
    assert (params["ebnf"], params.get("json_schema")) == (NATIVE[1], None)
    # the requests go on as they came
    assert request.response_format is not None and response.text is not None


def test_one_constraint_on_both_endpoints() -> None:
    request = chat(response_format=FORMAT)
    constraint, _ = fitted(request)
    response = ResponsesRequest(model="m", input="q", text=TEXT)
    of_chat = request.to_sampling_params([], {}, tool_call_constraint=constraint)
    of_response = response.to_sampling_params(None, {}, tool_call_constraint=constraint)
    for params in (of_chat, of_response):
        assert params["json_schema"] is None
        _, choice = json.loads(params["structural_tag"])["format"]["elements"]
        calls, answer = choice["elements"]
        assert answer["json_schema"] == SCHEMA
        assert len(calls["tags"]) == len(OPENAI_TOOLS)
    assert of_chat["structural_tag"] == of_response["structural_tag"]


def test_a_schema_that_cannot_be_kept_is_named() -> None:
    schema = {"type": "object", "properties": {"x": {"type": "string", "format": "colour"}}}
    request = chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    with pytest.raises(ValueError, match="colour"):
        request.to_sampling_params([], {}, tool_call_constraint=fitted(request)[0])


def test_blanks_that_the_server_forbids(monkeypatch: pytest.MonkeyPatch) -> None:
    from xgrammar import Grammar
    from xgrammar.testing import _is_grammar_accept_string as accepts

    request = chat(response_format=FORMAT)
    for forbidden in (False, True):
        monkeypatch.setattr("sglang_nemotron.sglang_api.http.get_serving", lambda no=forbidden: serving_flags(no))
        params = request.to_sampling_params([], {}, tool_call_constraint=fitted(request)[0])
        grammar = Grammar.from_structural_tag(params["structural_tag"])
        assert accepts(grammar, '{"a": 1}')
        assert accepts(grammar, '{\n"a": 1}') is not forbidden


def test_other_requests_are_sglangs() -> None:
    constraint = ("json_schema", '{"type": "array"}')
    assert chat().to_sampling_params([], {}, tool_call_constraint=constraint)["json_schema"] == constraint[1]
    with pytest.raises(ValueError, match="cannot be combined"):
        chat(tool_choice="required", response_format=FORMAT).to_sampling_params([], {}, tool_call_constraint=constraint)
