"""Conversations have the lengths that matter, whatever a server's tokens are; strangers are strange."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest

from sglang_nemotron.verify.conversations import built_in, shortened, strangers, with_media
from sglang_nemotron.verify.endpoint import Chat
from sglang_nemotron.verify.server import Unfit


def text(chat: Chat) -> str:
    return json.dumps([chat.tools, chat.messages])


# tokens of one byte, of up to three, and of whole words but digits
LENGTHS: list[Callable[[Chat], int]] = [
    lambda chat: len(text(chat)),
    lambda chat: -(-len(text(chat)) // 3),
    lambda chat: len(text(chat).split()) + sum(letter.isdigit() for letter in text(chat)),
]


@pytest.mark.parametrize("length", LENGTHS, ids=["bytes", "thirds", "words"])
def test_lengths(length: Callable[[Chat], int]):
    found = {one.name: one for one in built_in(length, longest=8192)}
    assert length(found["boundary"].chat) % 256 in (1, 2)
    assert 0.95 * 8192 <= length(found["long"].chat) <= 8192


def test_a_short_context_is_refused():
    with pytest.raises(Unfit, match="room for prompts of 300 tokens.*\n  remedy: "):
        built_in(LENGTHS[0], longest=300)


def test_turns_begin_like_the_chat():
    for one in built_in(LENGTHS[0], longest=8192):
        for turn in one.turns:
            shared = os.path.commonprefix([text(turn), text(one.chat)])
            assert len(shared) > 256, one.name


def test_strangers_share_nothing():
    chats = [*strangers(9, 9000), *strangers(5, 5000)]
    bare = text(Chat(({"role": "user", "content": ""},)))
    begins = [os.path.commonprefix([text(one), text(other)]) for one in chats for other in chats if one is not other]
    assert max(map(len, begins)) < len(bare) + 8
    assert len({one.salt for one in chats}) == len(chats)


def test_shortened_ends_within_its_last_text():
    chat = Chat(({"role": "user", "content": "12345678"},))
    assert shortened(chat, 0.5).messages[0]["content"] == "1234"


def test_media_come_again_in_the_second_turn():
    parts = {name: {"type": name} for name in ("image", "speech")}
    found = with_media(parts)
    assert [one.name for one in found] == ["image", "speech", "all media"]
    assert all(one.media and one.turns and text(one.turns[0])[:300] == text(one.chat)[:300] for one in found)
    assert all(part in found[2].chat.messages[1]["content"] for part in parts.values())
