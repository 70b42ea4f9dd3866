"""A response format beside tools: a chat of ours that has both goes in, one constraint for the scheduler comes out.

SGLang keeps one of the two, or refuses. With `auto`, a reply is calls or an answer of the schema (`reply.answer`);
where a call was demanded, the call wins. Chats and responses meet here in SGLang's own rendering; the schema is taken
from the sampling parameters, where both endpoints have it in one form.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sglang_nemotron.host.door import Door
from sglang_nemotron.host.reply_flags import PARSER
from sglang_nemotron.reply.answer import call_tags, calls_or_answer
from sglang_nemotron.reply.markup import CALL_HEADER
from sglang_nemotron.reply.reasoning import opening
from sglang_nemotron.sglang_api.wrapping import Wrap

_JSON = ("json_schema", "json_object")
# the one backend that knows the tags of this grammar
_BACKEND = "xgrammar"


@dataclass(frozen=True)
class Fitted:
    """In the place of SGLang's constraint of tool calls, for a request that has a schema too.

    won: a call was demanded; SGLang's own constraint, in which the schema has no part. Else what the grammar of calls
    or schema is made of, as `reply.answer` wants it.
    """

    won: Any = None
    tags: tuple[dict[str, Any], ...] = ()
    parallel: bool = True
    thoughts: bool = False

    def structural_tag(self, schema: str) -> str:
        """The constraint of a reply that is calls or an answer of this JSON schema; ValueError where XGrammar would
        not keep all of the schema, as SGLang has it for a schema alone."""
        from sglang_nemotron.sglang_api.http import validate_xgrammar_json_schema

        read = json.loads(schema)
        validate_xgrammar_json_schema(read)
        tag = calls_or_answer(_answer(read), self.tags, parallel=self.parallel, thoughts=self.thoughts)
        return json.dumps({"type": "structural_tag", "format": tag})


def fit_format(serving: Any, request: Any, result: Any, prompt: str, *, schema_elsewhere: bool) -> bool:
    """Puts a `Fitted` in the place of the result's constraint, if the request has tools and a schema; whether its reply
    is calls or an answer.

    serving: SGLang's chat endpoint. request: its chat request. result: what it made of the messages, changed in place.
    prompt: the prompt's end. schema_elsewhere: it is the rendering of another request, which has a schema.
    """
    if not schema_elsewhere and getattr(request.response_format, "type", None) not in _JSON:
        return False
    tools = serving._effective_tools(request)
    if not tools or request.tool_choice == "none":
        return False
    if request.tool_choice != "auto":
        if result.tool_call_constraint is not None:
            result.tool_call_constraint = Fitted(won=result.tool_call_constraint)
        return False
    if serving.tool_call_parser != PARSER or _backend() != _BACKEND:
        return False
    # thoughts that no reasoning parser waits for are in the grammar
    thoughts = serving.reasoning_parser != PARSER and opening(prompt).thinking
    result.tool_call_constraint = Fitted(
        tags=tuple(_tags(tools)), parallel=request.parallel_tool_calls is not False, thoughts=thoughts
    )
    return True


def _tags(tools: list[Any]) -> list[dict[str, Any]]:
    """One tag for each tool: as SGLang has it for a strict one, open in its parameters for another."""
    from sglang_nemotron.sglang_api.replies import FunctionCallParser

    parser = FunctionCallParser(tools, PARSER)
    strict = [tool for tool in parser.structural_tag_tools() if tool.function.strict]
    made = parser.detector.get_structural_tag(tools=strict, tool_choice="required") if strict else None
    listed = made.model_dump(by_alias=True)["format"]["tags"] if made is not None else []
    contents = {tag["begin"][len(CALL_HEADER) :].removesuffix(">\n"): tag["content"] for tag in listed}
    return call_tags([tool.function.name for tool in tools], contents)


def _answer(schema: Any) -> dict[str, Any]:
    """The schema as a format, with the blanks that the server's flags allow in JSON."""
    from sglang_nemotron.sglang_api.http import get_serving

    flags = get_serving()
    if flags.constrained_json_disable_any_whitespace:
        # the tag of a schema cannot say so
        from xgrammar import Grammar

        return {"type": "grammar", "grammar": str(Grammar.from_json_schema(schema, any_whitespace=False))}
    most = flags.constrained_json_max_whitespace_cnt
    return {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": most}


def _backend() -> str:
    from sglang_nemotron.sglang_api.http import get_exec

    return get_exec().kernel.grammar_backend


def _to_sampling_params(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    @functools.wraps(original)
    def to_sampling_params(self: Any, *args: Any, tool_call_constraint: Any = None, **kwargs: Any) -> dict[str, Any]:
        if not isinstance(tool_call_constraint, Fitted):
            return original(self, *args, tool_call_constraint=tool_call_constraint, **kwargs)
        if tool_call_constraint.won is not None:
            without = self.model_copy(update={_FIELDS[type(self).__name__]: None})
            return original(without, *args, tool_call_constraint=tool_call_constraint.won, **kwargs)
        params = original(self, *args, **kwargs)
        return params | {
            "structural_tag": tool_call_constraint.structural_tag(params["json_schema"]),
            "json_schema": None,
        }

    return to_sampling_params


def _tags_are_ours() -> str | None:
    """None if XGrammar's tags for a strict tool are what `reply.answer` takes them for."""
    from sglang_nemotron.sglang_api.replies import Tool

    function = {"name": "f", "strict": True, "parameters": {"type": "object", "properties": {}}}
    tag = _tags([Tool(function=function)])[0]  # type: ignore[arg-type]
    if tag["content"].get("type") != "json_schema":
        return f"the grammar of a strict call is {tag['content']}"
    return None


_PROTOCOL = "sglang.srt.entrypoints.openai.protocol"
_CHAT = "sglang.srt.entrypoints.openai.serving_chat"
# where each request has its response format
_FIELDS = {"ChatCompletionRequest": "response_format", "ResponsesRequest": "text"}

FORMATS = Door(
    "response formats",
    "http",
    "a response format beside tools",
    needs=(_CHAT, _PROTOCOL),
    proof=_tags_are_ours,
    wraps=(
        Wrap(
            _PROTOCOL,
            "ChatCompletionRequest",
            "to_sampling_params",
            _to_sampling_params,
            takes=("stop", "model_generation_config", "tool_call_constraint"),
        ),
        Wrap(
            _PROTOCOL,
            "ResponsesRequest",
            "to_sampling_params",
            _to_sampling_params,
            takes=("default_max_tokens", "default_params", "stop", "tool_call_constraint"),
        ),
    ),
    without="does not ask us for the constraint of tools and a response format",
)
