"""What a body of /v1/messages says that would not reach the model as it is: the body goes in, and comes out mended.

Plain dicts, checked against the API's types before. Nothing here may know templates, tokens or SGLang.
"""

from __future__ import annotations

import re
from typing import Any

from sglang_nemotron.prompt.history import BLANK_LINE

Body = dict[str, Any]

# what a message has no place for; SGLang leaves it out without a word
_MISPLACED = {
    "user": ("tool_use", "thinking", "tool_reference"),
    "assistant": ("tool_reference",),
    "system": ("tool_use", "tool_result", "thinking", "tool_reference", "image"),
}
# a text that says by itself that it tells of an error
_SAYS_ERROR = re.compile(r"\s*(<tool_use_error>|error\b)", re.IGNORECASE)


def read_body(body: Body) -> tuple[Body, list[str]]:
    """The body as it is to be rendered, and a line of the log for each thing that is left out.

    Instructions are one text; thoughts that another provider encrypted are gone; a result that is an error says so.
    Raises ValueError, naming the message, for a block that would vanish.
    """
    read: Body = {**body, "messages": list(body["messages"])}
    if isinstance(body.get("system"), list):
        read["system"] = _instructions(body["system"])
    notes: list[str] = []
    dropped = 0
    for number, message in enumerate(read["messages"]):
        if isinstance(message["content"], list):
            blocks = [block for block in message["content"] if block["type"] != "redacted_thinking"]
            dropped += len(message["content"]) - len(blocks)
            blocks = [_block(block, message["role"], f"messages[{number}]") for block in blocks]
            read["messages"][number] = {**message, "content": blocks}
    if dropped:
        notes.append(f"{dropped} blocks of redacted_thinking are left out: only who encrypted them can read them")
    return read, notes


def begins_reply(body: Body) -> bool:
    """Whether the last message is the beginning of the reply, to be gone on with.

    Raises ValueError where it cannot be that.
    """
    last: Body = body["messages"][-1] if body["messages"] else {"role": "user"}
    if last["role"] != "assistant":
        return False
    where = f"messages[{len(body['messages']) - 1}]"
    if (body.get("thinking") or {}).get("type", "disabled") != "disabled":
        raise ValueError(
            f"{where} begins the reply, which leaves no room to think; end with a user's message, or send "
            'thinking: {"type": "disabled"}'
        )
    if isinstance(last["content"], list) and any(block["type"] == "tool_use" for block in last["content"]):
        raise ValueError(f"{where} ends with tool_use; the next message has to bring a tool_result for each")
    return True


def _instructions(blocks: list[Body]) -> str:
    for number, block in enumerate(blocks):
        if block["type"] != "text":
            raise ValueError(f"system[{number}] is of type {block['type']!r}; allowed: text")
    return BLANK_LINE.join(block["text"] for block in blocks if block["text"])


def _block(block: Body, role: str, where: str) -> Body:
    kind = block["type"]
    if kind in _MISPLACED.get(role, ()):
        raise ValueError(f"{where} has a block of type {kind!r}, which a message of the role {role!r} cannot have")
    _check_whole(block, where)
    if kind != "tool_result":
        return block
    inside = block.get("content")
    if isinstance(inside, list):
        for part in inside:
            _check_in_result(part, role, where)
    return {**block, "content": _told_as_error(inside)} if block.get("is_error") else block


def _check_whole(block: Body, where: str) -> None:
    """ValueError for a picture that is none, and for what a result of a search cannot hold."""
    if block["type"] == "search_result":
        for part in block.get("content") or ():
            if part.get("type") != "text":
                raise ValueError(f"{where} has a search_result with a part of type {part.get('type')!r}; allowed: text")
    if block["type"] != "image":
        return
    source = block.get("source")
    sent = isinstance(source, dict) and (source.get("data") if source.get("type") == "base64" else source.get("url"))
    if not sent:
        raise ValueError(
            f'{where} has an image without a picture; allowed: a source {{"type": "base64", "media_type": ..., "data": '
            '...} or {"type": "url", "url": ...}'
        )


def _check_in_result(part: Body, role: str, where: str) -> None:
    if part["type"] not in ("text", "image", "tool_reference", "search_result"):
        raise ValueError(f"{where} has a tool_result with a part of type {part['type']!r}; allowed: text and image")
    if part["type"] == "image" and role != "user":
        raise ValueError(f"{where} has an image in a tool_result of the role {role!r}; a user's message may have it")
    _check_whole(part, where)


def _told_as_error(content: Any) -> Any:
    """A result's content that says that it is an error, where it does not do so already."""
    if not isinstance(content, list):
        return content if content and _SAYS_ERROR.match(content) else f"Error: {content}" if content else "Error"
    first = content[0] if content and content[0]["type"] == "text" else None
    if first is None:
        return [{"type": "text", "text": "Error:" if content else "Error"}, *content]
    if _SAYS_ERROR.match(first["text"]):
        return content
    return [{**first, "text": f"Error: {first['text']}"}, *content[1:]]
