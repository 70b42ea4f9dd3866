"""What a chat template makes of content that is a list of parts: asked of the template itself, and respected.

Messages of `prompt.history` come in, and a function that renders them; messages that lose nothing in the template go
out. Nothing here may know tokens, files or SGLang.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sglang_nemotron.prompt.history import Message, only_text, text_of

# messages -> prompt; ValueError where the template refuses
Render = Callable[[list[Message]], str]

# a text that no template writes by itself
_PROBE = "nemotron-probe"
_ASKED: Message = {"role": "user", "content": "q"}
_CALLED: Message = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": {}}}],
}
_BEFORE: dict[str, list[Message]] = {
    "system": [],
    "user": [],
    "assistant": [_ASKED],
    "tool": [_ASKED, _CALLED],
}


def roles_with_lists(render: Render) -> frozenset[str]:
    """The roles in which a template shows the text of a list.

    A template that takes no lists shows the list as Python or JSON writes it, nothing at all, or refuses.
    """
    return frozenset(role for role in _BEFORE if _shows_lists(render, role))


def _shows_lists(render: Render, role: str) -> bool:
    after = [_ASKED] if role == "system" else []
    try:
        text, parts = (
            render([*_BEFORE[role], {"role": role, "content": content, "tool_call_id": "c"}, *after])
            for content in (_PROBE, [{"type": "text", "text": _PROBE}])
        )
    except ValueError:
        return False
    # a list as it is written names its parts' fields
    return _PROBE in parts and all(parts.count(name) == text.count(name) for name in ("'text'", '"text"'))


def without_lists(messages: Sequence[Message], lists: frozenset[str], *, media: bool = False) -> list[Message]:
    """The messages with the text parts of each list in one, in the roles in which the template takes no lists.

    media: results of tools that are more than text stay, for `with_slots`. Raises ValueError for a part that would
    vanish.
    """
    flat = []
    for message in messages:
        content, role = message["content"], message["role"]
        if isinstance(content, list) and role not in lists:
            text = only_text(content)
            if text is None and media and role == "tool":
                text = content
            elif text is None:
                kinds = sorted({str(part["type"]) for part in content if part.get("type") != "text"})
                raise ValueError(
                    f"a message of the role {role!r} has a part of type {', '.join(kinds)}, for which the server's "
                    "chat template has no place"
                )
            message = {**message, "content": text}
        flat.append(message)
    return flat


# ---- media in results of calls


def shows_media_in_results(render: Render, slot: str) -> bool:
    """Whether a template writes an image's slot where a tool's result has one."""
    messages = [*_BEFORE["tool"], {"role": "tool", "content": [{"type": "image"}], "tool_call_id": "c"}]
    try:
        return slot in render(messages)
    except ValueError:
        return False


def with_slots(messages: Sequence[Message], slots: dict[str, str]) -> list[Message]:
    """The messages with each medium in a tool's result as the slot that stands for it, on a line of its own.

    slots: image, video, audio -> tag. For a template that takes media from users alone; the order of the parts is kept.
    """
    placed = []
    for message in messages:
        content = message["content"]
        if message["role"] == "tool" and isinstance(content, list) and only_text(content) is None:
            message = {**message, "content": _lined(content, slots)}
        placed.append(message)
    return placed


def _lined(parts: list[Any], slots: dict[str, str]) -> str:
    shown = ""
    after_slot = False
    for part in parts:
        slot = None if isinstance(part, str) else slots.get(part.get("type", ""))
        if slot is None and not isinstance(part, str) and part.get("type") != "text":
            raise ValueError(f"a tool's result has a part of type {part.get('type')!r}, for which there is no place")
        text = slot or text_of([part])
        if shown and text and (slot or after_slot) and not shown.endswith("\n"):
            shown += "\n"
        shown += text
        after_slot = bool(slot) or (after_slot and not text)
    return shown
