"""What a speed benchmark sends: lengths, a seed and made media come in, bodies of OpenAI requests go out.

Everything is made from a seed: nothing is downloaded, and two servers are asked the same. Knows media as message parts
that somebody else makes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# special tokens lie below, of Nemotron and of most others
_FIRST_ID = 1000
# common short words, of about one token each with any large vocabulary
_TEXT = """
time year people way day man thing woman life child world school state family student group country problem hand part
place case week company system program question work government number night point home water room mother area money
story fact month lot right study book eye job word business issue side kind head house service friend father power hour
game line end member law car city community name president team minute idea body information
"""
_WORDS = tuple(_TEXT.split())


# (what is asked, seed) -> message parts, unlike those of any other seed
MakeMedia = Callable[["Load", int], Sequence[dict[str, Any]]]


@dataclass(frozen=True)
class Load:
    """What is asked. Lengths in tokens.

    range_ratio: a length is drawn evenly from [range_ratio * length, length], as in SGLang's `random-ids`; 1 fixes it.
    vocab: ids of prompts are below it. images, sounds, clips: per request; then prompts are chats of words, else token
    ids. image_size, clip_size: (width, height) in pixels; sound_s, clip_s: seconds.
    """

    input_len: int = 1024
    output_len: int = 1024
    range_ratio: float = 0.0
    vocab: int = 32_000
    seed: int = 42
    images: int = 0
    image_size: tuple[int, int] = (1280, 720)
    sounds: int = 0
    sound_s: float = 10.0
    clips: int = 0
    clip_size: tuple[int, int] = (640, 360)
    clip_s: float = 4.0
    chat: bool = False

    @property
    def has_media(self) -> bool:
        return bool(self.images or self.sounds or self.clips)

    def check(self) -> None:
        """Raises ValueError for what cannot be asked."""
        for flag, value, least in (
            ("--input-len", self.input_len, 1),
            ("--output-len", self.output_len, 1),
            ("--vocab", self.vocab, _FIRST_ID + 2),
            ("--images", self.images, 0),
            ("--audios", self.sounds, 0),
            ("--videos", self.clips, 0),
            ("--image-size", min(self.image_size), 16),
            ("--video-size", min(self.clip_size), 16),
            ("--audio-seconds", self.sound_s, 0.1),
            ("--video-seconds", self.clip_s, 0.5),
        ):
            if not (math.isfinite(value) and value >= least):
                raise ValueError(f"{flag} is {value}; it must be {least} or more")
        if self.clips and (self.clip_size[0] % 2 or self.clip_size[1] % 2):
            width, height = self.clip_size
            raise ValueError(f"--video-size is {width}x{height}\n  remedy: give even numbers, which MPEG-4 wants")
        if not 0 <= self.range_ratio <= 1:
            raise ValueError(f"--range-ratio is {self.range_ratio}; it is a share, from 0 to 1")


@dataclass(frozen=True)
class Question:
    """One request: `path` of the API and the part of the body that says what is asked."""

    path: str
    body: dict[str, Any]


def questions(
    load: Load, count: int, round_seed: int, words_per_token: float, media: MakeMedia, tick: Callable[[], None]
) -> list[Question]:
    """Requests of one round. No two of them have the same text or media, nor has one of another `round_seed`.

    words_per_token: of the server's tokenizer, for chats. tick: called for each that is made; media take their time.
    """
    draw = random.Random(f"{load.seed} {round_seed}")
    made = []
    for _ in range(count):
        input_len = _length(draw, load.range_ratio, load.input_len)
        output_len = _length(draw, load.range_ratio, load.output_len)
        made.append(_question(load, draw, input_len, output_len, words_per_token, media))
        tick()
    return made


def words(count: int, seed: int) -> str:
    """So many words, of which no sentence is made."""
    draw = random.Random(seed)
    return " ".join(draw.choice(_WORDS) for _ in range(count))


def _length(draw: random.Random, ratio: float, full: int) -> int:
    return draw.randint(max(int(full * ratio), 1), full)


def _question(
    load: Load, draw: random.Random, input_len: int, output_len: int, words_per_token: float, media: MakeMedia
) -> Question:
    # the wish for so many tokens, whatever the model would rather say: SGLang and vLLM know it
    common = {"max_tokens": output_len, "temperature": 0.0, "ignore_eos": True}
    if not load.has_media and not load.chat:
        ids = [draw.randrange(_FIRST_ID, load.vocab) for _ in range(input_len)]
        return Question("/v1/completions", {"prompt": ids, **common})
    text = " ".join(draw.choice(_WORDS) for _ in range(max(1, round(input_len * words_per_token))))
    content: Any = text
    if load.has_media:
        content = [{"type": "text", "text": text}, *media(load, draw.randrange(2**31))]
    return Question("/v1/chat/completions", {"messages": [{"role": "user", "content": content}], **common})
