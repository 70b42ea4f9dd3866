"""What a request or an operator asks of media comes in, as plain mappings; checked `MediaOptions` go out.

Nothing here reads the environment, a file or a request object: the caller hands in mappings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

ENVIRONMENT = "SGLANG_NEMOTRON_"
# more than any camera films: every frame of the file
EVERY_FRAME_FPS = 1000.0
# vLLM spells "no limit of mine" so
AS_FILMED = -1


# limits that an operator may set by a variable of their name; `reader/settings.py` reads that of sounds
SETTABLE = (
    *("max_video_frames", "max_video_seconds", "max_video_bytes", "max_video_pixels", "max_video_aspect"),
    *("max_decode_seconds", "min_image_tokens", "max_image_tokens"),
)


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """What a server accepts of one media item, and the range of the image token limit. Only the operator sets these.

    max_video_frames: frames sampled. max_video_seconds: length of the file. max_video_bytes: its size.
    max_video_pixels: width * height of a frame. max_video_aspect: long side over short side, beyond which the
    reference's grid would outgrow its own target. max_decode_seconds: wall time to decode one video.
    min_image_tokens, max_image_tokens: what the checkpoint's patch budget allows, the published one's by default.

    Of a sound: seconds as played; rate in Hz and channels as the header states them; max_audio_values: samples of all
    channels before resampling (2**30 is an hour of 5.1 sound at 48 kHz), the bound of the decoding time;
    max_audio_level: the largest absolute sample (full scale is 1), far below where float32 powers overflow.
    """

    max_video_frames: int = 512
    max_video_seconds: float = 3600.0
    max_video_bytes: int = 512 * 2**20
    max_video_pixels: int = 8192 * 4352
    max_video_aspect: float = 200.0
    max_decode_seconds: float = 60.0
    min_image_tokens: int = 256
    max_image_tokens: int = 3328
    min_audio_seconds: float = 0.1
    max_audio_seconds: float = 3600.0
    min_audio_rate: int = 1_000
    max_audio_rate: int = 384_000
    max_audio_channels: int = 8
    max_audio_values: int = 2**30
    max_audio_level: float = 1e9

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> MediaLimits:
        """Reads SGLANG_NEMOTRON_ + a field of SETTABLE in capitals: SGLANG_NEMOTRON_MAX_VIDEO_FRAMES. ValueError."""
        given: dict[str, Any] = {}
        for field in (field for field in fields(cls) if field.name in SETTABLE):
            name = ENVIRONMENT + field.name.upper()
            if environment.get(name, "").strip():
                kind = int if isinstance(field.default, int) else float
                given[field.name] = _positive(name, _parse(name, environment[name], kind))
        made = cls(**given)
        if made.min_image_tokens > made.max_image_tokens:
            raise ValueError(
                f"{ENVIRONMENT}MIN_IMAGE_TOKENS is {made.min_image_tokens}, above {ENVIRONMENT}MAX_IMAGE_TOKENS, "
                f"{made.max_image_tokens}; give a smaller one"
            )
        return made


@dataclass(frozen=True, slots=True)
class MediaOptions:
    """How the media of one request are to be read. The defaults are in-tree SGLang's.

    fps: frames sampled per second of video. max_frames: the most of them. pruning_rate: EVS rate q in [0, 1), 0 is
    off, None is the checkpoint's. max_image_tokens: the most tokens per image, None is what the context leaves.
    audio_in_video: whether a video's own sound is heard too, placed after the video.
    """

    fps: float = 2.0
    max_frames: int = 128
    pruning_rate: float | None = None
    max_image_tokens: int | None = None
    audio_in_video: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], limits: MediaLimits) -> MediaOptions:
        """The server's defaults: SGLANG_NEMOTRON_ + VIDEO_FPS, VIDEO_MAX_FRAMES, VIDEO_PRUNING_RATE,
        IMAGE_MAX_TOKENS, AUDIO_IN_VIDEO (0 or 1). Raises ValueError naming variable, value and range."""
        given: dict[str, Any] = {}
        for field, (suffix, kind) in _VARIABLES.items():
            name = ENVIRONMENT + suffix
            text = environment.get(name, "").strip()
            if not text:
                continue
            if kind is bool:
                if text not in ("0", "1"):
                    raise ValueError(f"{name} is {text!r}; give 0 or 1")
                given[field] = text == "1"
            else:
                given[field] = _CHECKS[field](name, _parse(name, text, kind), limits)
        return cls(**given)

    @classmethod
    def from_request(
        cls, request: Mapping[str, Any], defaults: MediaOptions, limits: MediaLimits | None = None
    ) -> MediaOptions:
        """What a chat request asks for, over the server's defaults.

        request: the body as sent, or the part of it that was set (`model_dump(exclude_unset=True)`): a default that
        nobody sent would count as asked for. Names are those of SETTINGS, at the top of the body (vLLM's
        `video_pruning_rate`, SGLang's `use_audio_in_video`), in `mm_processor_kwargs` and its `videos_kwargs`,
        `images_kwargs`, in SGLang's `video_config` and `images_config`, and in vLLM's `media_io_kwargs` under "video".
        A setting may stand in several places if they agree. None is "not given".

        Raises ValueError naming the place, the value and the range; also for an unknown name in those sections, and
        for two places that disagree. Other fields of the body are not looked at.
        """
        limits = limits or MediaLimits()
        asked: dict[str, tuple[str, Any]] = {}
        for place, section, names in _sections(request):
            for key, value in section.items():
                # SGLang leaves its own notes in `video_config`, under names that begin so
                if key.startswith("_") or value is None:
                    continue
                if key not in names:
                    raise ValueError(f"{place}{key} is not known; known here: {', '.join(sorted(names))}")
                _ask(asked, names[key], f"{place}{key}", value, limits)
        return replace(defaults, **{field: value for field, (_, value) in asked.items()})

    def for_video(self, part: Mapping[str, Any], limits: MediaLimits | None = None) -> MediaOptions:
        """These options for one video: `fps` and `max_frames` of its own `video_url` go first. Errors as above.

        part: the `video_url` object of a message. Its `max_tokens_per_frame` and `max_image_tokens` are refused, since
        the size of a frame is the checkpoint's.
        """
        asked: dict[str, tuple[str, Any]] = {}
        for key in ("max_tokens_per_frame", "max_image_tokens"):
            if part.get(key) is not None:
                raise ValueError(
                    f"video_url.{key} is {part[key]!r}, but this model's frames have a size of their own; leave it "
                    "out, and lower fps or max_frames, or raise video_pruning_rate, for fewer tokens"
                )
        for key in ("fps", "max_frames"):
            if part.get(key) is not None:
                _ask(asked, key, f"video_url.{key}", part[key], limits or MediaLimits())
        return replace(self, **{field: value for field, (_, value) in asked.items()})


def _ask(asked: dict[str, tuple[str, Any]], field: str, place: str, value: Any, limits: MediaLimits) -> None:
    value = _CHECKS[field](place, value, limits)
    before = asked.setdefault(field, (place, value))
    if before[1] != value:
        raise ValueError(f"{place} is {value!r}, but {before[0]} is {before[1]!r}; give one of the two")


def _sections(request: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], Mapping[str, str]]]:
    """(prefix of the place, mapping, names known there) of every part of a body that may hold settings."""
    found: list[tuple[str, Mapping[str, Any], Mapping[str, str]]]
    found = [("", {key: request[key] for key in _TOP if key in request}, _TOP)]
    processor = _mapping(request, "mm_processor_kwargs")
    nested = ("videos_kwargs", "images_kwargs")
    found.append(("mm_processor_kwargs.", {k: v for k, v in processor.items() if k not in nested}, _VIDEO | _TOP))
    found.append(("mm_processor_kwargs.videos_kwargs.", _mapping(processor, nested[0], "mm_processor_kwargs."), _VIDEO))
    found.append(("mm_processor_kwargs.images_kwargs.", _mapping(processor, nested[1], "mm_processor_kwargs."), _IMAGE))
    found.append(("video_config.", _mapping(request, "video_config"), _VIDEO))
    found.append(("images_config.", _mapping(request, "images_config"), _IMAGE))
    loading = _mapping(request, "media_io_kwargs")
    for kind, section in loading.items():
        if kind not in ("video", "image", "audio"):
            raise ValueError(f"media_io_kwargs.{kind} is not known; known here: audio, image, video")
        if section is not None:
            names = _VIDEO if kind == "video" else {}
            found.append((f"media_io_kwargs.{kind}.", _mapping(loading, kind, "media_io_kwargs."), names))
    return found


def _mapping(outer: Mapping[str, Any], key: str, place: str = "") -> Mapping[str, Any]:
    value = outer.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{place}{key} is {_short(value)}; give an object of names and values")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _number(place: str, value: Any, allowed: str) -> float:
    # bool is an int to Python, and "true frames" is a mistake
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{place} is {_short(value)}; give {allowed}")
    return value


def _fps(place: str, value: Any, limits: MediaLimits) -> float:
    allowed = f"a number above 0 and up to {EVERY_FRAME_FPS:g}, or {AS_FILMED} for every frame"
    value = _number(place, value, allowed)
    if value == AS_FILMED:
        return EVERY_FRAME_FPS
    if not 0 < value <= EVERY_FRAME_FPS:
        raise ValueError(f"{place} is {value!r}; give {allowed}")
    return float(value)


def _max_frames(place: str, value: Any, limits: MediaLimits) -> int:
    allowed = f"a whole number from 1 to {limits.max_video_frames}, or {AS_FILMED} for as many as this server allows"
    value = _number(place, value, allowed)
    if value == AS_FILMED:
        return limits.max_video_frames
    if value != int(value) or not 1 <= value <= limits.max_video_frames:
        raise ValueError(f"{place} is {value!r}; give {allowed}")
    return int(value)


def _pruning_rate(place: str, value: Any, limits: MediaLimits) -> float:
    allowed = "a number of at least 0 (off) and below 1"
    value = _number(place, value, allowed)
    if not 0 <= value < 1:
        raise ValueError(f"{place} is {value!r}; give {allowed}")
    return float(value)


def _max_image_tokens(place: str, value: Any, limits: MediaLimits) -> int:
    allowed = f"a whole number from {limits.min_image_tokens} to {limits.max_image_tokens}"
    value = _number(place, value, allowed)
    if value != int(value) or not limits.min_image_tokens <= value <= limits.max_image_tokens:
        raise ValueError(f"{place} is {value!r}; give {allowed}")
    return int(value)


def _audio_in_video(place: str, value: Any, limits: MediaLimits) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{place} is {_short(value)}; give true or false")
    return value


def _parse(name: str, text: str, kind: type[int] | type[float]) -> float:
    try:
        return kind(text.strip())
    except ValueError:
        allowed = "a whole number" if kind is int else "a number"
        raise ValueError(f"{name} is {_short(text)}; give {allowed}") from None


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value!r}; give a number above 0")
    return value


_CHECKS: dict[str, Callable[[str, Any, MediaLimits], Any]] = {
    "fps": _fps,
    "max_frames": _max_frames,
    "pruning_rate": _pruning_rate,
    "max_image_tokens": _max_image_tokens,
    "audio_in_video": _audio_in_video,
}
# names as sent -> field, by what the section speaks of
_IMAGE = {"max_image_tokens": "max_image_tokens"}
_VIDEO = {
    "fps": "fps",
    "num_frames": "max_frames",
    "max_frames": "max_frames",
    "video_pruning_rate": "pruning_rate",
    "pruning_rate": "pruning_rate",
    "use_audio_in_video": "audio_in_video",
}
_TOP = {
    "video_fps": "fps",
    "video_max_frames": "max_frames",
    "video_pruning_rate": "pruning_rate",
    "max_image_tokens": "max_image_tokens",
    "use_audio_in_video": "audio_in_video",
}
# field -> every name it goes by, for the documentation and the tests
SETTINGS = {
    field: tuple(sorted({name for names in (_TOP, _VIDEO, _IMAGE) for name, to in names.items() if to == field}))
    for field in _CHECKS
}
_VARIABLES: dict[str, tuple[str, type]] = {
    "fps": ("VIDEO_FPS", float),
    "max_frames": ("VIDEO_MAX_FRAMES", int),
    "pruning_rate": ("VIDEO_PRUNING_RATE", float),
    "max_image_tokens": ("IMAGE_MAX_TOKENS", int),
    "audio_in_video": ("AUDIO_IN_VIDEO", bool),
}
