"""What a request brings to its reply in the processes that answer HTTP: tools checked, its prompt shown to the parsers,
its thinking budget under one private name. Models whose replies are not ours to read pass through untouched.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from sglang_nemotron.host.counts import refusing
from sglang_nemotron.host.door import Door
from sglang_nemotron.host.http.answer_format import fit_format
from sglang_nemotron.host.http.stop_requests import check_request_stops, take_stops
from sglang_nemotron.host.parsers import PARSERS
from sglang_nemotron.host.reply_flags import BUDGET, PARSER, TOOLS, prompt_tail, serves_ours
from sglang_nemotron.reply.budget import BUDGET_NAMES, GRACE_NAME, read_budget
from sglang_nemotron.reply.reasoning import opening
from sglang_nemotron.reply.schema import check_schema, check_tools
from sglang_nemotron.sglang_api.wrapping import Wrap

_NAMES = (*BUDGET_NAMES, GRACE_NAME)
# where the prompt's end travels between two of SGLang's methods, on an object that both hold
_TAIL = "nemotron_prompt_tail"


# ---- chat and responses requests


def check_request_tools(request: Any) -> None:
    """ValueError, naming tool and place, for tools that a reply could not call or whose references lead nowhere."""
    declared = [tool.model_dump() for tool in getattr(request, "tools", None) or ()]
    for message in getattr(request, "messages", None) or ():
        declared.extend(tool.model_dump() for tool in getattr(message, "tools", None) or ())
    check_tools(declared)


def check_response_schemas(request: Any) -> None:
    """ValueError, naming tool and place, for a tool of a responses request whose parameters are no JSON schema.

    SGLang asks this of chats and messages alone; what it would refuse or rewrite there is the same here.
    """
    from sglang_nemotron.sglang_api.http import normalize_json_schema_types

    for tool in request.tools or ():
        if tool.type == "function" and tool.parameters is not None:
            # a dump is a copy, so the request stays as it came
            parameters = tool.model_dump()["parameters"]
            normalize_json_schema_types(parameters)
            check_schema(parameters, f"the parameters of tool {tool.name!r}")


def _process_messages(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def process(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        if PARSER not in (self.reasoning_parser, self.tool_call_parser):
            return original(self, request, *args, **kwargs)
        from sglang_nemotron.host.detectors import PromptTail

        with refusing("tools"):
            check_request_tools(request)
        with refusing("stop"):
            check_request_stops(request)
        result = original(self, request, *args, **kwargs)
        apart = self.reasoning_parser == PARSER and request.separate_reasoning
        text = prompt_tail(result.prompt_ids or result.prompt, self.tokenizer_manager.tokenizer)
        with refusing("format"):
            answers = fit_format(self, request, result, text, schema_elsewhere=kwargs.get("output_constrained") is True)
        tail = PromptTail(text, reasoning_apart=apart, one_call=request.parallel_tool_calls is False, answers=answers)
        request._response_parser_prefix = tail
        setattr(result, _TAIL, tail)
        if self.reasoning_parser == PARSER:
            # a grammar waits for the end of thinking if the prompt began any, whatever the request's options say
            result.require_reasoning = opening(tail).thinking
        return result

    return process


def _make_request(original: Callable[..., Any]) -> Callable[..., Any]:
    # SGLang renders a responses request through a chat request of its own, which it drops
    @functools.wraps(original)
    async def make(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        if PARSER in (self.reasoning_parser, self.tool_call_parser):
            with refusing("tools"):
                check_response_schemas(request)
            with refusing("stop"):
                check_request_stops(request)
        made = await original(self, request, *args, **kwargs)
        tail = getattr(made[-1], _TAIL, None)
        if tail is not None:
            request._response_parser_prefix = tail
        return made

    return make


# ---- budgets


def take_budget(obj: Any, body: Mapping[str, Any], *, messages_api: bool = False) -> None:
    """Moves the thinking budget of a generation request under the private names that the scheduler reads.

    `obj` is SGLang's GenerateReqInput, changed in place; `body` is the client's JSON, where fields that SGLang does
    not know are still to be found. ValueError for a budget that is none, or for two that differ.
    """
    if obj.custom_logit_processor is not None:
        # the request brings a processor of its own, which may read these names
        return
    asked = {name: body[name] for name in _NAMES if body.get(name) is not None}
    if obj.max_thinking_tokens is not None:
        asked["max_thinking_tokens"] = obj.max_thinking_tokens
        obj.max_thinking_tokens = None
    thinking = body.get("thinking")
    if messages_api and isinstance(thinking, dict) and thinking.get("budget_tokens") is not None:
        asked.setdefault("thinking_budget", thinking["budget_tokens"])
    names = _declared_names(body)
    if isinstance(obj.sampling_params, list):
        obj.sampling_params = [_with_budget(params or {}, asked, names) for params in obj.sampling_params]
    elif asked or obj.sampling_params:
        obj.sampling_params = _with_budget(obj.sampling_params or {}, asked, names)


def _with_budget(params: dict[str, Any], asked: dict[str, Any], names: list[str]) -> dict[str, Any]:
    custom = params.get("custom_params")
    if custom is not None and not isinstance(custom, dict):
        return params
    custom = custom or {}
    found = dict(asked)
    for source in (params, custom):
        for name in _NAMES:
            value = source.get(name)
            if value is None:
                continue
            if found.setdefault(name, value) != value:
                raise ValueError(f"{name} is given twice, as {found[name]!r} and as {value!r}; send it once")
    private = BUDGET in custom or TOOLS in custom
    if not found and not private:
        return params
    budget = read_budget(found)
    kept = {name: value for name, value in custom.items() if name not in (*_NAMES, BUDGET, TOOLS)}
    if budget is not None:
        kept |= {BUDGET: [budget.tokens, budget.grace], TOOLS: names}
    return {name: value for name, value in params.items() if name not in _NAMES} | {"custom_params": kept or None}


def _declared_names(body: Mapping[str, Any]) -> list[str]:
    """The tools of a client's JSON, on any of SGLang's endpoints; they were checked before."""
    if body.get("tool_choice") == "none":
        return []
    tools = list(body.get("tools") or ())
    for message in body.get("messages") or ():
        if isinstance(message, dict):
            tools.extend(message.get("tools") or ())
    functions = [tool.get("function", tool) for tool in tools if isinstance(tool, dict)]
    names = [function.get("name") for function in functions if isinstance(function, dict)]
    return [name for name in names if isinstance(name, str)]


def _tells_thoughts_apart(manager: Any) -> bool:
    return manager.config_value("reasoning_parser") == PARSER


def _generate_request(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def generate(self: Any, obj: Any, request: Any = None) -> Any:
        from sglang_nemotron.sglang_api.http import GenerateReqInput

        if isinstance(obj, GenerateReqInput) and serves_ours(self):
            # the body is parsed and kept by the time a handler runs
            body = getattr(request, "_json", None)
            path = request.url.path if isinstance(body, dict) else ""
            body = body if isinstance(body, dict) else {}
            names = functools.partial(_declared_names, body)
            with refusing("budget"):
                take_budget(obj, body, messages_api=path.endswith("/v1/messages"))
            with refusing("stop"):
                take_stops(obj, body, path, names=names, apart=_tells_thoughts_apart(self))
        return original(self, obj, request)

    return generate


_CHAT = "sglang.srt.entrypoints.openai.serving_chat"
_RESPONSES = "sglang.srt.entrypoints.openai.serving_responses"
_MANAGER = "sglang.srt.managers.tokenizer_manager"

REPLIES = Door(
    "replies",
    "http",
    "what the parsers see of a request; tools and budgets checked",
    needs=(_CHAT,),
    # an HTTP worker opens the rows of its own stage alone
    opens=PARSERS.open,
    proof=PARSERS.is_ours,
    wraps=(
        Wrap(_CHAT, "OpenAIServingChat", "_process_messages", _process_messages, takes=("request",)),
        Wrap(_RESPONSES, "OpenAIServingResponses", "_make_request", _make_request, takes=("request",)),
        Wrap(_MANAGER, "TokenizerManager", "generate_request", _generate_request, takes=("obj", "request")),
    ),
    without="does not show requests to our parsers",
)
