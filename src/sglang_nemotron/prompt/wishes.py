"""Fields of a body that SGLang's types drop before anything is rendered: a JSON body goes in, and is changed in place
to say the same in fields that are read.

The body comes from a client and is checked by nobody yet: what is of a strange type is left for SGLang to refuse.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sglang_nemotron.prompt.call_arguments import read_arguments

Body = dict[str, Any]

CHATS = ("/v1/chat/completions", "/invocations", "/v1/tokenize", "/tokenize")
RESPONSES = ("/v1/responses",)
MESSAGES = ("/v1/messages", "/v1/messages/count_tokens")
PATHS = (*CHATS, *RESPONSES, *MESSAGES)

_SWITCH = "enable_thinking"
_ON = ("1", "true", "yes", "y", "on")
_OFF = ("0", "false", "no", "n", "off")
_SWITCHED = {"enabled": True, "disabled": False}


def read_wishes(path: str, body: Body) -> list[str]:
    """Changes a body of one of the `PATHS`, and says what is to be logged of it.

    Raises ValueError for wishes that differ, or that cannot be met.
    """
    thinks = thinking_asked(body)
    if path.endswith(MESSAGES):
        if thinks is not None and body.get("thinking") is None:
            # that API's word for thinking on without a budget
            body["thinking"] = {"type": "adaptive" if thinks else "disabled"}
        return _read_inputs(body.get("messages"))
    if thinks is not None:
        options = body.get("chat_template_kwargs")
        body["chat_template_kwargs"] = {**(options if isinstance(options, dict) else {}), _SWITCH: thinks}
    _read_messages(body.get("input" if path.endswith(RESPONSES) else "messages"))
    return []


# ---- thinking


def thinking_asked(body: Body) -> bool | None:
    """Whether a body switches thinking on or off, or None; ValueError, naming the fields, where it says both."""
    said = dict(_switches(body))
    if len(set(said.values())) > 1:
        listed = ", ".join(f"{name} {'on' if value else 'off'}" for name, value in said.items())
        raise ValueError(f"whether to think is said in two ways: {listed}; say it once")
    return next(iter(said.values()), None)


def _switches(body: Body) -> Iterator[tuple[str, bool]]:
    if body.get(_SWITCH) is not None:
        yield _SWITCH, _truth(_SWITCH, body[_SWITCH])
    reasoning = body.get("reasoning")
    if isinstance(reasoning, dict):
        name = "enabled" if reasoning.get("enabled") is not None else "enable"
        if reasoning.get(name) is not None:
            yield f"reasoning.{name}", _truth(f"reasoning.{name}", reasoning[name])
    elif isinstance(reasoning, bool):
        yield "reasoning", reasoning
    thinking = body.get("thinking")
    if isinstance(thinking, bool):
        yield "thinking", thinking
    elif isinstance(thinking, dict) and isinstance(kind := thinking.get("type"), str) and kind in _SWITCHED:
        yield "thinking.type", _SWITCHED[kind]
    options = body.get("chat_template_kwargs")
    if isinstance(options, dict) and options.get(_SWITCH) is not None:
        yield f"chat_template_kwargs.{_SWITCH}", bool(options[_SWITCH])


def _truth(name: str, value: Any) -> bool:
    word = str(value).strip().lower()
    if isinstance(value, bool | int | str) and word in (*_ON, *_OFF):
        return word in _ON
    raise ValueError(f"{name} is {value!r}; allowed: true, false")


# ---- messages


def _read_messages(messages: Any) -> None:
    for number, message in enumerate(messages if isinstance(messages, list) else ()):
        if not isinstance(message, dict):
            continue
        role = message.get("role")
        if isinstance(role, str) and role.lower() == "assistant":
            _read_assistant(message, f"messages[{number}]")
        elif message.get("prefix"):
            raise ValueError(
                f"messages[{number}] has prefix: true, but an assistant's message alone can be gone on with"
            )


def _read_assistant(message: Body, where: str) -> None:
    """Thoughts by their other name, a refusal, and a call of the API before tools, in the fields that are read."""
    if isinstance(thoughts := message.get("reasoning"), str) and not message.get("reasoning_content"):
        message["reasoning_content"] = thoughts
    content = message.get("content")
    if isinstance(refusal := message.get("refusal"), str) and not content:
        message["content"] = refusal
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and part.get("type") == "refusal" and isinstance(part.get("refusal"), str):
            part |= {"type": "text", "text": part["refusal"]}
    if isinstance(call := message.get("function_call"), dict) and not message.get("tool_calls"):
        message["tool_calls"] = [{"type": "function", "function": dict(call)}]
    if message.get("audio") is not None:
        raise ValueError(
            f"{where} has audio, an answer's sound that this server never made; send what was said as text"
        )


def _read_inputs(messages: Any) -> list[str]:
    """Makes objects of the inputs of calls that are text, as other endpoints have them."""
    notes: list[str] = []
    for number, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for block in content if isinstance(content, list) else ():
            if not isinstance(block, dict) or block.get("type") != "tool_use":
                continue
            if not isinstance(block.get("input", {}), dict):
                where = f"messages[{number}] calls {block.get('name')!r}"
                block["input"], note = read_arguments(block["input"], where)
                notes += [note] if note else []
    return notes
