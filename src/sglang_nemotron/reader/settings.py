"""What an operator may set about media, read once from the environment; the names are documented here and nowhere else.

SGLANG_NEMOTRON_MEDIA_WORKERS      processes that read media, started with the server; default: half the cores, 1 to 4
SGLANG_NEMOTRON_MEDIA_THREADS      that resize a video, 2 to 10 more decode it; default: half the cores, 1 to 4
SGLANG_NEMOTRON_MEDIA_TIMEOUT      seconds that one item may take to read; default 120
SGLANG_NEMOTRON_MEDIA_MEMORY_MB    memory that one item may take to read; default 6144, at least 1024
SGLANG_NEMOTRON_MEDIA_FILE_MB      size of one file, from wherever it comes; default 512
SGLANG_NEMOTRON_MEDIA_FETCH_SECONDS  seconds that one download may take; default 30
SGLANG_NEMOTRON_MEDIA_ADDRESSES    addresses that URLs may lead to: public, any, networks; default public
SGLANG_NEMOTRON_MEDIA_FOLDERS      folders whose files may be named by path or file://, or any; default none
SGLANG_NEMOTRON_MAX_AUDIO_SECONDS  length of one audio; default 3600
Those of `prompt.options`: SGLANG_NEMOTRON_VIDEO_FPS, VIDEO_MAX_FRAMES, VIDEO_PRUNING_RATE, IMAGE_MAX_TOKENS,
AUDIO_IN_VIDEO (defaults of requests) and SGLANG_NEMOTRON_MAX_VIDEO_FRAMES and its like (what requests may ask).
SGLang's own --allowed-media-domains and --media-url-max-file-size-mb hold for URLs too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from sglang_nemotron.config.omni import ImageRule, OmniSpec
from sglang_nemotron.prompt.options import ENVIRONMENT, MediaLimits, MediaOptions
from sglang_nemotron.reader.origins import ADDRESSES, FOLDERS, Origins, normal_hosts, read_addresses, read_folders


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """How a server's media are read: what each worker is told first, and how many of them there are.

    pixels: dtype of images and frames. stamp: begins the names of files. options: the defaults of a request. workers:
    processes; threads: of each, as `measure` takes them. memory and max_file in bytes, times in seconds.
    """

    spec: OmniSpec
    pixels: torch.dtype
    stamp: str
    limits: MediaLimits = field(default_factory=MediaLimits)
    options: MediaOptions = field(default_factory=MediaOptions)
    workers: int = 1
    threads: int = 2
    memory: int = 6144 << 20
    max_file: int = 512 << 20
    timeout: float = 120.0
    fetch_seconds: float = 30.0


def worker_config(environment: Mapping[str, str], spec: OmniSpec, *, pixels: torch.dtype, stamp: str) -> WorkerConfig:
    """Reads the table above. Raises ValueError naming the variable, its value and what is allowed."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    half = min(4, max(1, cores // 2))
    limits = _limits(environment, spec.image)
    return WorkerConfig(
        spec=spec,
        pixels=pixels,
        stamp=stamp,
        limits=limits,
        options=MediaOptions.from_environment(environment, limits),
        workers=int(_number(environment, "MEDIA_WORKERS", half, 1, 64)),
        threads=int(_number(environment, "MEDIA_THREADS", half, 1, 64)),
        memory=int(_number(environment, "MEDIA_MEMORY_MB", 6144, 1024, 2**20)) << 20,
        max_file=int(_number(environment, "MEDIA_FILE_MB", 512, 1, 2**20)) << 20,
        timeout=_number(environment, "MEDIA_TIMEOUT", 120, 1, 86_400),
        fetch_seconds=_number(environment, "MEDIA_FETCH_SECONDS", 30, 0.1, 3600),
    )


def media_origins(environment: Mapping[str, str], domains: Sequence[str] | None, max_megabytes: int) -> Origins:
    """Where media may come from. Raises ValueError naming the variable, its value and what is allowed.

    domains, max_megabytes: SGLang's --allowed-media-domains and --media-url-max-file-size-mb.
    """
    public, any_address, others = read_addresses(environment.get(ADDRESSES, ""))
    named, any_file = read_folders(environment.get(FOLDERS, ""))
    return Origins(
        public=public,
        any_address=any_address,
        others=others,
        folders=named,
        any_file=any_file,
        domains=normal_hosts(domains or ()),
        max_bytes=max_megabytes << 20,
    )


def _limits(environment: Mapping[str, str], image: ImageRule) -> MediaLimits:
    least = -(-image.min_patches // image.merge_size**2)
    limits = MediaLimits.from_environment(
        # the checkpoint's own patch budget is the range, unless the operator says otherwise
        {
            f"{ENVIRONMENT}MIN_IMAGE_TOKENS": str(least),
            f"{ENVIRONMENT}MAX_IMAGE_TOKENS": str(max(image.max_patches // image.merge_size**2, least)),
            **environment,
        }
    )
    seconds = _number(environment, "MAX_AUDIO_SECONDS", limits.max_audio_seconds, 1, 86_400)
    return replace(limits, max_audio_seconds=seconds)


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
