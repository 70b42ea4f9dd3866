"""What requests bring along: tools checked, the prompt's end, budgets under their private names."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest, ResponsesRequest
from sglang.srt.managers.io_struct import GenerateReqInput

from sglang_nemotron.checkpoint.tokenizer import build_tokenizer
from sglang_nemotron.host import reply_flags
from sglang_nemotron.host.detectors import PromptTail
from sglang_nemotron.host.http import replies
from sglang_nemotron.host.reply_flags import BUDGET, PARSER, TOOLS, prompt_tail
from sglang_nemotron.reply.reasoning import opening
from support.reply_room import OPENAI_TOOLS


def chat(**fields: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest(model="m", messages=[{"role": "user", "content": "q"}], **fields)


def tool(name: str, parameters: Any = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


# ---- tools


def test_good_tools_pass() -> None:
    replies.check_request_tools(chat(tools=OPENAI_TOOLS))
    replies.check_request_tools(chat())


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ([tool("f"), tool("f")], "'f' is declared twice"),
        ([tool("a b")], "'a b'"),
        ([tool("")], "''"),
        ([tool("f", [1])], r"\[1\]"),
        ([tool("f", {"properties": {"x": {"$ref": "#/$defs/none"}}})], "#/\\$defs/none"),
    ],
)
def test_bad_tools_are_named(tools: list[Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replies.check_request_tools(chat(tools=tools))


def test_tools_of_messages_count() -> None:
    message = {"role": "system", "content": "s", "tools": [tool("f")]}
    request = ChatCompletionRequest(model="m", messages=[message, {"role": "user", "content": "q"}], tools=[tool("f")])
    with pytest.raises(ValueError, match="'f' is declared twice"):
        replies.check_request_tools(request)


SCHEMAS = [
    {"type": "object", "properties": {"x": {"type": "varchar"}}},
    {"type": "object", "properties": {"x": {"type": "colour"}}},
    {"properties": {"x": {"items": [{"type": "string"}]}}},
    {"properties": {"x": {"minimum": "1"}}},
    {},
]


@pytest.mark.parametrize("parameters", SCHEMAS)
def test_responses_accept_the_schemas_that_chats_do(parameters: dict[str, Any]) -> None:
    """SGLang's own check of a chat beside ours of a responses request."""
    from sglang.srt.entrypoints.openai.serving_chat import Draft202012Validator, normalize_json_schema_types

    rewritten = copy.deepcopy(parameters)
    normalize_json_schema_types(rewritten)
    sound = Draft202012Validator(Draft202012Validator.META_SCHEMA).is_valid(rewritten)
    declared = [{"type": "function", "name": "f", "parameters": copy.deepcopy(parameters)}, {"type": "web_search"}]
    request = ResponsesRequest(model="m", input="q", tools=declared)
    if sound:
        replies.check_response_schemas(request)
    else:
        with pytest.raises(ValueError, match=r"^the parameters of tool 'f', at \$\.properties\.x"):
            replies.check_response_schemas(request)
    # as it came
    assert request.tools[0].parameters == parameters


def test_one_call_at_most() -> None:
    process = replies._process_messages(lambda self, request: self.result)
    serving = Serving(PARSER, PARSER, "<|im_start|>assistant\n<think></think>")
    for asked, expected in (
        ({}, False),
        ({"parallel_tool_calls": True}, False),
        ({"parallel_tool_calls": False}, True),
    ):
        request = chat(tools=OPENAI_TOOLS, **asked)
        process(serving, request)
        assert request._response_parser_prefix.one_call is expected


def test_thoughts_that_stay_in_the_content() -> None:
    for text, apart, expected in (
        ("<think>\n", True, False),
        ("<think>\n", False, True),
        ("<think></think>", False, False),
    ):
        assert PromptTail(text, reasoning_apart=apart).content_thinks is expected, text


# ---- the prompt


class Tokenizer:
    """The made-up checkpoints' tokenizer with the two methods of transformers that are used here."""

    def __init__(self) -> None:
        self._tokenizer = build_tokenizer(2048)
        self.decoded = 0

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return self._tokenizer.encode(text).ids

    def decode(self, ids: list[int], skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str:
        self.decoded += len(ids)
        return self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)


PROMPTS = {
    "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>\n": (True, True),
    "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think></think>": (False, True),
    "<|im_start|>user\n<think><|im_end|>\n<|im_start|>assistant\n": (False, True),
    "<|im_start|>assistant\n<think>\n" + "long thoughts " * 500: (True, False),
    "<|im_start|>user\n</think><|im_end|>\n<|im_start|>assistant\n<think>\n" + "a</b>" * 300: (True, False),
    "no template at all": (False, False),
    "": (False, True),
}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_tail_tells_what_the_prompt_tells(prompt: str) -> None:
    tokenizer = Tokenizer()
    found = opening(prompt_tail(tokenizer.encode(prompt), tokenizer))
    assert (found.thinking, found.line_start) == PROMPTS[prompt]
    assert found == opening(prompt_tail(prompt, tokenizer)) == opening(prompt)


def test_a_long_prompt_is_not_decoded_whole() -> None:
    tokenizer = Tokenizer()
    ids = tokenizer.encode("<|im_start|>user\n" + "word " * 20000 + "<|im_end|>\n<|im_start|>assistant\n<think>\n")
    assert opening(prompt_tail(ids, tokenizer)).thinking
    assert tokenizer.decoded < 200 < len(ids)


def test_where_the_content_begins() -> None:
    for text, apart, expected in (
        ("<think>\n", True, True),
        ("<think>\nmid", True, True),
        ("<think>\nmid", False, False),
        ("<think></think>", True, True),
        ("<think></think>mid", True, False),
    ):
        assert PromptTail(text, reasoning_apart=apart).content_begins_line is expected, text


class Serving:
    """The parts of SGLang's chat server that the wrapped method reads."""

    def __init__(self, reasoning: str | None, tools: str | None, prompt: str) -> None:
        self.reasoning_parser = reasoning
        self.tool_call_parser = tools
        tokenizer = Tokenizer()
        self.tokenizer_manager = SimpleNamespace(tokenizer=tokenizer)
        self.result = SimpleNamespace(prompt="", prompt_ids=tokenizer.encode(prompt), require_reasoning=True)


@pytest.mark.parametrize(
    ("reasoning", "tools", "prompt", "thinks"),
    [
        (PARSER, None, "<|im_start|>assistant\n<think>\n", True),
        (PARSER, PARSER, "<|im_start|>assistant\n<think></think>", False),
        # not our parser: what SGLang decided stands
        (None, PARSER, "<|im_start|>assistant\n<think></think>", True),
    ],
)
def test_a_request_learns_its_prompt(reasoning: str | None, tools: str | None, prompt: str, thinks: bool) -> None:
    process = replies._process_messages(lambda self, request: self.result)
    serving, request = Serving(reasoning, tools, prompt), chat()
    result = process(serving, request)
    assert result.require_reasoning is thinks
    assert request._response_parser_prefix.endswith(prompt[-10:])
    with pytest.raises(ValueError, match="declared twice"):
        process(serving, chat(tools=[tool("f"), tool("f")]))


def test_other_parsers_see_nothing_of_ours() -> None:
    process = replies._process_messages(lambda self, request: self.result)
    request = chat(tools=[tool("f"), tool("f")])
    result = process(Serving("deepseek-r1", "qwen3_coder", "p"), request)
    assert request._response_parser_prefix == "" and not hasattr(result, "nemotron_prompt_tail")


# ---- budgets


def taken(body: dict[str, Any] | None = None, *, messages_api: bool = False, **fields: Any) -> Any:
    obj = GenerateReqInput(text="q", **fields)
    replies.take_budget(obj, body or {}, messages_api=messages_api)
    assert obj.max_thinking_tokens is None
    return obj.sampling_params


ASKED = {"custom_params": {BUDGET: [7, 500], TOOLS: []}}


@pytest.mark.parametrize(
    "fields",
    [
        {"sampling_params": {"custom_params": {"thinking_budget": 7}}},
        {"sampling_params": {"custom_params": {"thinking_token_budget": 7}}},
        {"sampling_params": {"max_thinking_tokens": 7}},
        {"sampling_params": {"thinking_token_budget": 7}},
        {"max_thinking_tokens": 7},
        {"body": {"thinking_token_budget": 7}},
        {"body": {"thinking_budget": 7}, "sampling_params": {}},
        {"body": {"max_thinking_tokens": 7}, "max_thinking_tokens": 7},
        {"body": {"thinking_token_budget": 7}, "sampling_params": {"custom_params": {"thinking_budget": 7}}},
        {"body": {"thinking": {"type": "enabled", "budget_tokens": 7}}, "messages_api": True},
    ],
)
def test_every_spelling(fields: dict[str, Any]) -> None:
    assert taken(**fields) == ASKED


def test_grace_and_other_parameters_stay_together() -> None:
    params = {
        "temperature": 0.5,
        "custom_params": {"thinking_budget": 7, "thinking_budget_grace_period": 3, "mine": "x"},
    }
    assert taken(sampling_params=params) == {
        "temperature": 0.5,
        "custom_params": {BUDGET: [7, 3], TOOLS: [], "mine": "x"},
    }
    assert "thinking_budget" in params["custom_params"], "the client's own object is left alone"


def test_a_batch_has_budgets_of_its_own() -> None:
    many = [{"custom_params": {"thinking_budget": 1}}, {}, {"max_thinking_tokens": 2}]
    found = taken(sampling_params=many)
    assert [(params.get("custom_params") or {}).get(BUDGET) for params in found] == [[1, 500], None, [2, 500]]


def test_the_tools_go_along() -> None:
    for tools in ([tool("f"), tool("g")], [{"name": "f", "input_schema": {}}, {"type": "function", "name": "g"}]):
        found = taken({"thinking_budget": 1, "tools": tools})
        assert found["custom_params"][TOOLS] == ["f", "g"]
    assert taken({"thinking_budget": 1, "tools": [tool("f")], "tool_choice": "none"})["custom_params"][TOOLS] == []
    message = {"role": "system", "content": "s", "tools": [tool("h")]}
    assert taken({"thinking_budget": 1, "messages": [message]})["custom_params"][TOOLS] == ["h"]


@pytest.mark.parametrize(
    "params", [None, {}, {"temperature": 1}, {"custom_params": {"mine": 1}}, {"custom_params": None}]
)
def test_nothing_asked_nothing_changed(params: Any) -> None:
    obj = GenerateReqInput(text="q", sampling_params=params)
    replies.take_budget(obj, {"tools": [tool("f")]})
    assert obj.sampling_params is params


def test_the_private_names_cannot_be_sent() -> None:
    found = taken(sampling_params={"custom_params": {BUDGET: [-5, "x"], TOOLS: [1], "mine": 1}})
    assert found == {"custom_params": {"mine": 1}}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"body": {"thinking_token_budget": -1}}, "thinking_token_budget is -1"),
        ({"max_thinking_tokens": -1}, "max_thinking_tokens is -1"),
        ({"sampling_params": {"custom_params": {"thinking_budget": 1 << 40}}}, f"thinking_budget is {1 << 40}"),
        ({"sampling_params": {"custom_params": {"thinking_budget": "9"}}}, "thinking_budget is '9'"),
        ({"sampling_params": {"custom_params": {"thinking_budget": True}}}, "thinking_budget is True"),
        ({"sampling_params": {"custom_params": {"thinking_budget": 1.5}}}, "thinking_budget is 1.5"),
        ({"body": {"thinking_budget": 1, "thinking_token_budget": 2}}, "these thinking budgets differ"),
        (
            {"body": {"thinking_budget": 1}, "sampling_params": {"custom_params": {"thinking_budget": 2}}},
            "given twice, as 1 and as 2",
        ),
        ({"body": {"thinking_budget_grace_period": 1}}, "without a budget"),
    ],
)
def test_bad_budgets_are_named(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        taken(**fields)


def test_a_processor_of_the_clients_own_keeps_its_names() -> None:
    params = {"custom_params": {"thinking_budget": 7}}
    obj = GenerateReqInput(text="q", sampling_params=params, custom_logit_processor="p")
    replies.take_budget(obj, {})
    assert obj.sampling_params is params


@pytest.mark.parametrize("ours", [True, False])
def test_a_manager_is_asked_once_whose_model_it_has(ours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(reply_flags, "is_ours", lambda config: asked.append(config) or ours)
    generate = replies._generate_request(lambda self, obj, request: obj)
    # two models in one process, as in tests, do not answer for each other
    managers = [
        SimpleNamespace(model_config=SimpleNamespace(hf_config=name), config_value=lambda name: None)
        for name in ("one", "other")
    ]
    for manager in (*managers, *managers):
        obj = generate(manager, GenerateReqInput(text="t", sampling_params={"thinking_budget": 5}))
        assert ("custom_params" in obj.sampling_params) == ours
    assert asked == ["one", "other"]
