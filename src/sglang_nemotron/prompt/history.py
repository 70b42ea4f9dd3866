"""A chat's messages as clients send them go in; the messages that a chat template is rendered from come out.

Plain dicts both times. What a template makes of them is the truth, so nothing is put here that it would not see in the
same chat sent cleanly. Nothing here may know tokens, files or SGLang.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sglang_nemotron.prompt.call_arguments import read_arguments

Message = dict[str, Any]

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
# what instructions of one turn are joined by
BLANK_LINE = "\n\n"
# roles of older and other APIs, by the names that the template knows
_ROLES = {"developer": "system", "function": "tool"}
_THOUGHTS = ("thinking", "reasoning")


@dataclass(frozen=True)
class History:
    """Messages to render. continued: the last one is to be gone on with. notes: one line of the log each."""

    messages: list[Message]
    continued: bool = False
    notes: list[str] = field(default_factory=list)


def read_history(messages: Sequence[Message], *, go_on: bool = False, later_instructions: bool = True) -> History:
    """The messages as a template wants them; those that came are left alone.

    go_on: the request asks to continue the last message. later_instructions: the template shows a system message
    wherever it stands; without that, all of them lead. Raises ValueError, naming the message, for what has no meaning.
    """
    notes: list[str] = []
    read = [_message(message, number, notes) for number, message in enumerate(messages)]
    # before the order changes, so that errors count as the client does
    continued = _to_continue(read, go_on)
    read = in_order_of_calls(lead_with_instructions(read, later_instructions))
    return History(read, continued, notes)


def text_of(content: Any) -> str:
    """The text of a message's content: its text parts one after the other."""
    if isinstance(content, list):
        return "".join(part if isinstance(part, str) else part.get("text") or "" for part in content)
    return content or ""


# ---- one message


def _message(message: Message, number: int, notes: list[str]) -> Message:
    """A message of the template's own roles, its thoughts in one place, its calls' arguments objects."""
    read = {name: value for name, value in message.items() if value is not None}
    read["role"] = _ROLES.get(read["role"], read["role"])
    read.setdefault("content", "")
    if read["role"] == "assistant":
        _gather_thoughts(read)
    if read.get("tool_calls"):
        read["tool_calls"] = [_call(call, f"messages[{number}]", notes) for call in read["tool_calls"]]
    return read


def _gather_thoughts(message: Message) -> None:
    """Moves thoughts that are parts of the content to where the template looks for them."""
    content = message["content"]
    if not isinstance(content, list):
        return
    thoughts = [part for part in content if isinstance(part, dict) and part.get("type") in _THOUGHTS]
    if thoughts:
        said = [message.get("reasoning_content") or "", *(_thought(part) for part in thoughts)]
        message["reasoning_content"] = "\n".join(filter(None, said))
        message["content"] = [part for part in content if part not in thoughts]


def _thought(part: Message) -> str:
    return part.get("thinking") or part.get("text") or ""


def _call(call: Message, where: str, notes: list[str]) -> Message:
    function = dict(call.get("function") or {})
    named = f"{where} calls {function.get('name')!r}" + (f" (id {call['id']!r})" if call.get("id") else "")
    function["arguments"], note = read_arguments(function.get("arguments"), named)
    if note:
        notes.append(note)
    return {**call, "function": function}


# ---- the message to go on with


def _to_continue(messages: list[Message], go_on: bool) -> bool:
    """Whether the last message is to be continued; it is then made ready for that, in place."""
    for number, message in enumerate(messages):
        marked = message.pop("prefix", None)
        if marked and (number < len(messages) - 1 or message["role"] != "assistant"):
            raise ValueError(
                f"messages[{number}] has prefix: true; allowed on the last message alone, which an assistant wrote"
            )
        go_on = go_on or bool(marked)
    if not go_on:
        return False
    last, where = messages[-1], f"messages[{len(messages) - 1}]"
    if last["role"] != "assistant":
        raise ValueError(
            f"there is nothing to continue: {where} is of the role {last['role']!r}; end with an assistant's message, "
            "or leave out continue_final_message"
        )
    if last.get("tool_calls"):
        raise ValueError(
            f"there is nothing to continue: {where} ends with tool calls; send their results, or leave out "
            "continue_final_message"
        )
    text = text_of(last["content"])
    if not text.strip():
        raise ValueError(
            f"there is nothing to continue: the content of {where} is empty; put there what the reply begins with"
        )
    if THINK_CLOSE in text and THINK_OPEN not in text and not (last.get("reasoning_content") or "").strip():
        # what a server without a reasoning parser said: the tag that opens the thoughts was in its prompt
        last["content"] = _begun_with(f"{THINK_OPEN}\n", last["content"])
    return True


def _begun_with(text: str, content: Any) -> Any:
    """Content with a text in front: of its first text, or before all other parts."""
    if isinstance(content, str):
        return text + content
    return [{"type": "text", "text": text}, *content]


# ---- instructions


def lead_with_instructions(messages: Sequence[Message], later: bool = True) -> list[Message]:
    """The messages with their leading system messages as one; without `later`, all of them lead."""
    count = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    leading, others = list(messages[:count]), list(messages[count:])
    if not later:
        leading += [message for message in others if message["role"] == "system"]
        others = [message for message in others if message["role"] != "system"]
    return [*([_joined(leading)] if len(leading) > 1 else leading), *others]


def _joined(messages: list[Message]) -> Message:
    joined: Message = {}
    for message in messages:
        joined |= message
    if tools := [tool for message in messages for tool in message.get("tools") or ()]:
        joined["tools"] = tools
    return joined | {"content": join_contents([message["content"] for message in messages])}


def join_contents(contents: Sequence[Any]) -> Any:
    """Contents as one, a blank line between them: a text, or parts where a part is something else than text."""
    filled = [content for content in contents if content]
    texts = [only_text(content) for content in filled]
    if None not in texts:
        return BLANK_LINE.join(text for text in texts if text)
    parts: list[Any] = []
    for content in filled:
        if parts:
            parts.append({"type": "text", "text": BLANK_LINE})
        parts += content if isinstance(content, list) else [{"type": "text", "text": content}]
    return parts


def only_text(content: Any) -> str | None:
    """The text of content that holds nothing else, or None."""
    if isinstance(content, list) and not all(isinstance(part, str) or part.get("type") == "text" for part in content):
        return None
    return text_of(content)


# ---- results of calls


def in_order_of_calls(messages: Sequence[Message]) -> list[Message]:
    """The messages with the results that stand together in the order of the calls before them.

    A template shows results without ids, so their order alone tells which call they answer. A result that answers none
    of those calls stays where it is. Some endpoints send one message per call, so calls are those of all messages of
    the assistant right before.
    """
    ordered = list(messages)
    calls: list[Any] = []
    begin = 0
    end: Message = {"role": ""}
    for number, message in enumerate([*messages, end]):
        if message["role"] == "tool":
            continue
        ordered[begin:number] = _sorted_results(ordered[begin:number], calls)
        begin = number + 1
        follows = number > 0 and messages[number - 1]["role"] == "assistant"
        calls = [*(calls if follows else ()), *(call.get("id") for call in message.get("tool_calls") or ())]
    return ordered


def _sorted_results(results: list[Message], calls: list[Any]) -> list[Message]:
    # a call without an id is nobody's
    known = {call: place for place, call in reversed(list(enumerate(calls))) if call}
    places = [at for at, result in enumerate(results) if result.get("tool_call_id") in known]
    # sorting keeps two results of one call as they came
    answers = sorted((results[at] for at in places), key=lambda result: known[result["tool_call_id"]])
    ordered = list(results)
    for at, answer in zip(places, answers, strict=True):
        ordered[at] = answer
    return ordered
