"""Replies through SGLang's parsers under our names, called the way its chat server calls them: text in, fields out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest
from sglang.srt.function_call.function_call_parser import FunctionCallParser
from sglang.srt.parser.reasoning_parser import ReasoningParser

from sglang_nemotron.host.replies import PromptTail
from sglang_nemotron.host.reply_flags import PARSER
from sglang_nemotron.reply.grammar import Call, Reply


@dataclass(frozen=True)
class Asked:
    """What a request says that matters to its reply; `previous` is what the reply goes on with, if it does."""

    tools: tuple[dict[str, Any], ...] = ()
    thinking: bool = True
    line_start: bool = True
    reasoning: bool = True
    tools_enabled: bool = True
    force_nonempty_content: bool = False
    stream_reasoning: bool = True
    tool_choice: str = "auto"
    max_calls: int | None = None
    # whether the parsers see the end of the prompt, as they do in a server
    shown: bool = True


def request_of(asked: Asked) -> ChatCompletionRequest:
    kwargs = {"force_nonempty_content": True} if asked.force_nonempty_content else {}
    request = ChatCompletionRequest(
        model="m",
        messages=[{"role": "user", "content": "q"}],
        tools=list(asked.tools) or None,
        tool_choice=asked.tool_choice,
        stream_reasoning=asked.stream_reasoning,
        separate_reasoning=asked.reasoning,
        chat_template_kwargs=kwargs,
    )
    if asked.shown:
        block = "<think>\n" if asked.thinking else "<think></think>"
        text = f"<|im_start|>assistant\n{block}" + ("" if asked.line_start else "go")
        request._response_parser_prefix = PromptTail(
            text, reasoning_apart=asked.reasoning, one_call=asked.max_calls == 1
        )
    return request


def parsers(asked: Asked, *, stream: bool) -> tuple[ReasoningParser | None, FunctionCallParser | None]:
    request = request_of(asked)
    calls = bool(asked.tools and asked.tools_enabled and request.tool_choice != "none")
    first = second = None
    if asked.reasoning:
        first = ReasoningParser(
            PARSER,
            request.stream_reasoning if stream else False,
            asked.thinking,
            request,
            tool_call_parser_active=calls,
        )
    if calls:
        second = FunctionCallParser(request.tools or [], PARSER, prefix=request._response_parser_prefix)
    return first, second


def streamed(pieces: Iterable[str], asked: Asked) -> Reply:
    """What a client joins from the deltas; the last piece and the end come together, as in SGLang."""
    first, second = parsers(asked, stream=True)
    reasoning: list[str] = []
    content: list[str] = []
    calls: dict[int, list[str]] = {}

    def take(text: str, final: bool) -> None:
        if first is not None:
            thought, text = first.parse_stream_chunk(text)
            if final:
                more_thought, more = first.parse_stream_end()
                thought, text = (thought or "") + (more_thought or ""), (text or "") + (more or "")
            reasoning.append(thought or "")
        items = []
        if second is not None:
            text, items = second.parse_stream_chunk(text or "")
            if final:
                more, more_items = second.parse_stream_end()
                text, items = text + more, list(items) + more_items
        content.append(text or "")
        for item in items:
            assert (item.tool_index in calls) is (item.name is None), "a call has its name once, at its start"
            call = calls.setdefault(item.tool_index, [item.name, ""])
            call[1] += item.parameters

    pieces = list(pieces) or [""]
    for at, piece in enumerate(pieces):
        take(piece, final=at == len(pieces) - 1)
    if second is not None:
        # what SGLang would add of its own accord at the end of a stream
        assert not second.detector.prev_tool_call_arr
    return Reply("".join(reasoning), "".join(content), tuple(Call(*calls[index]) for index in sorted(calls)))


def whole(text: str, asked: Asked) -> Reply:
    """What a request without streaming gets."""
    first, second = parsers(asked, stream=False)
    reasoning: str | None = ""
    rest: str | None = text
    if first is not None:
        reasoning, rest = first.parse_non_stream(text)
    items: list[Any] = []
    if second is not None and second.has_tool_call(rest or ""):
        rest, items = second.parse_non_stream(rest or "")
        assert [item.tool_index for item in items] == list(range(len(items)))
    return Reply(reasoning or "", rest or "", tuple(Call(item.name, item.parameters) for item in items))
