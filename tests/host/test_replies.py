"""Our parsers through SGLang's own entry points: every hand-written reply, whole and streamed; theirs are untouched."""

from __future__ import annotations

import ast
import inspect
import json
from typing import Any

import pytest
from reply_room import CASES, OPENAI_TOOLS, ROWS, exact, right
from reply_through import Asked, parsers, streamed, whole
from sglang.srt.entrypoints.openai.protocol import ResponsesRequest
from sglang.srt.function_call.function_call_parser import FunctionCallParser
from sglang.srt.function_call.parser_names import TOOL_CALL_PARSER_NAMES
from sglang.srt.parser.reasoning_parser import ReasoningParser
from sglang.srt.parser.reasoning_parser_names import REASONING_PARSER_NAMES

from sglang_nemotron.host import replies
from sglang_nemotron.host.parsers import PARSERS, parsers_are_ours
from sglang_nemotron.host.reply_flags import ALIASES, PARSER
from sglang_nemotron.reply.grammar import Reply

TOOLS = tuple(OPENAI_TOOLS)
SIZES = (1, 2, 3, 7)
PARIS = "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>\n"


@pytest.fixture(autouse=True, scope="module")
def _open() -> None:
    PARSERS.open()


def pieces(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


@pytest.mark.parametrize("label", CASES)
def test_case(label: str) -> None:
    text, reasoning, content, calls, options = CASES[label]
    asked = Asked(tools=TOOLS, **options)
    for size in (0, *SIZES):
        reply = streamed(pieces(text, size), asked) if size else whole(text, asked)
        assert (reply.reasoning, reply.content) == (reasoning, content), size
        assert [call.name for call in reply.calls] == [name for name, _ in calls], size
        for found, (_, expected) in zip(reply.calls, calls, strict=True):
            assert exact(json.loads(found.arguments)) == exact(expected), size


@pytest.mark.parametrize("name", ROWS)
def test_what_sglang_gets_wrong(name: str) -> None:
    """The rows that fail with SGLang's parsers (tests/reply/test_intree_fails.py shows that) are right with ours."""
    row, asked = ROWS[name], Asked(tools=TOOLS)
    assert right(whole(row.text, asked), row)
    for size in (1, 3, 7, 1000):
        assert right(streamed(pieces(row.text, size), asked), row), size


def test_a_long_string_streams() -> None:
    _, parser = parsers(Asked(tools=TOOLS), stream=True)
    assert parser is not None
    text = "<tool_call>\n<function=set>\n<parameter=s>\n" + "word " * 400
    seen = [item.parameters for piece in pieces(text, 1) for item in parser.parse_stream_chunk(piece)[1]]
    assert sum(map(len, seen)) >= 399 * len("word ")


@pytest.mark.parametrize("shown", [True, False], ids=["prompt shown", "from the request"])
def test_thinking_off_is_content(shown: bool) -> None:
    asked = Asked(thinking=False, shown=shown)
    assert whole("The answer.", asked) == Reply("", "The answer.")
    assert streamed(list("The answer."), asked) == Reply("", "The answer.")


def test_the_prompt_outranks_the_options() -> None:
    """Omni's /no_think closes the block in the prompt while the request still says thinking."""
    first, _ = parsers(Asked(thinking=True), stream=False)
    assert first is not None and first.parse_non_stream("a") == ("a", "")
    request = ReasoningParser(PARSER, True, True, prefix="<|im_start|>assistant\n<think></think>")
    assert request.parse_non_stream("a") == ("", "a")


def test_going_on_with_a_message_without_seeing_the_prompt() -> None:
    for previous, expected in (("<think>\nso", ("x", "y")), ("<think>a</think>b", ("", "x</think>y"))):
        detector = replies.NanoReasoning(continue_final_message=True, previous_content=previous)
        found = detector.detect_and_parse("x</think>y")
        assert (found.reasoning_text, found.normal_text) == expected
    replies.NanoReasoning(continue_final_message=True, previous_content=None)
    replies.NanoReasoning(continue_final_message=True, previous_content=[{"type": "text", "text": "<think>"}])


def test_no_call_where_calls_are_forbidden() -> None:
    asked = Asked(tools=TOOLS, tool_choice="none")
    text = "r\n" + PARIS + "</think>c"
    assert whole(text, asked) == Reply("r\n" + PARIS[:-1], "c") == streamed(pieces(text, 2), asked)


def test_a_call_in_any_form_is_looked_for() -> None:
    _, parser = parsers(Asked(tools=TOOLS), stream=False)
    assert parser is not None
    assert parser.has_tool_call(PARIS) and parser.has_tool_call("so <tool_call><function=now></function>")
    assert parser.has_tool_call("<function=now></function>")
    assert not parser.has_tool_call("The `<tool_call>` tag, and <function= alone")


def test_names_of_every_kind_of_request() -> None:
    responses = ResponsesRequest(
        model="m",
        input="q",
        tools=[{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}],
    )
    assert replies.tool_names(responses) == ("f",)
    assert replies.tool_names(None) == ()


def test_an_aborted_stream_is_never_finished() -> None:
    first, second = parsers(Asked(tools=TOOLS), stream=True)
    assert first is not None and second is not None
    first.parse_stream_chunk("r\n</think>\n" + PARIS[:60])
    assert second.parse_stream_chunk(PARIS[:60])[1]
    # finishing what never began, as SGLang does for an empty reply
    for parser in parsers(Asked(tools=TOOLS), stream=True):
        assert parser is not None
        assert parser.parse_stream_end()[0] in ("", None)


# ---- SGLang's own entries


def _declared(owner: type, table: str) -> dict[str, str]:
    """name -> class of a parser table, read from SGLang's source."""
    for node in ast.walk(ast.parse(inspect.getsource(inspect.getmodule(owner)))):
        target: Any = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(target, ast.Name) and target.id == table and isinstance(node.value, ast.Dict):
            return {key.value: value.id for key, value in zip(node.value.keys, node.value.values, strict=True)}
    raise AssertionError(f"no {table} in the source of {owner}")


@pytest.mark.parametrize(
    ("owner", "table", "ours", "listed"),
    [
        (ReasoningParser, "DetectorMap", {PARSER, *ALIASES}, REASONING_PARSER_NAMES),
        (FunctionCallParser, "ToolCallParserEnum", {PARSER}, TOOL_CALL_PARSER_NAMES),
    ],
)
def test_sglangs_own_parsers_are_untouched(owner: type, table: str, ours: set[str], listed: list[str]) -> None:
    declared = _declared(owner, table)
    present = getattr(owner, table)
    assert len(declared) > 30
    assert {name: present[name].__name__ for name in present if name not in ours} == declared
    assert all(present[name].__module__.startswith("sglang.") for name in declared)
    assert set(present) - set(declared) == ours
    assert set(listed) >= set(declared) | ours


def test_sglangs_own_parsers_answer_as_before() -> None:
    """The wrapped constructors hand SGLang's detectors exactly what they got before."""
    parser = ReasoningParser("deepseek-r1", stream_reasoning=False)
    assert parser.parse_non_stream("a</think>b") == ("a", "b")
    assert type(ReasoningParser("nemotron_3").detector).__name__ == "Nemotron3Detector"
    with pytest.raises(ValueError, match="nobody"):
        ReasoningParser("nobody")


def test_the_proof_fails_where_a_parser_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parsers_are_ours() is None
    for owner, table in ((ReasoningParser, "DetectorMap"), (FunctionCallParser, "ToolCallParserEnum")):
        with monkeypatch.context() as patch:
            patch.setitem(getattr(owner, table), PARSER, object)
            assert "the parser nemotron_nano is" in str(parsers_are_ours())
    for owner, said in ((ReasoningParser, "a request's tools"), (FunctionCallParser, "the prompt")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, "__init__", owner.__init__.__wrapped__)
            assert said in str(parsers_are_ours())
