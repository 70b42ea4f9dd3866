"""Replies that a stop string or a limit of tokens cut: a call that is cut inside a value is never shown as whole."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from sglang.srt.entrypoints.anthropic.serving import AnthropicServing
from sglang.srt.entrypoints.openai.protocol import (
    ChatCompletionResponse,
    ChatCompletionResponseChoice,
    ChatMessage,
    FunctionResponse,
    ToolCall,
    UsageInfo,
)
from sglang.srt.entrypoints.openai.serving_chat import OpenAIServingChat, _incomplete_tool_call_indices
from sglang.srt.managers.io_struct import GenerateReqInput

from sglang_nemotron.host.http import reply_ends
from sglang_nemotron.host.parsers import PARSERS
from sglang_nemotron.host.reply_flags import PARSER
from support.reply_room import OPENAI_TOOLS
from support.reply_through import Asked, parsers, request_of

TOOLS = tuple(OPENAI_TOOLS)
HEAD = "<tool_call>\n<function=set>\n<parameter=i>\n1\n</parameter>\n<parameter=s>\nls"
P, F, T = "</parameter>", "</function>", "</tool_call>"
OWN = '\n<parameter name="q">v'
QUOTED = f"\n<tool_call>\n<function=now>\n<parameter=x>\n1\n{P}\n{F}\n{T}"
LENGTH = {"type": "length", "length": 9}
EOS = {"type": "stop", "matched": 11}


def stopped(text: str) -> dict[str, Any]:
    return {"type": "stop", "matched": text}


# text, how it ended, the arguments (None: unfinished), what SGLang says of it
ROWS: list[tuple[str, dict[str, Any], Any, str]] = [
    (HEAD, EOS, {"i": 1, "s": "ls"}, "tool_calls"),
    (HEAD, LENGTH, None, "length"),
    (HEAD, stopped("STOP"), None, "stop"),
    (HEAD + "\n", stopped("</parameter>"), {"i": 1, "s": "ls"}, "tool_calls"),
    (HEAD, stopped("\n</parameter>\n"), {"i": 1, "s": "ls"}, "tool_calls"),
    (HEAD + "\n", stopped("\n</parameter>\n"), {"i": 1, "s": "ls\n"}, "tool_calls"),
    (HEAD + "\n</parameter>\n", stopped("</function>"), {"i": 1, "s": "ls"}, "tool_calls"),
    (HEAD + "\n</parameter>\n</function>\n", stopped("</tool_call>"), {"i": 1, "s": "ls"}, "tool_calls"),
    (HEAD + "\n", stopped("</function>"), {"i": 1, "s": "ls"}, "tool_calls"),
    (HEAD, stopped("\n</function>"), {"i": 1, "s": "ls"}, "tool_calls"),
    (HEAD, stopped("\n</tool_call>"), {"i": 1, "s": "ls"}, "tool_calls"),
    (HEAD + "\n  ", stopped("</function>"), {"i": 1, "s": "ls\n  "}, "tool_calls"),
    # the same behind a call that is complete
    *(
        (HEAD + before, stopped(stop), {"i": 1, "s": "ls"}, "tool_calls")
        for behind in ("\n</parameter>\n</function>", "</parameter></function>", "\n</parameter>", "\n</function>")
        for before, stop in ((behind, "\n</tool_call>"), (behind + "\n", "</tool_call>"))
    ),
    (HEAD + " ", stopped("</function>"), None, "stop"),
    (HEAD + "\n", stopped("</parameter>\n</function>"), {"i": 1, "s": "ls"}, "tool_calls"),
    (HEAD, stopped("</parameter></function></tool_call>\n"), {"i": 1, "s": "ls"}, "tool_calls"),
    (HEAD + "\n", stopped("</parameter>\nSTOP"), None, "stop"),
    (HEAD + "\n</parameter>\n", LENGTH, {"i": 1, "s": "ls"}, "length"),
    (HEAD + "\n</para", LENGTH, {"i": 1, "s": "ls"}, "length"),
    (HEAD + "\n</", LENGTH, None, "length"),
    (HEAD + "\n</parameter>\nwords", LENGTH, None, "length"),
    (HEAD + "\n</parameter>\nwords\n</", LENGTH, None, "length"),
    (HEAD + "\n</parameter>\nwords\n", stopped("</function>"), {"i": 1, "s": "ls"}, "tool_calls"),
    # markup of the value's own: what was cut off may have been the rest of it
    *((HEAD + OWN + cut, LENGTH, None, "length") for cut in (P, f"{P}\n", f"{P}</func", f"{P}\n<param", f"\n{P[:-1]}")),
    *(
        (HEAD + OWN + cut, LENGTH, None, "length")
        for cut in (P + F, f"{P}\n<tool_call>\n<func", f"\n{P}", f"\n  {P}\n")
    ),
    *((HEAD + OWN, stopped(stop), None, "stop") for stop in (P, f"{P}\n", f"{P}\n{F}", P + F)),
    *((HEAD + OWN + P, stopped(stop), None, "stop") for stop in (F, f"\n{F}", "STOP")),
    (HEAD + OWN + f"{P}\n", stopped(F), None, "stop"),
    *((HEAD + OWN + f"{P}\n{cut}", LENGTH, None, "length") for cut in (F, "</func", f"{F}\n<tool_call>")),
    (HEAD + OWN + f"{P}\n", stopped(P), {"i": 1, "s": f"ls{OWN}{P}"}, "tool_calls"),
    (HEAD + "<function=f>\na\n" + F, LENGTH, None, "length"),
    (HEAD + "<function=f>\na\n</functio", LENGTH, None, "length"),
    (HEAD + "<function=f>\na\n", stopped(F), None, "stop"),
    (HEAD + "<tool_call>\n{}\n" + T, LENGTH, None, "length"),
    (HEAD + "<tool_call>\n{}\n", stopped(T), None, "stop"),
    # a quoted call
    *((HEAD + QUOTED[:size], LENGTH, None, "length") for size in (QUOTED.index(F), QUOTED.index(T), len(QUOTED))),
    *((HEAD + QUOTED[: QUOTED.index(tag)], stopped(tag), None, "stop") for tag in (P, F, T, P + "\n" + F)),
    (HEAD + QUOTED + "\n", stopped(P), {"i": 1, "s": "ls" + QUOTED}, "tool_calls"),
    (HEAD + QUOTED + f"\n{P}\n{F}\n", stopped(T), {"i": 1, "s": "ls" + QUOTED}, "tool_calls"),
    # all closing tags of a call are the end of it, whatever is open, and so are the first and the last
    *((HEAD + OWN + P, stopped(stop), {"i": 1, "s": "ls" + OWN}, "tool_calls") for stop in (T, f"\n{T}", F + T)),
    (HEAD + OWN + "\n", stopped(f"{P}\n{F}\n{T}"), {"i": 1, "s": "ls" + OWN}, "tool_calls"),
    (HEAD + OWN + f"\n{P}\n{F}\n", stopped(T), {"i": 1, "s": "ls" + OWN}, "tool_calls"),
    (HEAD + OWN + f"\n{P}\n{F}\n{T}", LENGTH, {"i": 1, "s": "ls" + OWN}, "length"),
    ("<tool_call>\n<function=set>\n<parameter=i>\n1}", LENGTH, None, "length"),
]


@pytest.fixture(autouse=True, scope="module")
def _open() -> None:
    PARSERS.open()


@pytest.mark.parametrize(("text", "reason", "arguments", "says"), ROWS)
def test_streamed(text: str, reason: dict[str, Any], arguments: Any, says: str) -> None:
    _, parser = parsers(Asked(tools=TOOLS, thinking=False), stream=True)
    assert parser is not None

    async def outputs() -> Any:
        for at, character in enumerate(text):
            yield {"text": character, "meta_info": {"finish_reason": reason if at == len(text) - 1 else None}}

    async def read() -> str:
        fragments: list[str] = []
        generate = reply_ends._generate_request(lambda self, obj, request: outputs())
        async for output in generate(SimpleNamespace(nemotron_replies_are_ours=True), GenerateReqInput(text="t")):
            fragments += [item.parameters for item in parser.parse_stream_chunk(output["text"])[1]]
            if output["meta_info"]["finish_reason"]:
                fragments += [item.parameters for item in parser.parse_stream_end()[1]]
        return "".join(fragments)

    found = asyncio.run(read())
    assert_arguments(found, arguments)
    # SGLang's stream says tool_calls where it finds none of these
    assert _incomplete_tool_call_indices(parser) == (set() if arguments else {0})


@pytest.mark.parametrize(("text", "reason", "arguments", "says"), ROWS)
def test_whole(text: str, reason: dict[str, Any], arguments: Any, says: str) -> None:
    process = reply_ends._process_tool_calls(OpenAIServingChat._process_tool_calls)
    serving = SimpleNamespace(
        tool_call_parser=PARSER,
        tokenizer_manager=SimpleNamespace(tokenizer=None),
        _process_tool_call_id=lambda call, count: "id",
    )
    request = request_of(Asked(tools=TOOLS, thinking=False))
    prefix = request._response_parser_prefix
    calls, _, finish = process(serving, text, request.tools, dict(reason), "auto", 0, prefix)
    assert_arguments(calls[-1].function.arguments, arguments)
    assert finish["type"] == says
    assert finish.get("matched") == (None if says == "tool_calls" else reason.get("matched"))
    assert reply_ends.ended.get() is None


@pytest.mark.parametrize("ours", [True, False])
def test_messages_leave_it_out(ours: bool) -> None:
    calls = [
        ToolCall(id=f"id{at}", function=FunctionResponse(name="set", arguments=arguments))
        for at, arguments in enumerate(('{"i": 1}', '{"s": "ls'))
    ]
    message = ChatMessage(role="assistant", content="I look.", tool_calls=calls)
    choice = ChatCompletionResponseChoice(index=0, message=message, finish_reason="length")
    response = ChatCompletionResponse(id="r", model="m", choices=[choice], usage=UsageInfo())
    chat = SimpleNamespace(tool_call_parser=PARSER if ours else "qwen3_coder")
    convert = reply_ends._convert_response(AnthropicServing._convert_response)
    found = convert(SimpleNamespace(openai_serving_chat=chat), response)
    used = [block.input for block in found.content if block.type == "tool_use"]
    assert used == ([{"i": 1}] if ours else [{"i": 1}, {}])
    assert found.stop_reason == "max_tokens"


def assert_arguments(found: str, expected: Any) -> None:
    if expected is None:
        assert found.startswith("{") and ("ls" in found or "1}" in found)
        with pytest.raises(ValueError):
            json.loads(found)
    else:
        assert json.loads(found) == expected


def test_other_parsers_are_told_nothing() -> None:
    seen: list[Any] = []
    process = reply_ends._process_tool_calls(lambda self, *args: seen.append((args, reply_ends.ended.get())))
    process(SimpleNamespace(tool_call_parser="qwen3_coder"), "t", [], LENGTH)
    assert seen == [(("t", [], LENGTH), None)]
