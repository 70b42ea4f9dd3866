"""Questions and the way to ask them come in; each goes to the server, and replies come out as they arrive."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sglang_nemotron.bench.media import part
from sglang_nemotron.bench.questions import Item, Set
from sglang_nemotron.bench.scoring import Reply
from sglang_nemotron.bench.server import Server, make_room

if TYPE_CHECKING:
    import aiohttp

# what the scripts of SGLang say to nobody: a chat is told what to do with their prompt
_TOLD = {
    "number": "Answer the last question. End with the number alone.\n\n{}",
    "letter": "Answer the last question with one letter: A, B, C or D.\n\n{}",
    "match": "{}",
    "transcript": "{}",
}


@dataclass(frozen=True)
class Way:
    """How to ask.

    chat: as a chat completion, else as the raw prompt that the scripts send. thinking: switched on or off by the chat
    template, or left to it. budget: thinking tokens at most. max_tokens: None for the set's own number. parallel: asked
    at once. temperature: 0 is greedy, as in the scripts.
    """

    chat: bool = False
    thinking: bool | None = None
    budget: int | None = None
    max_tokens: int | None = None
    parallel: int = 64
    temperature: float = 0.0


def body(item: Item, asked: Set, way: Way) -> tuple[str, dict[str, Any]]:
    """(path of the API, what is said there) of one question."""
    limit = {"max_tokens": way.max_tokens or asked.max_tokens, "temperature": way.temperature}
    if not way.chat:
        stops = {"stop": list(asked.stops)} if asked.stops else {}
        return "/v1/completions", {"prompt": item.prompt, **limit, **stops}
    text = _TOLD[asked.rule].format(item.prompt) if not item.media else item.prompt
    content: Any = text
    if item.media:
        content = [*(part(*shown) for shown in item.media), {"type": "text", "text": text}]
    # no stops: a word like "Question" may stand in thoughts
    said: dict[str, Any] = {"messages": [{"role": "user", "content": content}], **limit}
    if way.thinking is not None:
        said["chat_template_kwargs"] = {"enable_thinking": way.thinking}
    if way.budget is not None:
        said["thinking_budget"] = way.budget
    return "/v1/chat/completions", said


def reply_of(said: Any) -> Reply:
    """A completion, raw or of a chat. Raises KeyError, TypeError, IndexError for what is none."""
    choice = said["choices"][0]
    message = choice.get("message") or {}
    return Reply(
        text=(choice["text"] if "text" in choice else message["content"]) or "",
        thoughts=message.get("reasoning_content") or message.get("reasoning") or "",
        finish=choice.get("finish_reason"),
        output_tokens=(said.get("usage") or {}).get("completion_tokens") or 0,
    )


def ask_all(server: Server, asked: Set, way: Way, tell: Callable[[Item, Reply], None]) -> bool:
    """Asks every question of the set, `way.parallel` at once, and tells each reply as it comes.

    What fails is told as a reply with an error, and the others go on. False if ctrl-C ended it: then what was told is
    all there is.
    """
    make_room(way.parallel)
    try:
        asyncio.run(_all(server, asked, way, tell))
    except KeyboardInterrupt:
        return False
    return True


async def _all(server: Server, asked: Set, way: Way, tell: Callable[[Item, Reply], None]) -> None:
    import aiohttp

    places = asyncio.Semaphore(way.parallel)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(total=server.timeout_s),
        headers=server.headers,
    ) as session:

        async def one(item: Item) -> None:
            async with places:
                reply = await _one(session, server, *body(item, asked, way))
            tell(item, reply)

        await asyncio.gather(*(one(item) for item in asked.items))


async def _one(session: aiohttp.ClientSession, server: Server, path: str, said: Mapping[str, Any]) -> Reply:
    import aiohttp

    try:
        async with session.post(server.url + path, json={"model": server.model, **said}) as answer:
            text = await answer.text()
            if answer.status != 200:
                return Reply(error=f"{path} answered {answer.status}: {' '.join(text[:300].split())}")
            return reply_of(json.loads(text))
    except TimeoutError:
        return Reply(error=f"no answer within {server.timeout_s:g} s")
    except (aiohttp.ClientError, OSError) as error:
        return Reply(error=f"{type(error).__name__}: {error}")
    except (KeyError, TypeError, IndexError, ValueError) as error:
        return Reply(error=f"{path} answers in a form that is not OpenAI's: {error!r}")
