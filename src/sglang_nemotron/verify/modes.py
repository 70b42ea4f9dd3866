"""The ways in which a prompt is asked again: conversations come in, runs go out. Sends requests, judges nothing.

A mode begins with a fresh cache, so that what is reused is what the mode itself left there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sglang_nemotron.verify.compare import Run
from sglang_nemotron.verify.conversations import Conversation, shortened, strangers
from sglang_nemotron.verify.endpoint import Chat, Endpoint, Reply
from sglang_nemotron.verify.server import Unfit

# how many others are computed beside a prompt to see the server's noise
COMPANY = (2, 5, 9)
_WARM = ("once", "twice")
_BATCHED = 2
# where a prefix that is sent before ends, as shares of the prompt, and as tokens before its end
_SHARES = (0.25, 0.5, 0.75)
_BEFORE_END = (160, 34, 17, 1)

# called after each request, for progress
Tick = Callable[[], None]


@dataclass(frozen=True)
class Cold:
    """A prompt computed afresh: alone, and again in the company of others."""

    alone: Reply
    in_company: tuple[Reply, ...]


def requests(conversations: Sequence[Conversation]) -> int:
    """How often `Tick` is called in all."""
    each = 1 + len(COMPANY) + len(_WARM) + len(_SHARES) + _BATCHED
    exact = len(_BEFORE_END) + 1
    return sum(each + (0 if one.media else exact) + bool(one.turns) for one in conversations)


def cold_and_warm(endpoint: Endpoint, one: Conversation, tick: Tick) -> tuple[Cold, list[Run]]:
    """Afresh, in other company, then again and again."""
    company = []
    for count in COMPANY:
        endpoint.fresh()
        others = strangers(count, 1000 * count)
        half = count // 2
        reply = endpoint.ask_together([*others[:half], one.chat, *others[half:]])[half]
        # what shared a template's first words with a stranger was not computed afresh, and is no measure
        company += [] if reply.cached else [reply]
        tick()
    endpoint.fresh()
    alone = endpoint.ask(one.chat)
    tick()
    if alone.cached or not company:
        raise Unfit(
            f"'{one.name}' was to be computed afresh, and some of its tokens came from the cache: "
            f"{endpoint.url} can neither be flushed nor knows cache_salt"
            "\n  remedy: let /flush_cache through (SGLang), or use a release that knows cache_salt (vLLM)"
        )
    runs = []
    for before in _WARM:
        runs.append(Run(one.name, "warm", f"itself, {before}", endpoint.ask(one.chat)))
        tick()
    return Cold(alone, tuple(company)), runs


def chunked(endpoint: Endpoint, one: Conversation, prompt_tokens: int, tick: Tick) -> list[Run]:
    """After a prefix of the prompt, ended in many places, and after all of them in order: it is made of pieces."""
    ids = None if one.media else endpoint.tokens(one.chat)
    # a server may render a chat in two ways
    if ids is not None and len(ids) == prompt_tokens:
        return _after_prefixes(endpoint, one, ids, tick)
    if not isinstance(one.chat.messages[-1]["content"], str):
        return []
    runs = []
    for share in _SHARES:
        endpoint.fresh()
        endpoint.ask(shortened(one.chat, share))
        runs.append(Run(one.name, "chunked", f"the same with {share:.0%} of its last text", endpoint.ask(one.chat)))
        tick()
    return runs


def _after_prefixes(endpoint: Endpoint, one: Conversation, ids: Sequence[int], tick: Tick) -> list[Run]:
    runs, cuts = [], _cuts(len(ids))
    for cut in cuts:
        endpoint.fresh()
        endpoint.leave(ids[:cut])
        runs.append(Run(one.name, "chunked", f"its first {cut} tokens", endpoint.ask(one.chat)))
        tick()
    endpoint.fresh()
    for cut in cuts:
        endpoint.leave(ids[:cut])
    runs.append(Run(one.name, "chunked", "all these prefixes in turn", endpoint.ask(one.chat)))
    tick()
    return runs


def turns(endpoint: Endpoint, one: Conversation, tick: Tick) -> list[Run]:
    """After what a client would have sent before, with answers."""
    if not one.turns:
        return []
    endpoint.fresh()
    for chat in one.turns:
        endpoint.ask(chat)
    about = f"{len(one.turns)} earlier turn{'s' * (len(one.turns) > 1)}"
    runs = [Run(one.name, "turns", about, endpoint.ask(one.chat))]
    tick()
    return runs


def batched(endpoint: Endpoint, conversations: Sequence[Conversation], tick: Tick) -> list[Run]:
    """All conversations at once, from a fresh cache, and all at once again."""
    endpoint.fresh()
    chats: list[Chat] = [one.chat for one in conversations]
    runs = []
    for again in range(_BATCHED):
        about = f"{len(chats) - 1} others beside it, {'again' if again else 'none of them known'}"
        for one, reply in zip(conversations, endpoint.ask_together(chats), strict=True):
            runs.append(Run(one.name, "batched", about, reply))
            tick()
    return runs


def _cuts(length: int) -> list[int]:
    cuts = {int(length * share) for share in _SHARES} | {length - before for before in _BEFORE_END}
    return sorted(cut for cut in cuts if 0 < cut < length)
