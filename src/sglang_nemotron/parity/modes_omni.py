"""The ways a server can meet conversations with media: alone, from its caches, beside each other. Conversations in,
answers out; each prompt's ending, behind its last medium, is asked for its logprobs as well."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sglang_nemotron.parity.client import Client, MediaAnswer
from sglang_nemotron.parity.conversations import Conversation
from sglang_nemotron.parity.golden_omni import OmniGolden
from sglang_nemotron.parity.modes import CONCURRENT, Tick

# answers to one conversation, by mode; of one at a time, one
ANSWERS = {"media-again": 2, "media-together": 1}


@dataclass(frozen=True, eq=False)
class Said:
    """What a server said to a conversation."""

    conversation: Conversation
    answer: MediaAnswer


def one_by_one(client: Client, golden: OmniGolden, asked: Sequence[Conversation], tick: Tick) -> list[Said]:
    """Each from empty caches."""
    found = []
    for conversation in asked:
        client.flush()
        found.append(_ask(client, golden, conversation, tick))
    return found


def again(client: Client, golden: OmniGolden, asked: Sequence[Conversation], tick: Tick) -> list[Said]:
    """Each a second time, and then with a second turn: what it began with is in the caches, its media among it.

    A position that comes from a cache has no logprob: those of the answer are asked for, and those of the second turn.
    """
    found = []
    for conversation in asked:
        client.flush()
        prompt, further = golden.prompt(conversation), conversation.followed()
        # fills the caches; a mode of its own compares this answer
        _ask(client, golden, conversation, lambda: None, start=None)
        found.append(_ask(client, golden, conversation, tick, start=None))
        found.append(_ask(client, golden, further, tick, start=prompt.num_tokens))
    return found


def together(client: Client, golden: OmniGolden, asked: Sequence[Conversation], tick: Tick) -> list[Said]:
    """CONCURRENT at a time, media of all kinds beside each other, from empty caches."""
    client.flush()
    # made here, one by one: the reference is no place for several threads
    for conversation in asked:
        golden.prompt(conversation)
    with ThreadPoolExecutor(CONCURRENT) as pool:
        return list(pool.map(lambda conversation: _ask(client, golden, conversation, tick), asked))


def _ask(client: Client, golden: OmniGolden, conversation: Conversation, tick: Tick, *, start: int | None = -1) -> Said:
    """start: where logprobs of the prompt begin; -1 behind its last medium, None nowhere."""
    prompt = golden.prompt(conversation)
    if start == -1:
        start = max(prompt.num_tokens - prompt.num_ending - 1, 0)
    said = client.ask_about(prompt.text, conversation.data(), conversation.options, start)
    tick()
    return Said(conversation, said)
