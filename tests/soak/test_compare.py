"""What a server says is read whole and in a stream, and any difference from the answer alone is seen."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from soak.answers import Answer, of_body, of_stream
from soak.asks import CHAT, COMPLETION, GENERATE, Ask
from soak.compare import compare
from soak.player import judge
from support.omni_requests import Said

TOLERANCE = 5e-5
ALONE = Said(("a", "b", "c"), (-1.0, -2.0, -3.0), (0.5, 0.5, 0.5), "abc")


# ---- comparing


def test_the_same_is_the_same() -> None:
    near = replace(ALONE, logprobs=(-1.00001, -2.0, -3.0))
    found = compare([near, ALONE], [ALONE, ALONE], TOLERANCE)
    assert found.problem is None and not found.tied and 0 < found.apart < TOLERANCE


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (replace(ALONE, logprobs=(-1.0, -2.001, -3.0)), "the logprob of token 2 of 3 differs by 1.0e-03"),
        (replace(ALONE, logprobs=(-1.0, float("nan"), -3.0)), "the logprob of token 2 of 3 differs by nan"),
        (replace(ALONE, tokens=("a", "x", "c")), "token 2 is 'x', alone 'b'"),
        (replace(ALONE, text="ab"), "the text is 'ab', alone 'abc'"),
        (Said(("a", "b"), (-1.0, -2.0), (0.5, 0.5), "ab"), "2 tokens, alone 3"),
    ],
)
def test_a_difference_is_seen(said: Said, problem: str) -> None:
    assert compare([said], [ALONE], TOLERANCE).problem == problem
    # in any of several choices, and between choices of the request alone
    assert compare([ALONE, said], [ALONE, ALONE], TOLERANCE).problem == problem
    assert compare([ALONE, ALONE], [ALONE, said], TOLERANCE).problem == problem


def test_a_number_of_choices_is_compared() -> None:
    assert compare([ALONE], [ALONE, ALONE], TOLERANCE).problem == "1 choices, alone 2"
    assert compare([], [], TOLERANCE).problem == "0 choices, alone 0"


def test_a_tie_is_passed_over_and_counted() -> None:
    close = replace(ALONE, leads=(0.5, 1e-6, 0.5))
    other = Said(("a", "x", "y"), (-1.0, -2.0, -9.0), (0.5, 0.5, 0.5), "axy")
    found = compare([other], [close], TOLERANCE)
    assert found.problem is None and found.tied
    # what comes before it must be the same all the same
    assert compare([replace(other, logprobs=(-1.1, -2.0, -9.0))], [close], TOLERANCE).problem is not None


# ---- reading


def token(text: str, logprob: float, second: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "top_logprobs": [{"logprob": second}, {"logprob": logprob}]}


CALL = {"index": 0, "id": "call_17", "function": {"name": "look", "arguments": '{"place"'}}


def test_a_chat_is_the_same_whole_and_in_a_stream() -> None:
    message = {
        "reasoning_content": "so so",
        "content": "well",
        "tool_calls": [{"id": "call_9", "function": {"name": "look", "arguments": '{"place": 1}'}}],
    }
    content = [token("so", -0.5, -1.5), token("well", -0.25, -2.25)]
    choice = {"index": 0, "message": message, "logprobs": {"content": content}, "finish_reason": "stop"}
    whole = of_body(CHAT, 200, json.dumps({"choices": [choice]}).encode())
    deltas: list[dict[str, Any]] = [
        {"index": 0, "delta": {"reasoning_content": "so so"}, "logprobs": {"content": content[:1]}},
        {"index": 0, "delta": {"content": "we"}, "logprobs": {"content": content[1:]}},
        {"index": 0, "delta": {"content": "ll", "tool_calls": [CALL]}, "logprobs": None},
        {"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]}},
        {"index": 0, "delta": {}, "finish_reason": "stop"},
    ]
    lines = [b"data: " + json.dumps({"choices": [delta]}).encode() for delta in deltas]
    streamed = of_stream(CHAT, 200, [*lines, b"data: [DONE]"])
    assert streamed == whole and not whole.cut
    (said,) = whole.choices
    assert said.tokens == ("so", "well") and said.leads == (1.0, 2.0)


def test_generate_is_read() -> None:
    meta = {
        "output_token_logprobs": [[-0.5, 7, None]],
        "output_top_logprobs": [[[-0.5, 7, None], [-0.75, 8, None]]],
        "finish_reason": {"type": "length"},
    }
    event = {"text": "x", "output_ids": [7], "meta_info": meta}
    whole = of_body(GENERATE, 200, json.dumps(event).encode())
    assert whole.choices == [Said(("7",), (-0.5,), (0.25,), "x")] and whole.reasons == ["length"]
    # the last event of a stream has the whole answer
    early = {**event, "text": "", "output_ids": []}
    lines = [b"data: " + json.dumps(one).encode() for one in (early, event)]
    assert of_stream(GENERATE, 200, lines) == whole


@pytest.mark.parametrize(
    "body", [{"message": "why"}, {"error": {"message": "why"}}, {"error": "why"}], ids=["top", "inner", "plain"]
)
def test_errors_are_read(body: dict[str, Any]) -> None:
    assert of_body(CHAT, 400, json.dumps(body).encode()).error == "why"
    if "error" in body:
        streamed = of_stream(CHAT, 200, [b"data: " + json.dumps(body).encode()])
        assert streamed.error == "why" and streamed.cut


# ---- how a request is to end


SERVED, REFUSED = Ask("chat", CHAT, {}), Ask("bad", CHAT, {}, fate="refused")
ENDED = Ask("aborted", CHAT, {}, "aborts", fate="ended")
MEDIA = Ask("media", CHAT, {}, media=True)


@pytest.mark.parametrize(
    ("ask", "answer", "wrong"),
    [
        (SERVED, Answer(200, reasons=["length"]), False),
        (SERVED, Answer(200, reasons=["abort"]), True),
        (SERVED, Answer(200, error="cut"), True),
        (SERVED, Answer(503, error="busy"), True),
        (SERVED, Answer(400, error="too long to fit"), True),
        (MEDIA, Answer(400, error="at most 8000 fit"), False),
        (MEDIA, Answer(400, error="damaged"), True),
        (REFUSED, Answer(400, error="no"), False),
        (REFUSED, Answer(400), True),
        (REFUSED, Answer(200, reasons=["stop"]), True),
        (REFUSED, Answer(500, error="no"), True),
        (ENDED, Answer(200, reasons=["abort"]), False),
        (ENDED, Answer(503, error="time is over"), False),
        (ENDED, Answer(500, error="no"), True),
    ],
)
def test_how_a_request_is_to_end(ask: Ask, answer: Answer, wrong: bool) -> None:
    assert (judge(ask, answer, left=False) is not None) == wrong


def test_other_endpoints_are_read() -> None:
    assert of_body(COMPLETION, 200, b'{"choices": [{"index": 0, "text": "a", "finish_reason": "length"}]}') == Answer(
        200, reasons=["length"]
    )
    assert of_body("/v1/messages/count_tokens", 200, b'{"input_tokens": 3}') == Answer(200)
