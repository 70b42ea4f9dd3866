"""Our reply parsers in SGLang's maps, and what SGLang does not hand a parser: the request's tools, and its prompt.

Registered under private names, which `reply_flags` declares for our architectures alone; SGLang's own entries stay as
they are.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from sglang_nemotron.host.door import Door
from sglang_nemotron.host.reply_flags import ALIASES, PARSER
from sglang_nemotron.reply.markup import CALL_HEADER, THINK_OPEN
from sglang_nemotron.reply.reasoning import opening
from sglang_nemotron.sglang_api.wrapping import Wrap

_REASONING = "sglang.srt.parser.reasoning_parser"
_TOOL_CALLS = "sglang.srt.function_call.function_call_parser"


def open_parsers() -> None:
    """Adds our names to SGLang's maps; may be repeated."""
    from sglang_nemotron.host.detectors import NanoReasoning, NanoTools
    from sglang_nemotron.sglang_api.replies import FunctionCallParser, ReasoningParser

    for name in (PARSER, *ALIASES):
        ReasoningParser.DetectorMap.setdefault(name, NanoReasoning)
    FunctionCallParser.ToolCallParserEnum.setdefault(PARSER, NanoTools)


def _showing(show: Callable[[Any, dict[str, Any]], None]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def around(original: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(original)

        # SGLang's own signature, whatever it is in this release
        @functools.wraps(original)
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            from sglang_nemotron.host.detectors import NanoReasoning, NanoTools

            original(self, *args, **kwargs)
            if isinstance(self.detector, NanoReasoning | NanoTools):
                show(self.detector, signature.bind(self, *args, **kwargs).arguments)

        return init

    return around


def _show_request(detector: Any, given: dict[str, Any]) -> None:
    from sglang_nemotron.host.detectors import tool_names

    request = given.get("request")
    prompt = given.get("prefix")
    if prompt is None:
        prompt = getattr(request, "_response_parser_prefix", "")
    detector.see(prompt, tool_names(request))


def _show_prompt(detector: Any, given: dict[str, Any]) -> None:
    from sglang_nemotron.host.detectors import PromptTail

    prompt = given.get("prefix", "")
    if isinstance(prompt, PromptTail):
        detector.line_start = prompt.content_begins_line
        detector.thinking = prompt.content_thinks
        detector.max_calls = 1 if prompt.one_call else None
        detector.answers = prompt.answers
    elif prompt:
        detector.line_start = opening(prompt).line_start


def parsers_are_ours() -> str | None:
    """None if SGLang's parsers read a reply our way under our names, else what they did."""
    from sglang_nemotron.host.detectors import NanoReasoning, NanoTools, PromptTail
    from sglang_nemotron.sglang_api.replies import FunctionCallParser, ReasoningParser, Tool

    for table, name, ours in (
        (ReasoningParser.DetectorMap, PARSER, NanoReasoning),
        (FunctionCallParser.ToolCallParserEnum, PARSER, NanoTools),
    ):
        if table.get(name) is not ours:
            return f"the parser {name} is {table.get(name)}"
    tool: Any = Tool(function={"name": "f"})  # type: ignore[arg-type]
    request: Any = _Request((tool,))
    call = f"{CALL_HEADER}f>\n</function>\n</tool_call>"
    reasoning = ReasoningParser(PARSER, force_reasoning=True, request=request, prefix=f"{THINK_OPEN}\n")
    found = reasoning.parse_non_stream(f"r\n{call}")
    if found != ("r", call):
        return f"SGLang does not show the reasoning parser a request's tools: it read {found}"
    tail = PromptTail("", reasoning_apart=False, one_call=True)
    if len(FunctionCallParser([tool], PARSER, prefix=tail).parse_non_stream(call * 2)[1]) != 1:
        return "SGLang does not show the tool-call parser the prompt"
    return None


class _Request:
    """The fields of a chat request that our parsers look at."""

    tool_choice = "auto"
    messages = ()
    chat_template_kwargs = None

    def __init__(self, tools: tuple[Any, ...]) -> None:
        self.tools = tools


PARSERS = Door(
    "parsers",
    "engine",
    "reasoning and tool calls of replies",
    needs=(_REASONING,),
    opens=open_parsers,
    proof=parsers_are_ours,
    wraps=(
        Wrap(_REASONING, "ReasoningParser", "__init__", _showing(_show_request), takes=("model_type",)),
        Wrap(
            _TOOL_CALLS, "FunctionCallParser", "__init__", _showing(_show_prompt), takes=("tools", "tool_call_parser")
        ),
    ),
    without="does not show our parsers the request",
)
