"""The built-in conversations: a server that counts tokens comes in, chats of the lengths that matter come out.

They say nothing of interest. What matters is where they begin alike, where they part, and how long they are.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sglang_nemotron.verify.endpoint import Chat
from sglang_nemotron.verify.server import Unfit

Message = Mapping[str, Any]
# chat -> tokens of its prompt
Length = Callable[[Chat], int]

# states are kept at multiples of 16 to 256 tokens: two tokens past one, next to nothing is computed after a hit
_BOUNDARY = 256
_PAST = 2
_PLACES = ("harbour", "bridge", "market", "station", "library", "mill", "castle", "garden")
_ACTS = ("opens", "closes", "is painted", "is empty", "is repaired", "changes hands")

_TOOL = {
    "type": "function",
    "function": {
        "name": "timetable",
        "description": "Departures of a line on a day.",
        "parameters": {
            "type": "object",
            "properties": {"line": {"type": "integer"}, "day": {"enum": ["Friday", "Saturday", "Sunday"]}},
            "required": ["line", "day"],
        },
    },
}


@dataclass(frozen=True)
class Conversation:
    """chat: what is compared. turns: what a client would have sent before it, in order. media: not text alone."""

    name: str
    chat: Chat
    turns: tuple[Chat, ...] = ()
    media: bool = False


def built_in(length: Length, *, longest: int) -> list[Conversation]:
    """All without media. longest: tokens of the longest prompt, at most. Raises Unfit if the context is too short."""
    found = [_short(), _boundary(length), _many_shot(), _branching(), _tools(), _agent(), _thoughts()]
    for one in found:
        if (tokens := length(one.chat)) > longest:
            raise Unfit(
                f"the server has room for prompts of {longest} tokens, the conversation '{one.name}' has {tokens}"
                "\n  remedy: start it with a larger --context-length (SGLang) or --max-model-len (vLLM)"
            )
    return [*found, _long(length, longest)]


def asked_to_continue(length: int) -> int:
    """How many tokens of an answer to a prompt of so many take it just past a multiple of 256: servers keep states of
    long answers there.
    """
    return -length % _BOUNDARY + 4 * _PAST


def continued(ids: Sequence[int], answer: Sequence[int]) -> Conversation:
    """A prompt, its answer and a few tokens more: what is reused was kept while the answer was made."""
    whole = Chat(ids=(*ids, *answer, *ids[:_PAST]))
    return Conversation("own answer", whole, (Chat(ids=tuple(ids), new_tokens=len(answer)),))


def with_media(parts: Mapping[str, Message]) -> list[Conversation]:
    """One conversation for each medium, and one with all. parts: name -> OpenAI message part."""
    asked = [(name, [part]) for name, part in parts.items()] + [("all media", list(parts.values()))]
    return [_about(name, shown) for name, shown in asked]


def strangers(count: int, seed: int) -> list[Chat]:
    """Other chats of mixed lengths, which begin like none of the conversations and like none of each other; a salt of
    its own keeps each from sharing what a template puts before every chat.
    """
    return [
        Chat((_user(f"{seed}/{i}: " + _facts(1 + 7 * i % 23, seed + i)),), salt=uuid.uuid4().hex) for i in range(count)
    ]


def shortened(chat: Chat, share: float) -> Chat:
    """The chat with only a share of its last text: begins alike, ends elsewhere."""
    *before, last = chat.messages
    text = last["content"]
    assert isinstance(text, str)
    return Chat((*before, {**last, "content": text[: max(1, int(len(text) * share))]}), chat.tools)


def _system(text: str) -> Message:
    return {"role": "system", "content": text}


def _user(content: Any) -> Message:
    return {"role": "user", "content": content}


def _said(text: str, thought: str | None = None) -> Message:
    # SGLang's name and vLLM's
    thoughts = {} if thought is None else {"reasoning_content": thought, "reasoning": thought}
    return {"role": "assistant", "content": text, **thoughts}


def _facts(count: int, seed: int) -> str:
    return " ".join(
        f"On day {seed + 3 * i} the {_PLACES[(seed + i * i) % 8]} {_ACTS[(seed + i) % 6]} at {7 + i % 12}:{10 + i % 9}."
        for i in range(count)
    )


def _short() -> Conversation:
    return Conversation("short", Chat((_user("Where does the Rhine end?"),)))


def _many_shot() -> Conversation:
    shots: list[Message] = [_system("You say in one word what a sentence is about.")]
    for i in range(16):
        shots += [_user(_facts(1, 40 + i)), _said(_PLACES[(40 + i) % 8])]
    return Conversation("many-shot", Chat((*shots, _user(_facts(1, 90)))))


def _boundary(length: Length) -> Conversation:
    """A prompt that ends just past a multiple of what states are kept at, found by adding digits."""
    text = _facts(9, 200) + " Count on: "
    for _ in range(40):
        chat = Chat((_user(text),))
        if missing := (_PAST - length(chat)) % _BOUNDARY:
            # a digit is one token or less; near the end one at a time
            text += "".join(str(i * 7 % 10) for i in range(max(1, missing * 3 // 4)))
        else:
            break
    return Conversation("boundary", chat)


def _long(length: Length, longest: int) -> Conversation:
    """As close below `longest` as whole sentences come."""
    question = "\nWhich of these happens last?"

    def chat(sentences: int) -> Chat:
        return Chat((_system("You know the town's diary."), _user(_facts(sentences, 7) + question)))

    few, many = length(chat(10)), length(chat(30))
    sentences = 10 + max(0, int((longest - few) / ((many - few) / 20)))
    while length(chat(sentences)) > longest and sentences > 1:
        sentences = int(sentences * 0.98)
    return Conversation("long", chat(sentences))


def _branching() -> Conversation:
    """One document, three questions: they part where the document ends."""
    trunk = (_system("Answer from the diary.\n" + _facts(20, 300)), _user("What is the diary about?"), _said("A town."))
    asked = [Chat((*trunk, _user(f"When is the {place} mentioned?"))) for place in _PLACES[:3]]
    return Conversation("branching", asked[2], tuple(asked[:2]))


def _tools() -> Conversation:
    chat = Chat((_system("You plan journeys."), _user("When does line 7 leave on Sunday?")), (_TOOL,))
    return Conversation("tools", chat)


def _agent() -> Conversation:
    """A loop of calls, whose thoughts stay in the prompt until the next question, which strips them."""
    messages: list[Message] = [_system("You plan journeys."), _user("Which line leaves first on Sunday, 3, 5 or 7?")]
    turns = [Chat(tuple(messages), (_TOOL,))]
    for line in (3, 5, 7):
        call = {"name": "timetable", "arguments": json.dumps({"line": line, "day": "Sunday"})}
        called = {"tool_calls": [{"id": f"call_{line}", "type": "function", "function": call}]}
        messages.append({**_said("", f"I do not know line {line} yet, so I look it up. {_facts(2, line)}"), **called})
        messages.append({"role": "tool", "tool_call_id": f"call_{line}", "content": _facts(4, 10 * line)})
        turns.append(Chat(tuple(messages), (_TOOL,)))
    messages += [_said("Line 5, at 7:12.", "All three are known now: 5 is first."), _user("And on Friday?")]
    return Conversation("agent, tools", Chat(tuple(messages), (_TOOL,)), tuple(turns))


def _thoughts() -> Conversation:
    """Questions whose answers were thought about; a template strips the thoughts from what went before."""
    messages: list[Message] = [_system("You are a guide.\n" + _facts(6, 500))]
    turns = []
    for i in range(3):
        messages.append(_user(f"What should I see on day {i + 1}? " + _facts(2, 60 + i)))
        turns.append(Chat(tuple(messages)))
        messages.append(_said(f"The {_PLACES[i]}, in the morning.", "The diary has a hint. " + _facts(3, 70 + i)))
    messages.append(_user("And where do I eat?"))
    return Conversation("agent, thoughts", Chat(tuple(messages)), tuple(turns))


def _about(name: str, shown: Sequence[Message]) -> Conversation:
    """Media, a question, an answer, and another question: the second turn begins with the media again."""
    # the text before the media is long enough for a state to be kept between it and them
    system = _system("You are shown something. " + _facts(6, 900))
    first = Chat((system, _user([*shown, {"type": "text", "text": "What is this? " + _facts(1, 5)}])))
    other = Chat((system, _user([*shown, {"type": "text", "text": "Who made this? " + _facts(1, 6)}])))
    second = Chat((*first.messages, _said("A scene of a town."), _user("What happens next?")))
    return Conversation(name, second, (first, other), media=True)
