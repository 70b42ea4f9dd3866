"""Scripted replies through a real server and client: every field exact, streamed and not, alone and together."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sglang_nemotron.cli.server import ServerProcess
from support.scripted import SCRIPTED, Heard, ask, asks, script, stream, streams

pytest.register_assert_rewrite("test_reply_cases")

from reply.test_reply_cases import CASES, exact  # noqa: E402
from support.reply_texts import OPENAI_TOOLS  # noqa: E402

pytestmark = pytest.mark.server(SCRIPTED)

PARIS = "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>"
PARIS_CALL = ("get_weather", {"city": "Paris"})


def said(heard: Heard) -> tuple[str, str, list[tuple[str, Any]]]:
    """The reply with its arguments read."""
    return heard.reasoning, heard.content, [(name, json.loads(arguments)) for name, arguments in heard.calls]


# ---- the hand-written cases


def _servable(label: str) -> bool:
    text, *_, options = CASES[label]
    # an end-of-turn token ends the reply; without a tool parser is another server; the context has its limit
    return "<|im_end|>" not in text and options.get("tools_enabled", True) and len(text.encode()) < 800


SERVABLE = [label for label in CASES if _servable(label)]
# everything that has options of its own, and a spread of the rest
SOME = [label for i, label in enumerate(SERVABLE) if i % 7 == 0 or set(CASES[label][4]) - {"thinking"}]


def _options(label: str) -> dict[str, Any]:
    text, *_, options = CASES[label]
    told: dict[str, Any] = {"tools": OPENAI_TOOLS, "enable_thinking": options.get("thinking", True)}
    if not options.get("reasoning", True):
        told["separate_reasoning"] = False
    if not options.get("stream_reasoning", True):
        told["stream_reasoning"] = False
    if options.get("force_nonempty_content"):
        told["force_nonempty_content"] = True
    if options.get("max_calls") == 1:
        told["parallel_tool_calls"] = False
    if not options.get("line_start", True):
        # the reply goes on in the middle of a line
        told["continue_final_message"] = True
        begun = "<think>\nSo far" if options.get("thinking", True) else "So far"
        told["messages"] = [{"role": "user", "content": script(text)}, {"role": "assistant", "content": begun}]
    return told


def _check(labels: list[str], heard: list[Heard]) -> None:
    for label, reply in zip(labels, heard, strict=True):
        _, reasoning, content, calls, _ = CASES[label]
        found = said(reply)
        assert found[:2] == (reasoning, content), label
        assert exact(found[2]) == exact(calls), label
        assert reply.finish == ("tool_calls" if calls else "stop"), label


def test_enough_scripts() -> None:
    assert len(SOME) >= 50
    assert len(SERVABLE) >= 150


def test_scripts_streamed_together(server: ServerProcess) -> None:
    """50 and more different replies at the same time, none in another's fields."""
    _check(SOME, streams(server, [(CASES[label][0], _options(label)) for label in SOME]))


def test_scripts_in_one_piece(server: ServerProcess) -> None:
    # a third of them; the matrix asks all
    some = SOME[::3]
    _check(some, asks(server, [(CASES[label][0], _options(label)) for label in some]))


@pytest.mark.matrix
@pytest.mark.parametrize("part", range(8))
def test_every_script(part: int, server: ServerProcess) -> None:
    labels = SERVABLE[part::8]
    wanted = [(CASES[label][0], _options(label)) for label in labels]
    _check(labels, streams(server, wanted))
    _check(labels, asks(server, wanted))


# ---- fields beside the text


@pytest.mark.parametrize("hear", [ask, stream], ids=["whole", "streamed"])
def test_thinking_off_with_the_parser_of_the_omni_cookbook(hear: Any, server: ServerProcess) -> None:
    heard = hear(server, "15% of 200 is 30.", enable_thinking=False)
    assert heard.said == ("", "15% of 200 is 30.", [])
    assert heard.usage.reasoning_tokens == 0


@pytest.mark.parametrize("hear", [ask, stream], ids=["whole", "streamed"])
def test_usage_counts_reasoning(hear: Any, server: ServerProcess) -> None:
    heard = hear(server, "abc\n</think>\nyes")
    assert heard.said == ("abc", "yes", [])
    # SGLang counts the closing tag too: a, b, c, newline, </think>; bytes are tokens here
    assert heard.usage.reasoning_tokens == 5
    # and newline, y, es, end of turn
    assert heard.usage.completion_tokens == 9


def test_a_stream_comes_in_pieces(server: ServerProcess) -> None:
    heard = stream(server, "one two three four\n</think>\nfive six seven eight")
    assert heard.said == ("one two three four", "five six seven eight", [])
    assert heard.deltas > 10


@pytest.mark.parametrize("hear", [ask, stream], ids=["whole", "streamed"])
def test_a_reply_cut_in_a_call_is_whole_json(hear: Any, server: ServerProcess) -> None:
    heard = hear(server, "r\n</think>\n" + PARIS, tools=OPENAI_TOOLS, max_tokens=30)
    assert heard.finish == "length"
    assert said(heard)[2] in (
        [("get_weather", {})],
        [("get_weather", {"city": value}) for value in ("", "P", "Pa")][:1],
    )


@pytest.mark.parametrize("hear", [ask, stream], ids=["whole", "streamed"])
def test_a_call_cut_in_a_value_is_not_whole(hear: Any, server: ServerProcess) -> None:
    text = "r\n</think>\n" + PARIS.replace("Paris", "Par" + "i" * 200 + "s")
    heard = hear(server, text, tools=OPENAI_TOOLS, max_tokens=100)
    assert heard.finish == "length"
    (call,) = heard.calls
    assert call[1].startswith('{"city": "Pari')
    with pytest.raises(ValueError):
        json.loads(call[1])


@pytest.mark.parametrize("hear", [ask, stream], ids=["whole", "streamed"])
def test_several_replies_to_one_question(hear: Any, server: ServerProcess) -> None:
    """`n` replies share a request, and no parser."""
    from openai import OpenAI

    from support.scripted import asked

    client = OpenAI(base_url=f"{server.url}/v1", api_key="EMPTY")
    arguments = asked("r\n</think>\n" + PARIS, tools=OPENAI_TOOLS) | {"n": 3}
    if hear is ask:
        choices = client.chat.completions.create(**arguments).choices
        assert [choice.message.reasoning_content for choice in choices] == ["r"] * 3
        assert [json.loads(choice.message.tool_calls[0].function.arguments) for choice in choices] == [
            {"city": "Paris"}
        ] * 3
        return
    thoughts, arguments_of = [""] * 3, [""] * 3
    for chunk in client.chat.completions.create(**arguments, stream=True):
        for choice in chunk.choices:
            thoughts[choice.index] += getattr(choice.delta, "reasoning_content", None) or ""
            for call in choice.delta.tool_calls or []:
                arguments_of[choice.index] += call.function.arguments or ""
    assert thoughts == ["r"] * 3 and [json.loads(text) for text in arguments_of] == [{"city": "Paris"}] * 3


@pytest.mark.parametrize("hear", [ask, stream], ids=["whole", "streamed"])
def test_special_tokens_shown(hear: Any, server: ServerProcess) -> None:
    text = "see <SPECIAL_30>\n</think>\nand <SPECIAL_31>."
    heard = hear(server, text, skip_special_tokens=False)
    # SGLang's tokenizer may put a space beside a special token
    assert "<SPECIAL_30>" in heard.reasoning and "<SPECIAL_31>" in heard.content
    heard = hear(server, text)
    assert "<SPECIAL_" not in heard.reasoning + heard.content


# ---- history


@pytest.mark.parametrize("hear", [ask, stream], ids=["whole", "streamed"])
def test_a_tool_result_and_the_next_call(hear: Any, server: ServerProcess) -> None:
    question = {"role": "user", "content": script("I look.\n</think>\n" + PARIS)}
    first = hear(server, "", messages=[question], tools=OPENAI_TOOLS)
    assert said(first) == ("I look.", "", [PARIS_CALL])
    ((name, arguments),) = first.calls
    turn = {
        "role": "assistant",
        "content": first.content,
        "reasoning_content": first.reasoning,
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}],
    }
    result = {"role": "tool", "tool_call_id": "1", "content": script("Warm.\n</think>\nIt is warm.\n" + PARIS)}
    second = hear(server, "", messages=[question, turn, result], tools=OPENAI_TOOLS)
    assert said(second) == ("Warm.", "It is warm.", [PARIS_CALL])


@pytest.mark.parametrize("hear", [ask, stream], ids=["whole", "streamed"])
def test_think_tags_in_the_history_change_nothing(hear: Any, server: ServerProcess) -> None:
    history = [
        {"role": "user", "content": "Is </think> a tag? And <think>?"},
        {"role": "assistant", "content": "Yes.", "reasoning_content": "They are."},
        {"role": "user", "content": "<think>\n" + script("r\n</think>\nc")},
    ]
    for truncate in (True, False):
        heard = hear(server, "", messages=history, chat_template_kwargs={"truncate_history_thinking": truncate})
        assert heard.said == ("r", "c", [])


@pytest.mark.parametrize("hear", [ask, stream], ids=["whole", "streamed"])
def test_going_on_with_a_message(hear: Any, server: ServerProcess) -> None:
    def continued(previous: str, text: str, **options: Any) -> Heard:
        messages = [{"role": "user", "content": script(text)}, {"role": "assistant", "content": previous}]
        return hear(server, "", messages=messages, continue_final_message=True, **options)

    # a thought that was begun goes on; content without tags is an answer, whatever the options say of thinking
    assert continued("<think>\nSo far", " and on\n</think>\nc").said == (" and on", "c", [])
    assert continued("So far\n</think>\nThe answer", " is 3.").said == ("", " is 3.", [])
    for thinking in (True, False):
        heard = continued("The answer", " is 3.</think>", enable_thinking=thinking)
        assert heard.said == ("", " is 3.</think>", [])


# ---- bad input


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ([OPENAI_TOOLS[0], OPENAI_TOOLS[0]], "'get_weather' is declared twice"),
        ([{"type": "function", "function": {"name": "a b"}}], "'a b'"),
        (
            [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {"type": "colour"}}}}}],
            "colour",
        ),
    ],
)
def test_bad_tools_are_a_400(tools: list[Any], said: str, server: ServerProcess) -> None:
    from openai import BadRequestError

    for hear in (ask, stream):
        with pytest.raises(BadRequestError, match=said):
            hear(server, "x", tools=tools)
