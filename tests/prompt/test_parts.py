"""Lists of parts: a template that takes them gets them, another gets their text, and nothing vanishes."""

from __future__ import annotations

from typing import Any

import pytest
from template_rig import SLOTS, Rig

from sglang_nemotron.prompt.parts import shows_media_in_results, with_slots, without_lists

U = {"role": "user", "content": "hi"}
PARTS = [{"type": "text", "text": "line 1"}, {"type": "text", "text": "line 2"}]
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {}}}
CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL]}
IMAGE, VIDEO, SOUND = ({"type": kind} for kind in ("image", "video", "audio"))
ALL = frozenset({"system", "user", "assistant", "tool"})


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def result(content: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "c", "content": content}


@pytest.mark.parametrize(
    ("template", "lists"),
    [
        ("text", ALL),
        ("media-first", ALL),
        ("in-order", ALL),
        ("lines", ALL),
        ("ends", ALL),
        ("no lists", frozenset()),
        ("as JSON", frozenset()),
        ("mixed", ALL - {"tool"}),
    ],
)
def test_a_template_is_asked_in_which_roles_it_takes_lists(
    rigs: dict[str, Rig], template: str, lists: frozenset[str]
) -> None:
    assert rigs[template].lists == lists


@pytest.mark.parametrize("role", sorted(ALL))
@pytest.mark.parametrize("template", ["text", "media-first", "in-order", "lines", "ends"])
def test_a_list_is_what_the_template_makes_of_it(rigs: dict[str, Rig], template: str, role: str) -> None:
    messages = [U, CALLED, {"role": role, "content": PARTS, "tool_call_id": "c"}, U]
    rig = rigs[template]
    assert rig.ours(messages) == rig.golden(messages)
    joint = "line 1\nline 2" if template in ("lines", "ends") else "line 1line 2"
    assert joint in rig.ours(messages)


@pytest.mark.parametrize("role", sorted(ALL))
def test_a_template_without_lists_gets_their_text(rigs: dict[str, Rig], role: str) -> None:
    messages = [U, {"role": role, "content": PARTS, "tool_call_id": "c"}]
    flat = [U, {"role": role, "content": "line 1line 2", "tool_call_id": "c"}]
    assert rigs["no lists"].ours(messages) == rigs["no lists"].golden(flat)


@pytest.mark.parametrize("media", [True, False])
@pytest.mark.parametrize("role", sorted(ALL))
def test_no_part_vanishes_where_a_template_takes_no_lists(role: str, media: bool) -> None:
    for part in (IMAGE, {"type": "tool_reference", "name": "f"}):
        messages = [{"role": role, "content": [text("a"), part]}]
        if role == "tool" and media:
            assert without_lists(messages, frozenset(), media=media) == messages
        else:
            with pytest.raises(ValueError, match=f"role '{role}' has a part of type {part['type']}"):
                without_lists(messages, frozenset(), media=media)


@pytest.mark.parametrize(
    ("parts", "shown"),
    [
        ([IMAGE], "<image>"),
        ([text("ok"), IMAGE], "ok\n<image>"),
        ([IMAGE, text("ok")], "<image>\nok"),
        ([text("ok\n"), IMAGE, text("\nand"), text(" on")], "ok\n<image>\n\nand on"),
        ([IMAGE, IMAGE, VIDEO, text(""), SOUND, text("all")], "<image>\n<image>\n<video>\n<so_embedding>\nall"),
    ],
)
def test_media_of_a_result_lie_in_its_turn_in_order(parts: list[Any], shown: str) -> None:
    messages = [U, CALLED, result(parts), result("r"), {"role": "user", "content": [IMAGE]}]
    placed = with_slots(messages, SLOTS)
    assert placed[2] == result(shown)
    # users' media are the template's to place, and text is as it was
    assert [placed[n] for n in (0, 1, 3, 4)] == [messages[n] for n in (0, 1, 3, 4)]


def test_a_result_of_an_unknown_part_is_refused() -> None:
    with pytest.raises(ValueError, match="part of type 'tool_reference'"):
        with_slots([result([IMAGE, {"type": "tool_reference", "name": "f"}])], SLOTS)


def test_a_template_that_places_media_in_results_is_left_to_it(rigs: dict[str, Rig]) -> None:
    for template in ("media-first", "in-order", "mixed", "text"):
        assert not shows_media_in_results(rigs[template].render, "<image>")

    def placing(messages: list[dict[str, Any]]) -> str:
        return "".join("<image>" for part in messages[-1]["content"] if part["type"] == "image")

    assert shows_media_in_results(placing, "<image>")


def test_media_of_a_result_through_the_template(rigs: dict[str, Rig]) -> None:
    for template in ("media-first", "in-order"):
        prompt = rigs[template].ours([U, CALLED, result([text("ok"), IMAGE])])
        assert "<tool_response>\nok\n<image>\n</tool_response>\n" in prompt
