"""What an operator may set about media, read once from the environment; the names are documented here and nowhere else.

SGLANG_NEMOTRON_MEDIA_WORKERS      processes that read media, started with the server; default: half the cores, 1 to 4
SGLANG_NEMOTRON_MEDIA_THREADS      that resize a video, 2 to 10 more decode it; default: half the cores, 1 to 4
SGLANG_NEMOTRON_MEDIA_TIMEOUT      seconds that one item may take to read; default 120
SGLANG_NEMOTRON_MEDIA_MEMORY_MB    memory that one item may take to read; default 6144, at least 1024
SGLANG_NEMOTRON_MEDIA_FILE_MB      size of one file, from wherever it comes; default 512
SGLANG_NEMOTRON_MEDIA_FETCH_SECONDS  seconds that one download may take; default 30
SGLANG_NEMOTRON_MAX_AUDIO_SECONDS  length of one audio; default 3600
Those of `prompt.options`: SGLANG_NEMOTRON_VIDEO_FPS, VIDEO_MAX_FRAMES, VIDEO_PRUNING_RATE, IMAGE_MAX_TOKENS,
AUDIO_IN_VIDEO (defaults of requests) and SGLANG_NEMOTRON_MAX_VIDEO_FRAMES and its like (what requests may ask).
SGLang's own --allowed-media-domains and --media-url-max-file-size-mb hold for URLs too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from sglang_nemotron.config.omni import ImageRule
from sglang_nemotron.media.audio.decode import AudioLimits
from sglang_nemotron.media.measure import Bounds
from sglang_nemotron.prompt.options import ENVIRONMENT, MediaLimits, MediaOptions


@dataclass(frozen=True, slots=True)
class MediaSettings:
    """Numbers of the table above. memory and file size in bytes, times in seconds."""

    workers: int
    timeout: float
    memory: int
    max_file: int
    fetch_seconds: float
    options: MediaOptions
    bounds: Bounds


def media_settings(environment: Mapping[str, str], image: ImageRule) -> MediaSettings:
    """Raises ValueError naming the variable, its value and what is allowed."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = int(_number(environment, "MEDIA_WORKERS", min(4, max(1, cores // 2)), 1, 64))
    audio = AudioLimits()
    audio = replace(audio, max_seconds=_number(environment, "MAX_AUDIO_SECONDS", audio.max_seconds, 1, 86_400))
    merged = image.merge_size**2
    limits = MediaLimits.from_environment(
        # the checkpoint's own patch budget is the range, unless the operator says otherwise
        {
            f"{ENVIRONMENT}MIN_IMAGE_TOKENS": str(-(-image.min_patches // merged)),
            f"{ENVIRONMENT}MAX_IMAGE_TOKENS": str(max(image.max_patches // merged, -(-image.min_patches // merged))),
            **environment,
        }
    )
    threads = int(_number(environment, "MEDIA_THREADS", min(4, max(1, cores // 2)), 1, 64))
    return MediaSettings(
        workers=workers,
        timeout=_number(environment, "MEDIA_TIMEOUT", 120, 1, 86_400),
        memory=int(_number(environment, "MEDIA_MEMORY_MB", 6144, 1024, 2**20)) << 20,
        max_file=int(_number(environment, "MEDIA_FILE_MB", 512, 1, 2**20)) << 20,
        fetch_seconds=_number(environment, "MEDIA_FETCH_SECONDS", 30, 0.1, 3600),
        options=MediaOptions.from_environment(environment, limits),
        bounds=Bounds(video=limits, audio=audio, threads=threads),
    )


def _number(environment: Mapping[str, str], suffix: str, default: float, least: float, most: float) -> float:
    name = ENVIRONMENT + suffix
    text = environment.get(name, "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # a NaN fails both comparisons
    if not least <= value <= most:
        raise ValueError(f"{name} is {text!r}; give a number from {least:g} to {most:g}")
    return value
