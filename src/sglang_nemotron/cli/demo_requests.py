"""The requests of the demo: an OpenAI client of a running server comes in, one checked record per request goes out.

Knows the server only through its public API; what a request must show is checked where it is sent.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.chat import ChatCompletion

# requests at once that share a prefix
NUM_CONCURRENT = 8

# room for JSON with the white space that a model of random weights likes to put between its parts
_JSON_TOKENS = 768

_QUESTION = "What is a mixture of experts? Answer in one sentence."

# every value is bounded, so that whatever the model prefers, the JSON closes
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Lima", "Oslo", "Paris"]},
        "sunny": {"type": "boolean"},
        "celsius": {"type": "integer", "minimum": -20, "maximum": 40},
    },
    "required": ["city", "sunny", "celsius"],
    "additionalProperties": False,
}

_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "calculate_tip",
        "description": "The tip on a bill.",
        "parameters": {
            "type": "object",
            "properties": {
                "bill_total": {"type": "integer", "minimum": 0, "maximum": 999},
                "tip_percentage": {"type": "integer", "minimum": 0, "maximum": 30},
            },
            "required": ["bill_total", "tip_percentage"],
            "additionalProperties": False,
        },
    },
}

_SHARED_PREFIX = (
    "You answer questions about one document. It says: a Nemotron 3 Nano layer is either a Mamba-2 mixer, a mixture "
    "of experts, or an attention layer without positions. A Mamba-2 layer keeps a state of fixed size for a request; "
    "an attention layer keeps keys and values for every token. Requests that begin with the same tokens can share "
    "both, if the state was kept at the point where they part. Nothing else is in the document. "
)


class DemoFailed(RuntimeError):
    """A reply was not what the demo promises to show."""


@dataclass(frozen=True)
class Row:
    """One request as the demo's table shows it; token counts and the finish reason are the server's own."""

    request: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    seconds: float
    finish: str
    said: str


def all_requests(client: OpenAI, model: str) -> Iterator[Row]:
    """Every request of the demo, in order; each is yielded when its reply is complete and as promised.

    Raises DemoFailed for a reply that is not, openai.OpenAIError for none.
    """
    talk = Talk(client, model)
    yield talk.chat()
    yield talk.streamed()
    yield talk.thinking(True)
    yield talk.thinking(False)
    yield talk.tool_offered()
    yield talk.tool_called()
    yield talk.json_schema()
    yield talk.two_answers()
    yield from talk.shared_prefix()


class Talk:
    """Requests to one model, each of which returns its checked row."""

    def __init__(self, client: OpenAI, model: str) -> None:
        self._client = client
        self._model = model

    def chat(self) -> Row:
        row, reply = self.ask("chat", _QUESTION, max_tokens=32, **thinking(False))
        require(row, bool(_text(reply)), "the answer is empty")
        return row

    def streamed(self) -> Row:
        """The same question in pieces; the pieces must be many, and their usage must come with the last one."""
        began = time.monotonic()
        stream = self._client.chat.completions.create(
            model=self._model,
            messages=[{"role": "user", "content": _QUESTION}],
            temperature=0,
            max_tokens=32,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=thinking(False)["extra_body"],
        )
        pieces: list[str] = []
        finish, usage, first_s = "", None, 0.0
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                finish = choice.finish_reason or finish
                if choice.delta.content:
                    first_s = first_s or time.monotonic() - began
                    pieces.append(choice.delta.content)
        if usage is None:
            raise DemoFailed("chat, streamed: the stream ended without usage")
        said = f"{len(pieces)} pieces, the first after {first_s:.2f} s: {_short(''.join(pieces), 28)}"
        row = _row("chat, streamed", usage, time.monotonic() - began, finish, said)
        require(row, len(pieces) > 1, f"{len(pieces)} pieces arrived; a stream has several")
        return row

    def thinking(self, on: bool) -> Row:
        name = f"thinking {'on' if on else 'off'}"
        row, reply = self.ask(name, "Write a haiku about GPUs.", max_tokens=32, **thinking(on))
        reasoning = getattr(reply.choices[0].message, "reasoning_content", None)
        if on:
            require(row, bool(reasoning), "thinking is on, yet no reasoning came back")
        else:
            require(row, not reasoning, f"thinking is off, yet reasoning came back: {reasoning!r}")
            require(row, bool(_text(reply)), "the answer is empty")
        return row

    def tool_offered(self) -> Row:
        """A tool the model may use or not; random weights do not, so this shows the definition in the prompt."""
        row, _ = self.ask(
            "tool offered", "15% tip on $50?", max_tokens=32, tools=[_TOOL], tool_choice="auto", **thinking(False)
        )
        return row

    def tool_called(self) -> Row:
        """A tool the model must use: its arguments are constrained to the definition and come back parsed."""
        name = _TOOL["function"]["name"]
        row, reply = self.ask(
            "tool demanded",
            "15% tip on $50?",
            max_tokens=_JSON_TOKENS,
            tools=[_TOOL],
            tool_choice={"type": "function", "function": {"name": name}},
            **thinking(False),
        )
        calls = reply.choices[0].message.tool_calls or []
        require(row, len(calls) == 1, f"{len(calls)} tool calls came back")
        function = getattr(calls[0], "function", None)
        require(row, function is not None and function.name == name, f"the call is {calls[0]!r}")
        assert function is not None
        arguments = _parse(row, function.arguments)
        require(row, sorted(arguments) == ["bill_total", "tip_percentage"], f"the arguments are {arguments!r}")
        return row

    def json_schema(self) -> Row:
        row, reply = self.ask(
            "JSON schema",
            "What is the weather like?",
            max_tokens=_JSON_TOKENS,
            response_format={"type": "json_schema", "json_schema": {"name": "weather", "schema": _SCHEMA}},
            **thinking(False),
        )
        value = _parse(row, _text(reply))
        fits = (
            sorted(value) == ["celsius", "city", "sunny"]
            and value["city"] in _SCHEMA["properties"]["city"]["enum"]
            and isinstance(value["sunny"], bool)
            and isinstance(value["celsius"], int)
            and -20 <= value["celsius"] <= 40
        )
        require(row, fits, f"the answer does not fit the schema: {value!r}")
        return row

    def two_answers(self) -> Row:
        # drawn from random weights, one first token in a thousand ends the answer
        options = {**thinking(False)["extra_body"], "ignore_eos": True}
        row, reply = self.ask("n=2", _QUESTION, max_tokens=24, n=2, temperature=1.0, extra_body=options)
        require(row, len(reply.choices) == 2, f"{len(reply.choices)} answers came back")
        # and one in two thousand opens a thought
        texts = [m.content or getattr(m, "reasoning_content", None) for m in (c.message for c in reply.choices)]
        require(row, all(texts), "an answer is empty")
        return row

    def shared_prefix(self) -> Iterator[Row]:
        """Two requests alone, then eight at once, all with one prefix; the eight must find it in the cache.

        The first leaves its state at its own end. The second parts from it after the prefix, and SGLang keeps a state
        near that point; the others start from there.
        """
        yield self._about_prefix("shared prefix, first", 0)
        yield self._about_prefix("shared prefix, second", 1)
        threads = ThreadPoolExecutor(NUM_CONCURRENT)
        try:
            names = [f"  {i + 1} of {NUM_CONCURRENT} at once" for i in range(NUM_CONCURRENT)]
            for row in threads.map(self._about_prefix, names, range(2, NUM_CONCURRENT + 2)):
                require(row, row.cached_tokens > 0, "nothing of the shared prefix was found in the cache")
                yield row
        finally:
            # an interrupted demo must reach the end of its server, not wait here for replies
            threads.shutdown(wait=False, cancel_futures=True)

    def _about_prefix(self, name: str, number: int) -> Row:
        messages = [
            {"role": "system", "content": _SHARED_PREFIX},
            {"role": "user", "content": f"{number}. What does a Mamba-2 layer keep?"},
        ]
        row, _ = self.ask(name, messages, max_tokens=16, **thinking(False))
        return row

    def ask(
        self,
        name: str,
        messages: str | list[dict[str, Any]],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        # named rather than passed through, so that every field the demo uses can be read here
        n: int = 1,
        tools: list[dict[str, Any]] | None = None,
        tool_choice: Any = None,
        response_format: Any = None,
        extra_body: dict[str, Any] | None = None,
    ) -> tuple[Row, ChatCompletion]:
        """Send one request and wait for its reply; DemoFailed if it says nothing or counts nothing."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        optional = {"tools": tools, "tool_choice": tool_choice, "response_format": response_format}
        began = time.monotonic()
        # the client's overloads want its own message types; the server checks what is sent
        create = cast("Callable[..., ChatCompletion]", self._client.chat.completions.create)
        reply = create(
            model=self._model,
            messages=messages,
            max_tokens=max_tokens,
            temperature=temperature,
            n=n,
            extra_body=extra_body,
            **{field: value for field, value in optional.items() if value is not None},
        )
        seconds = time.monotonic() - began
        if reply.usage is None:
            raise DemoFailed(f"{name}: the reply has no usage")
        finish = ", ".join(choice.finish_reason for choice in reply.choices)
        return _row(name, reply.usage, seconds, finish, _said(reply)), reply


def thinking(on: bool) -> dict[str, Any]:
    """What a request needs to say so."""
    return {"extra_body": {"chat_template_kwargs": {"enable_thinking": on}}}


def _row(name: str, usage: Any, seconds: float, finish: str, said: str) -> Row:
    details = usage.prompt_tokens_details
    row = Row(
        request=name,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=(details.cached_tokens or 0) if details is not None else 0,
        seconds=seconds,
        finish=finish,
        said=said,
    )
    require(row, row.completion_tokens > 0, "not one token came back")
    return row


def require(row: Row, held: bool, reason: str) -> None:
    """DemoFailed unless a reply is what the demo promises."""
    if not held:
        raise DemoFailed(f"{row.request}: {reason} (finish reason: {row.finish}; it said {row.said})")


def _parse(row: Row, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DemoFailed(f"{row.request}: not JSON ({error}): {text!r}") from error
    require(row, isinstance(value, dict), f"not a JSON object: {text!r}")
    return value


def _text(reply: ChatCompletion) -> str:
    return reply.choices[0].message.content or ""


def _said(reply: ChatCompletion) -> str:
    """A taste of what the model said, in whichever field it arrived."""
    message = reply.choices[0].message
    if message.tool_calls:
        function = getattr(message.tool_calls[0], "function", None)
        return f"{function.name}({_short(function.arguments)})" if function is not None else "a tool call"
    reasoning = getattr(message, "reasoning_content", None)
    return f"<think> {_short(reasoning)}" if reasoning else _short(message.content or "")


def _short(text: str, width: int = 56) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3] + "..."
