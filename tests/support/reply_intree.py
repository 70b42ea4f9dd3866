"""SGLang's own parsers for the same replies, called the way its chat server calls them: a reply in, its fields out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sglang_nemotron.reply.grammar import Call, Reply


class InTree:
    """`nemotron_3` and `qwen3_coder`, streaming, for one reply."""

    def __init__(
        self, openai_tools: list[dict[str, Any]], *, thinking: bool = True, reasoning: str = "nemotron_3"
    ) -> None:
        from sglang.srt.entrypoints.openai.protocol import Tool
        from sglang.srt.function_call.function_call_parser import FunctionCallParser
        from sglang.srt.parser.reasoning_parser import ReasoningParser

        tools = [Tool.model_validate(tool) for tool in openai_tools]
        self.first = ReasoningParser(reasoning, stream_reasoning=True, force_reasoning=thinking)
        self.second = FunctionCallParser(tools, "qwen3_coder")

    def feed(self, text: str) -> tuple[str, str, list[Any]]:
        thought, rest = self.first.parse_stream_chunk(text)
        content, calls = self.second.parse_stream_chunk(rest or "")
        return thought or "", content, calls

    def finish(self) -> tuple[str, str, list[Any]]:
        thought, rest = self.first.parse_stream_end()
        content, calls = self.second.parse_stream_chunk(rest or "")
        last, more = self.second.parse_stream_end()
        return thought or "", content + last, [*calls, *more]


def streamed(pieces: Iterable[str], openai_tools: list[dict[str, Any]], **options: Any) -> Reply:
    """What a client joins from the deltas."""
    parser = InTree(openai_tools, **options)
    deltas = [parser.feed(piece) for piece in pieces] + [parser.finish()]
    calls: dict[int, list[str]] = {}
    for _, _, items in deltas:
        for item in items:
            call = calls.setdefault(item.tool_index, ["", ""])
            call[0] = item.name or call[0]
            call[1] += item.parameters
    reasoning, content = "".join(delta[0] for delta in deltas), "".join(delta[1] for delta in deltas)
    return Reply(reasoning, content, tuple(Call(*calls[index]) for index in sorted(calls)))


def whole(text: str, openai_tools: list[dict[str, Any]], **options: Any) -> Reply:
    """What a request without streaming gets."""
    parser = InTree(openai_tools, **options)
    reasoning, rest = parser.first.parse_non_stream(text)
    calls: list[Any] = []
    if parser.second.has_tool_call(rest or ""):
        rest, calls = parser.second.parse_non_stream(rest or "")
    return Reply(reasoning or "", rest or "", tuple(Call(call.name, call.parameters) for call in calls))
