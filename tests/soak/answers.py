"""What a server said comes in, as one body or as the lines of a stream; choices that can be compared go out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from support.omni_requests import Said

# a reason of a choice, or a status inside a stream, that says that the answer did not come to its end
CUT = ("abort", "error")


@dataclass
class Answer:
    """choices: of chats and of /generate; empty for other endpoints. error: the message of a refusal or a fault."""

    status: int
    choices: list[Said] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    error: str | None = None

    @property
    def cut(self) -> bool:
        return self.error is not None or any(reason in CUT for reason in self.reasons)


def of_body(path: str, status: int, body: bytes) -> Answer:
    """Raises ValueError for what is no JSON."""
    said = json.loads(body)
    if status >= 400:
        return Answer(status, error=_message(said))
    if path == "/generate":
        return _of_generate(status, [said])
    if "choices" in said and path.startswith("/v1/chat"):
        return _of_chat(status, said["choices"], "message")
    return Answer(status, reasons=[choice.get("finish_reason") or "" for choice in said.get("choices", ())])


def of_stream(path: str, status: int, lines: Sequence[bytes]) -> Answer:
    """Of `data:` lines, without the last one's `[DONE]`. Raises ValueError for what is no JSON."""
    events = [json.loads(line[len(b"data:") :]) for line in lines if line.startswith(b"data: {")]
    wrong = [event for event in events if "error" in event or event.get("object") == "error"]
    if wrong:
        return Answer(status, error=_message(wrong[0]))
    if path == "/generate":
        return _of_generate(status, events[-1:])
    return _of_chat(status, [choice for event in events for choice in event.get("choices", ())], "delta")


def _message(said: Any) -> str:
    if not isinstance(said, dict):
        return str(said)
    inner = said.get("error")
    message = said.get("message") or (inner.get("message") if isinstance(inner, dict) else inner)
    return str(message or said)


def _of_generate(status: int, events: Sequence[dict[str, Any]]) -> Answer:
    answer = Answer(status)
    for event in events:
        meta = event["meta_info"]
        logprobs = meta.get("output_token_logprobs") or []
        tops = meta.get("output_top_logprobs") or []
        leads = tuple(_lead([top[0] for top in two]) for two in tops)
        tokens = tuple(str(token) for token in event["output_ids"])
        answer.choices.append(Said(tokens, tuple(one[0] for one in logprobs), leads, event["text"]))
        answer.reasons.append((meta.get("finish_reason") or {}).get("type", ""))
    return answer


def _of_chat(status: int, pieces: Iterable[dict[str, Any]], where: str) -> Answer:
    """Pieces of all choices, in their order; a whole message is one piece."""
    contents: dict[int, list[Any]] = {}
    texts: dict[int, dict[str, str]] = {}
    reasons: dict[int, str] = {}
    for piece in pieces:
        index = piece["index"]
        contents.setdefault(index, []).extend((piece.get("logprobs") or {}).get("content") or ())
        said, text = piece[where], texts.setdefault(index, {})
        for name in ("reasoning_content", "content"):
            text[name] = text.get(name, "") + (said.get(name) or "")
        for number, call in enumerate(said.get("tool_calls") or ()):
            # an id is made up anew for every answer
            key = f"call {call.get('index') if call.get('index') is not None else number}"
            made = call.get("function") or {}
            text[key] = text.get(key, "") + (made.get("name") or "") + (made.get("arguments") or "")
        if piece.get("finish_reason"):
            reasons[index] = piece["finish_reason"]
    choices = [_said(contents[index], texts[index]) for index in sorted(contents)]
    return Answer(status, choices, [reasons.get(index, "") for index in sorted(contents)])


def _said(content: Sequence[Any], text: dict[str, str]) -> Said:
    return Said(
        tuple(token["token"] for token in content),
        tuple(token["logprob"] for token in content),
        tuple(_lead([top["logprob"] for top in token["top_logprobs"]]) for token in content),
        json.dumps(text, sort_keys=True),
    )


def _lead(logprobs: Iterable[float]) -> float:
    best, second = sorted(logprobs, reverse=True)[:2]
    return best - second
