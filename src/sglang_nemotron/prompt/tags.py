"""Text with media tags comes in; token ids, in which only the template's own tags are media, go out.

A tag that somebody typed must be ordinary text: stand-in characters hide it while the template is rendered, and it is
encoded as the characters it is made of afterwards. Nothing here may know files, features or SGLang.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from typing import Any

from sglang_nemotron.config_omni import MediaTokens
from sglang_nemotron.prompt.splice import VIDEO_SLOT, Modality

# private use, which no template and no normaliser touches
_CANDIDATES = range(0xE000, 0xF900)
# tags that a chat template looks for in a message; none can become a media tag by what a template strips or joins
_LEFT = re.compile("<(?!/?think>|/?tool_call>|/?tool_response>|[|])")


def media_tags(tokens: MediaTokens) -> tuple[str, ...]:
    """Every string that a template may mean as media or as a media item's bounds."""
    return (
        *(tokens.image, tokens.video, tokens.sound),
        *(tokens.image_start, tokens.image_end, tokens.sound_start, tokens.sound_end),
    )


class StandIns:
    """Characters that occur in none of the given values, for what media tags are made of.

    It is the `<` that is replaced, not whole tags: a template joins the parts of a message and strips words like
    /think, so that "<ima" and "ge>" may meet. And names of tools' schemas, which a template puts between brackets of
    its own, are replaced where they are the inside of a tag.

    values: anything that a template is rendered from, nested lists and dicts of strings. Raises ValueError if a client
    used up the whole private use area.
    """

    def __init__(self, tags: tuple[str, ...], *values: Any) -> None:
        texts = list(_texts(values))
        parts = ["<", *(tag[1:-1] for tag in tags if tag.startswith("<") and tag.endswith(">"))]
        free = (char for char in map(chr, _CANDIDATES) if not any(char in t or _escaped(char) in t for t in texts))
        self._of = {part: char for part, char in zip(parts, free, strict=False)}
        if len(self._of) < len(parts):
            raise ValueError("the messages use every character of U+E000 to U+F8FF; leave some out")
        self._chars = re.compile("|".join(f"{char}|{re.escape(_escaped(char))}" for char in self._of.values()))
        self._back = {char: part for part, char in self._of.items()}
        self._back |= {_escaped(char): part for part, char in self._of.items()}

    def put(self, value: Any, *, names: bool = False) -> Any:
        """The value with stand-ins, in strings at any depth, keys of dicts included. names: also for whole names."""
        if isinstance(value, str):
            if names and value in self._of:
                return self._of[value]
            return _LEFT.sub(self._of["<"], value)
        if isinstance(value, list | tuple):
            return [self.put(item, names=names) for item in value]
        if isinstance(value, dict):
            return {self.put(key, names=names): self.put(item, names=names) for key, item in value.items()}
        return value

    def restore(self, text: str) -> str:
        """Rendered text as it was typed. A template may have written a stand-in as a JSON escape."""
        return self._chars.sub(lambda found: self._back[found.group()], text)


class TagEncoder:
    """Encodes rendered text around media tags.

    tokenizer: a fast tokenizer of transformers (its `backend_tokenizer` is read). slots: id -> modality of the ids
    that stand for one item each.
    """

    def __init__(self, tokenizer: Any, tokens: MediaTokens) -> None:
        self.tags = media_tags(tokens)
        # a part of a message -> the tag that stands for one item
        self.slot_tags = {"image": tokens.image, "video": tokens.video, "audio": tokens.sound}
        vocab = tokenizer.get_vocab()
        self._ids = {tag: vocab[tag] for tag in self.tags if tag in vocab and tag != tokens.video}
        self._ids[tokens.video] = VIDEO_SLOT
        self.slots: dict[int, Modality] = {tokens.image_id: "image", VIDEO_SLOT: "video"}
        if tokens.sound_id is not None:
            self.slots[tokens.sound_id] = "sound"
        self._bounds(tokens)
        self._plain = _without(tokenizer, [tag for tag in self._ids if tag != tokens.video])
        self._split = re.compile("(" + "|".join(re.escape(tag) for tag in self.tags) + ")")

    def _bounds(self, tokens: MediaTokens) -> None:
        """Reads the ids that a media item is written with; ValueError for a tokenizer that lacks one."""
        stated = {tokens.image: tokens.image_id}
        needed = [tokens.image, tokens.image_start, tokens.image_end]
        if tokens.sound_id is not None:
            stated[tokens.sound] = tokens.sound_id
            needed += [tokens.sound, tokens.sound_start, tokens.sound_end]
        for tag in needed:
            if tag not in self._ids:
                raise ValueError(f"the tokenizer has no token {tag}, by which the model marks media")
            if stated.get(tag, self._ids[tag]) != self._ids[tag]:
                raise ValueError(f"{tag} is token {self._ids[tag]} to the tokenizer, {stated[tag]} to the config")

    def id_of(self, tag: str) -> int:
        return self._ids[tag]

    def has_tags(self, text: str) -> bool:
        return any(tag in text for tag in self.tags)

    def plain(self, text: str) -> list[int]:
        """Ids of text in which media tags are ordinary characters; other special tokens keep their meaning."""
        ids = self._plain.encode(text, add_special_tokens=False).ids
        assert self.slots.keys().isdisjoint(ids), "the tokenizer writes a media token from plain text"
        return ids

    def encode(self, text: str, typed: StandIns | None = None) -> list[int]:
        """Ids of rendered text: its media tags are media, the stand-ins of typed ones are text."""
        ids: list[int] = []
        for part in self._split.split(text):
            tag = self._ids.get(part)
            if tag is not None:
                ids.append(tag)
            elif part:
                ids += self.plain(typed.restore(part) if typed is not None else part)
        return ids


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)


def _escaped(char: str) -> str:
    return f"\\u{ord(char):04x}"


def _without(tokenizer: Any, tags: list[str]) -> Any:
    """A copy of a fast tokenizer that takes these tags for text, all other ids unchanged.

    The entries stay under names that nobody can type: taking them out would move the ids of those added after them.
    """
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"{type(tokenizer).__name__} is no fast tokenizer; serve Omni with --tokenizer-mode auto and tokenizer.json"
        )
    state = json.loads(backend.to_str())
    names = {tag: f"<{secrets.token_hex(16)}>" for tag in tags}
    for added in state["added_tokens"]:
        added["content"] = names.get(added["content"], added["content"])
    vocab = state["model"].get("vocab")
    if isinstance(vocab, dict):
        state["model"]["vocab"] = {names.get(token, token): token_id for token, token_id in vocab.items()}
    plain = Tokenizer.from_str(json.dumps(state))
    for tag in tags:
        if backend.token_to_id(tag) in plain.encode(tag, add_special_tokens=False).ids:
            raise ValueError(f"the tokenizer writes {tag} as one token even where it is no special token")
    return plain
