"""A conversation with media comes in; the prompt that transformers makes of it, and its scores, go out.

It keeps what it has computed, since modes repeat conversations, and scores texts without media for the modes of text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from sglang_nemotron.parity.conversations import Conversation
from sglang_nemotron.parity.reference import Scores
from sglang_nemotron.parity.reference_media import Item, Video
from sglang_nemotron.parity.reference_omni import OmniReference, OmniScores, in_text_order


@dataclass(frozen=True, eq=False)
class Prompt:
    """A conversation, rendered. text: with a slot for every item that is sent. expanded: with one for a video's sound.

    ids: with a media token for every embedding before pruning. num_tokens: after it. num_ending: tokens that stand
    behind the run of the last medium.
    """

    text: str
    expanded: str
    items: Sequence[Item]
    ids: Sequence[int]
    num_tokens: int
    num_ending: int


class OmniGolden:
    """One reference, with a memory."""

    def __init__(self, reference: OmniReference) -> None:
        self.reference = reference
        self._texts: dict[tuple[int, ...], Scores] = {}
        self._prompts: dict[Conversation, Prompt] = {}
        self._scores: dict[tuple[Conversation, tuple[int, ...]], OmniScores] = {}

    def scores(self, ids: Sequence[int]) -> Scores:
        """Of a sequence without media."""
        key = tuple(ids)
        if key not in self._texts:
            self._texts[key] = self.reference.scores(key, []).scores
        return self._texts[key]

    def prompt(self, conversation: Conversation) -> Prompt:
        """What the server is to be sent, and what it should make of it."""
        if conversation not in self._prompts:
            self._prompts[conversation] = self._rendered(conversation)
        return self._prompts[conversation]

    def score(self, conversation: Conversation, tokens: tuple[int, ...]) -> OmniScores:
        """Scores of the whole conversation and these tokens after it."""
        key = conversation, tokens
        if key not in self._scores:
            self._scores[key] = self.score_afresh(conversation, tokens)
        return self._scores[key]

    def score_afresh(self, conversation: Conversation, tokens: tuple[int, ...]) -> OmniScores:
        """The same, neither taken from memory nor kept."""
        prompt = self.prompt(conversation)
        return self.reference.scores([*prompt.ids, *tokens], in_text_order(prompt.expanded, prompt.items))

    @cached_property
    def media_ids(self) -> frozenset[int]:
        """The tokens that stand for embeddings."""
        config = self.reference.model.config
        return frozenset((config.image_token_id, config.audio_token_id))

    def _rendered(self, conversation: Conversation) -> Prompt:
        items: list[Item] = []
        for medium in conversation.media:
            items += [medium.item, *([medium.heard] if medium.heard else [])]
        text = self.reference.render(conversation.rendered())
        # the published processing puts a video's own sound right behind it
        heard = iter([medium.heard for medium in conversation.media if medium.kind == "video"])
        expanded = re.sub("<video>", lambda slot: slot[0] + ("<so_embedding>" if next(heard) else ""), text)
        ids = self.reference.prompt_ids(expanded, items)
        pruned = sum(int((~self.reference.retention(item)).sum()) for item in items if isinstance(item, Video))
        end = max((place + 1 for place, token in enumerate(ids) if token in self.media_ids), default=0)
        if items and isinstance(in_text_order(expanded, items)[-1], Video):
            # a video is one run with its headings and tags: to the server its closing tag is no token either
            end += 1
        return Prompt(text, expanded, items, ids, len(ids) - pruned, len(ids) - end)
