"""A server whose model says what a prompt tells it to, and a client for it: exact text in, exact fields out."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI, OpenAI

from sglang_nemotron.cli.server import ServerProcess
from support.serving import WORDY, Served
from support.waiting import NET_S

PLUGIN = str(Path(__file__).parents[1] / "e2e" / "plugin")
PARSERS = ("--reasoning-parser", "deepseek-r1", "--tool-call-parser", "qwen3_coder")
# the flags of the Omni cookbook; those of the Nano one are what the demo serves with
SCRIPTED = Served(args=("--dtype", "float32", *PARSERS), env=(("PYTHONPATH", os.pathsep.join([PLUGIN, WORDY])),))


def script(text: str) -> str:
    """What a user says to hear `text`."""
    return f"script:{text.encode().hex()}."


@dataclass
class Heard:
    """A reply as a client sees it. `calls` are (name, arguments as sent); `deltas` counts the pieces of a stream."""

    reasoning: str = ""
    content: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    finish: str | None = None
    usage: Any = None
    deltas: int = 0

    @property
    def said(self) -> tuple[str, str, list[tuple[str, str]]]:
        return self.reasoning, self.content, self.calls


def asked(text: str, **options: Any) -> dict[str, Any]:
    """The arguments of a chat completion; what the client library does not know goes into the body as it is.

    `messages` may be given, its last user message is then to hold `script(text)`; `enable_thinking` and
    `force_nonempty_content` are options of the template.
    """
    template = {name: options.pop(name) for name in ("enable_thinking", "force_nonempty_content") if name in options}
    known = ("messages", "tools", "tool_choice", "parallel_tool_calls", "response_format", "max_tokens", "temperature")
    arguments = {name: options.pop(name) for name in known if name in options}
    body = {**options, "chat_template_kwargs": template} if template else options
    return {
        "model": "default",
        "messages": [{"role": "user", "content": script(text)}],
        # no token is shorter than a byte
        "max_tokens": len(text.encode()) + 40 if text else 400,
        **arguments,
        "extra_body": body,
    }


def ask(server: ServerProcess, text: str, **options: Any) -> Heard:
    """A reply in one piece."""
    client = OpenAI(base_url=f"{server.url}/v1", api_key="EMPTY", max_retries=0, timeout=NET_S)
    reply = client.chat.completions.create(**asked(text, **options))
    (choice,) = reply.choices
    message = choice.message
    calls = [(call.function.name, call.function.arguments) for call in message.tool_calls or []]
    return Heard(
        getattr(message, "reasoning_content", None) or "",
        message.content or "",
        calls,
        choice.finish_reason,
        reply.usage,
    )


def asks(server: ServerProcess, wanted: Iterable[tuple[str, dict[str, Any]]]) -> list[Heard]:
    """Replies in one piece to all of these (script, options), several at a time."""
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda one: ask(server, one[0], **one[1]), wanted))


async def _stream(client: AsyncOpenAI, text: str, options: dict[str, Any]) -> Heard:
    heard = Heard()
    arguments: dict[int, list[str]] = {}
    stream = await client.chat.completions.create(
        **asked(text, **options), stream=True, stream_options={"include_usage": True}
    )
    async for chunk in stream:
        heard.usage = chunk.usage or heard.usage
        for choice in chunk.choices:
            heard.finish = choice.finish_reason or heard.finish
            heard.reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            heard.content += choice.delta.content or ""
            heard.deltas += 1
            for call in choice.delta.tool_calls or []:
                parts = arguments.setdefault(call.index, [call.function.name or "", ""])
                parts[1] += call.function.arguments or ""
    heard.calls = [(arguments[index][0], arguments[index][1]) for index in sorted(arguments)]
    return heard


def streams(server: ServerProcess, wanted: Iterable[tuple[str, dict[str, Any]]]) -> list[Heard]:
    """Streamed replies to all of these (script, options), asked for at the same time."""

    async def together() -> Sequence[Heard]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="EMPTY", max_retries=0, timeout=NET_S) as client:
            return await asyncio.gather(*(_stream(client, text, options) for text, options in wanted))

    return list(asyncio.run(together()))


def stream(server: ServerProcess, text: str, **options: Any) -> Heard:
    """A streamed reply, joined."""
    return streams(server, [(text, options)])[0]
