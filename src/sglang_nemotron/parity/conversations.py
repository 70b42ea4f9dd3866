"""Which conversations with media a comparison holds: three files and a checkpoint's rules come in, conversations by
mode go out, always the same. An item knows what is sent, and what transformers' own preprocessing makes of it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch

from sglang_nemotron.config.omni import OmniSpec
from sglang_nemotron.parity import media_made, reference_media
from sglang_nemotron.parity.media_files import frames, pixels, samples
from sglang_nemotron.parity.reference_media import Item, Sound

# modes of one conversation at a time; the others send all of these again, in another way
KINDS = ("image", "images", "video", "audio", "video-sound", "mixed")

# what 2 frames a second take of the clip (96 frames, 24 a second), and 2 and 3 a second of a film (72, 24 a second):
# spread evenly from the first to the last, as the published engines have it
_CLIP_2 = (0, 13, 27, 40, 54, 67, 81, 95)
_FILM_2 = (0, 14, 28, 42, 56, 71)
_FILM_3 = (0, 8, 17, 26, 35, 44, 53, 62, 71)
_FILM_FRAMES, _FPS = 72, 24
# more than any of these takes
_MOST_FRAMES = 16

# long enough that a state is kept between the media and the prompt's end; the first is asked unless more are wanted
QUESTIONS = (
    "What do you see, hear or read in all of this? Say it in one sentence, and be quick about it, please. "
    "If there is nothing to be seen or heard, then say so as well, and tell us what you would have liked to find.",
    "Tell a child what this is about, in words that it knows. Leave out what is dull, and begin with what is near. "
    "Where you are not sure of something, guess, and say that it is a guess and no more than that.",
    "List everything in here that moves, shines or makes a sound, one thing a line, the largest first. "
    "After that, give the whole a title of five words, and a reason why it should be called that.",
    "Somebody lost a red ball not far from here, between seven and noon. Does anything of this help to find it? "
    "Answer yes or no at first, and then say what you base that on, and how sure you are of it.",
)
_SECOND = "And what was it before that? Speak freely, and at some length if you like."
_ANSWER = "The sun stands low over a lake, with hills behind it."


@dataclass(frozen=True)
class Files:
    """The bytes of a photo (JPEG), of speech (MP3), and of a clip with sound (MP4, 96 frames at 24 a second)."""

    photo: bytes
    speech: bytes
    clip: bytes


@dataclass(frozen=True, eq=False)
class Medium:
    """One file as it is sent, and what the reference reads in it. heard: a video's own sound, if it is asked for."""

    kind: Literal["image", "video", "audio"]
    data: bytes
    item: Item
    heard: Sound | None = None

    @property
    def encoded(self) -> str:
        return base64.b64encode(self.data).decode()


# (role, parts)
Turn = tuple[str, Sequence[Medium | str]]


@dataclass(frozen=True, eq=False)
class Conversation:
    """What is said up to the user's last turn. options: of the request, in the section `mm_processor_kwargs`."""

    name: str
    turns: Sequence[Turn]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def media(self) -> list[Medium]:
        return [part for _, parts in self.turns for part in parts if isinstance(part, Medium)]

    def rendered(self) -> list[dict[str, Any]]:
        """The messages for a chat template, media as parts without content."""
        return [{"role": role, "content": _content(parts)} for role, parts in self.turns]

    def data(self) -> dict[str, list[str]]:
        """The media as /generate takes them: base64 by kind, in their order."""
        by_kind = {kind: [m.encoded for m in self.media if m.kind == kind] for kind in ("image", "video", "audio")}
        return {f"{kind}_data": items for kind, items in by_kind.items() if items}

    def followed(self) -> Conversation:
        """The same with an answer and a second question behind it."""
        more: list[Turn] = [("assistant", [_ANSWER]), ("user", [_SECOND])]
        return replace(self, name=f"{self.name}, a second turn", turns=[*self.turns, *more])


def _content(parts: Sequence[Medium | str]) -> Any:
    if len(parts) == 1 and isinstance(parts[0], str):
        return parts[0]
    return [{"type": "text", "text": part} if isinstance(part, str) else {"type": part.kind} for part in parts]


class Shelf:
    """Every medium of the conversations, made when it is first taken. context: tokens that the server serves."""

    def __init__(self, files: Files, spec: OmniSpec, context: int) -> None:
        self._files, self._spec, self._context = files, spec, context

    def _image(self, data: bytes) -> Medium:
        rule = self._spec.image
        limits = {"min_patches": rule.min_patches, "max_patches": rule.max_patches}
        return Medium("image", data, reference_media.image(pixels(data), max_tokens=self._context, **limits))

    def _video(self, data: bytes, numbers: Sequence[int], rate: float, *, heard: bool = False) -> Medium:
        target = self._spec.video.target_patches
        sampled = frames(data)[list(numbers)]
        item = reference_media.video(sampled, numbers, source_fps=_FPS, pruning_rate=rate, target_patches=target)
        return Medium("video", data, item, self._sound(data) if heard else None)

    def _audio(self, data: bytes) -> Medium:
        return Medium("audio", data, self._sound(data))

    def _sound(self, data: bytes) -> Sound:
        return reference_media.sound(torch.from_numpy(samples(data)))

    @cached_property
    def photos(self) -> list[Medium]:
        """A JPEG, an upright PNG, a square WebP, and a large JPEG."""
        photo = self._files.photo
        made = [
            media_made.picture(photo, 90, 300, kind="PNG"),
            media_made.picture(photo, 224, 224, kind="WEBP", mirrored=True),
            media_made.picture(photo, 1280, 720, kind="JPEG", mirrored=True),
        ]
        return [self._image(data) for data in (photo, *made)]

    @cached_property
    def sounds(self) -> list[Medium]:
        """The sentence as an MP3, a short stereo FLAC, and a WAV that is longer than one clip of 30 s."""
        speech = self._files.speech
        made = [
            media_made.recording(speech, 2.21, seed=1, rate=48_000, channels=2, kind="FLAC"),
            media_made.recording(speech, 33.4, seed=2, rate=22_050),
        ]
        return [self._audio(data) for data in (speech, *made)]

    @cached_property
    def _films(self) -> tuple[bytes, bytes]:
        """A wide and an upright one."""
        size = {"num_frames": _FILM_FRAMES, "rate": _FPS}
        photo = self._files.photo
        return media_made.film(photo, 320, 180, **size), media_made.film(photo, 120, 200, **size)

    def clip(self, *, heard: bool = False) -> Medium:
        """Every token of it, at 2 frames a second."""
        return self._video(self._files.clip, _CLIP_2, 0.0, heard=heard)

    def film(self, rate: float) -> Medium:
        """At 3 frames a second: an odd number of them."""
        return self._video(self._films[0], _FILM_3, rate)

    def films(self, rate: float) -> list[Medium]:
        """Of two shapes, at 2 frames a second."""
        return [self._video(data, _FILM_2, rate) for data in self._films]


def conversations(shelf: Shelf, spec: OmniSpec, kind: str, question: str) -> list[Conversation]:
    """Those of a mode of KINDS, each with this question."""
    made = {
        "image": _image,
        "images": _images,
        "video": _video,
        "audio": _audio,
        "video-sound": _video_sound,
        "mixed": _mixed,
    }[kind]
    return made(shelf, spec, question)


def sampled(fps: int, rate: float, **more: Any) -> dict[str, Any]:
    """Options that say all that a server's variables might say otherwise."""
    return {"fps": fps, "num_frames": _MOST_FRAMES, "pruning_rate": rate, "use_audio_in_video": False, **more}


def _asked(*parts: Medium | str) -> list[Turn]:
    return [("user", parts)]


def _image(shelf: Shelf, _: OmniSpec, question: str) -> list[Conversation]:
    named = zip(("a photo", "an upright image", "a square one", "a large photo"), shelf.photos, strict=True)
    return [Conversation(name, _asked(one, question)) for name, one in named]


def _images(shelf: Shelf, _: OmniSpec, question: str) -> list[Conversation]:
    first, upright, square, large = shelf.photos
    return [
        Conversation("four images", _asked(first, upright, square, large, question)),
        Conversation("one of them twice", _asked(upright, square, upright, question)),
    ]


def _video(shelf: Shelf, spec: OmniSpec, question: str) -> list[Conversation]:
    # the checkpoint's own, said aloud: a server's variable may say another
    own = spec.video.pruning_rate
    rates = dict.fromkeys((0.5, own))
    pruned = [Conversation(f"a film, q = {q:g}", _asked(shelf.film(q), question), sampled(3, q)) for q in rates]
    return [
        Conversation("a clip, q = 0", _asked(shelf.clip(), question), sampled(2, 0.0)),
        *pruned,
        Conversation("two films, q = 0.3", _asked(*shelf.films(0.3), question), sampled(2, 0.3)),
    ]


def _audio(shelf: Shelf, _: OmniSpec, question: str) -> list[Conversation]:
    sentence, stereo, long = shelf.sounds
    return [
        Conversation("a sentence", _asked(sentence, question)),
        Conversation("three sounds", _asked(stereo, long, sentence, question)),
    ]


def _video_sound(shelf: Shelf, _: OmniSpec, question: str) -> list[Conversation]:
    heard, options = shelf.clip(heard=True), sampled(2, 0.0, use_audio_in_video=True)
    return [
        Conversation("a clip and its sound", _asked(heard, question), options),
        Conversation("and another sound", _asked(heard, question, shelf.sounds[1]), options),
    ]


def _mixed(shelf: Shelf, _: OmniSpec, question: str) -> list[Conversation]:
    first, upright, square, large = shelf.photos
    sentence, stereo, long = shelf.sounds
    wide, tall = shelf.films(0.3)
    turns: list[Turn] = [
        ("user", [first, sentence, question]),
        ("assistant", [_ANSWER]),
        ("user", [_SECOND]),
        ("assistant", ["I cannot know that."]),
        ("user", [upright, tall, stereo, question]),
    ]
    return [
        Conversation("all kinds at once", _asked(question, long, large, wide, sentence, square, tall), sampled(2, 0.3)),
        Conversation("over three turns", turns, sampled(2, 0.3)),
    ]
