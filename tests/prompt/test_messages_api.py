"""Bodies of /v1/messages: what is mended, what begins a reply, and what is refused before it could vanish."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from sglang_nemotron.prompt.messages_api import begins_reply, read_body

IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aaaa"}}
USE = {"type": "tool_use", "id": "c", "name": "f", "input": {"a": None}}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def body(*content: Any, role: str = "user", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(content)}], **more}


def read_blocks(*content: Any, role: str = "user") -> list[Any]:
    return read_body(body(*content, role=role))[0]["messages"][0]["content"]


def result(content: Any = None, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "c", "content": content, **more}


def test_what_is_right_stays() -> None:
    sent = {
        "system": "s",
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "t"}, text("a"), USE]},
            {"role": "user", "content": [result("r"), result([text("r"), IMAGE]), result(None), IMAGE, text("q")]},
        ],
    }
    before = copy.deepcopy(sent)
    assert read_body(sent) == (before, [])
    assert sent == before


def test_instructions_are_joined_by_a_blank_line() -> None:
    read, _ = read_body(body(text("q"), system=[text("One."), text(""), text("Two.")]))
    assert read["system"] == "One.\n\nTwo."
    with pytest.raises(ValueError, match=r"system\[1\] is of type 'image'"):
        read_body(body(text("q"), system=[text("One."), IMAGE]))


def test_encrypted_thoughts_are_left_out_with_a_word() -> None:
    hidden = {"type": "redacted_thinking", "data": "x"}
    read, notes = read_body(body(hidden, text("a"), hidden, role="assistant"))
    assert read["messages"][0]["content"] == [text("a")]
    assert len(notes) == 1 and notes[0].startswith("2 blocks of redacted_thinking")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("no such file", "Error: no such file"),
        ("", "Error"),
        (None, "Error"),
        ([text("no such file"), text("!")], [text("Error: no such file"), text("!")]),
        ([IMAGE], [text("Error:"), IMAGE]),
        ([], [text("Error")]),
        # it says so already
        ("Error: no such file", "Error: no such file"),
        ("ERROR 404", "ERROR 404"),
        ("<tool_use_error>no</tool_use_error>", "<tool_use_error>no</tool_use_error>"),
        ([text("\nerror")], [text("\nerror")]),
        ("errors: 0", "Error: errors: 0"),
    ],
)
def test_an_error_tells_that_it_is_one(content: Any, told: Any) -> None:
    assert read_blocks(result(content, is_error=True))[0]["content"] == told
    for flag in ({"is_error": False}, {"is_error": None}, {}):
        assert read_blocks(result(content, **flag)) == [result(content, **flag)]


@pytest.mark.parametrize(
    ("role", "block", "said"),
    [
        ("user", USE, "'tool_use', which a message of the role 'user'"),
        ("user", {"type": "thinking", "thinking": "t"}, "'thinking'"),
        ("user", {"type": "tool_reference", "name": "f"}, "'tool_reference'"),
        ("system", IMAGE, "'image'"),
        ("system", result("r"), "'tool_result'"),
        ("user", {"type": "image"}, "image without a picture"),
        ("user", {"type": "image", "source": "x"}, "image without a picture"),
        ("user", {"type": "image", "source": {"type": "base64", "data": ""}}, "image without a picture"),
        ("user", {"type": "image", "source": {"type": "url"}}, "image without a picture"),
        ("user", result([{"type": "image"}]), "image without a picture"),
        ("user", result([USE]), "tool_result with a part of type 'tool_use'"),
        ("assistant", result([IMAGE]), "image in a tool_result of the role 'assistant'"),
        (
            "user",
            {"type": "search_result", "content": [{"type": "image"}]},
            "search_result with a part of type 'image'",
        ),
    ],
)
def test_what_would_vanish_is_refused(role: str, block: Any, said: str) -> None:
    with pytest.raises(ValueError, match=rf"messages\[0\].*{said}"):
        read_blocks(block, role=role)


def test_a_last_answer_begins_the_reply() -> None:
    for last in ([text("So")], "So"):
        sent = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": last}]}
        assert begins_reply(sent)
        assert begins_reply({**sent, "thinking": {"type": "disabled"}})
        for kind in ("enabled", "adaptive"):
            with pytest.raises(ValueError, match=r"messages\[1\] begins the reply, which leaves no room to think"):
                begins_reply({**sent, "thinking": {"type": kind}})
    assert not begins_reply(body(text("q"), thinking={"type": "enabled"}))
    assert not begins_reply({"messages": []})
    with pytest.raises(ValueError, match=r"messages\[0\] ends with tool_use"):
        begins_reply(body(text("So"), USE, role="assistant"))
