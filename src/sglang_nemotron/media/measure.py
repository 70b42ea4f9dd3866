"""The bytes of one media file and an order come in; measured parcels go out: the item, and a video's own sound.

Every fault of a file is a `MediaError` that names the item. Nothing here may know token ids, SGLang or processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, field
from typing import TypeVar

from sglang_nemotron.config.omni import OmniSpec, SoundRule
from sglang_nemotron.media.audio.decode import AudioLimits
from sglang_nemotron.media.features import MediaError, Sound
from sglang_nemotron.media.pixels.resize import Memory, new_pixels
from sglang_nemotron.prompt.options import MediaLimits
from sglang_nemotron.reader.service import Order, Parcel

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a server accepts of one item of each kind.

    threads: that resize a video; 2 to 10 more decode it, and twice as many measure a sound.
    """

    video: MediaLimits = field(default_factory=MediaLimits)
    audio: AudioLimits = field(default_factory=AudioLimits)
    threads: int = 2


# of a file's bytes; asked for once its item is measured, since it is made meanwhile
Content = Callable[[], bytes]


def measure(
    order: Order, data: bytes, spec: OmniSpec, bounds: Bounds, pool: Executor, memory: Memory = new_pixels
) -> list[Parcel]:
    """The parcel of one item; of a video that is to be heard, one of its sound too, if it has any. MediaError.

    pool: two threads for what goes on beside decoding; no job in it outlives this call. memory: makes what is much to
    copy: pixels, which get its type, and mel.
    """
    if not data:
        raise MediaError(order.name, "the file is empty")
    with _Beside(pool) as beside:
        if order.kind == "image":
            return [_image(order, data, spec, memory, beside)]
        content = _content(data, beside)
        if order.kind == "sound":
            return [_sound(order, data, content, spec, bounds, memory)]
        parcels = [_video(order, data, content, spec, bounds, memory)]
        if order.options.audio_in_video:
            track = _track(order, data, content, spec, bounds, memory)
            parcels += [track] if track is not None else []
        return parcels


class _Beside:
    """Starts jobs in a pool that outlives them; a context manager that waits for them all."""

    def __init__(self, pool: Executor) -> None:
        self._pool, self._jobs = pool, []

    def start(self, job: Callable[[], Result]) -> Future[Result]:
        started = self._pool.submit(job)
        self._jobs.append(started)
        return started

    def __enter__(self) -> _Beside:
        return self

    def __exit__(self, *_: object) -> None:
        wait(self._jobs)


def _content(data: bytes, beside: _Beside) -> Content:
    return beside.start(lambda: hashlib.sha256(data).digest()).result


def _identity(content: Content, *rest: object) -> bytes:
    """Of the file and of everything else that changes an embedding, so that a cache never confuses two."""
    return hashlib.sha256(content() + repr(rest).encode()).digest()


def _image(order: Order, data: bytes, spec: OmniSpec, memory: Memory, beside: _Beside) -> Parcel:
    from sglang_nemotron.media.image.file import read_image
    from sglang_nemotron.media.image.picture import PictureToBe

    begun: list[PictureToBe] = []
    contents: list[Content] = []

    def begin(width: int, height: int) -> None:
        begun.append(
            PictureToBe(width, height, spec.image, order.budget, name=order.name, memory=memory, start=beside.start)
        )

        # no sooner: what runs before the decoder shares the interpreter's lock with it
        contents.append(_content(data, beside))

    rgb_HWC = read_image(data, name=order.name, on_size=begin, on_pixels=lambda decoding: begun[0].follow(decoding))
    image = begun[0].of(rgb_HWC)
    identity = _identity(contents[0], "image", image.grid_HW, spec.image)
    return Parcel("image", identity, image.pixels_CHW, image.num_tokens)


def _video(order: Order, data: bytes, content: Content, spec: OmniSpec, bounds: Bounds, memory: Memory) -> Parcel:
    from sglang_nemotron.media.video.file import read_clip

    options = order.options
    clip = read_clip(
        data,
        name=order.name,
        rule=spec.video,
        options=options,
        limits=bounds.video,
        threads=bounds.threads,
        memory=memory,
    )
    rate = clip.pruning_rate
    identity = _identity(
        content, "video", clip.grid_HW, clip.headings, rate, options.fps, options.max_frames, spec.video
    )
    return Parcel(
        "video",
        identity,
        clip.frames_TCHW,
        clip.num_kept,
        headings=clip.headings,
        tokens_per_tubelet=clip.tokens_per_tubelet,
        pruning_rate=rate,
    )


def _sound(order: Order, data: bytes, content: Content, spec: OmniSpec, bounds: Bounds, memory: Memory) -> Parcel:
    if spec.audio is None:
        raise MediaError(order.name, "this checkpoint has no sound encoder")
    return _heard(_read(data, spec.audio, order.name, bounds, memory), content, spec)


def _track(
    order: Order, data: bytes, content: Content, spec: OmniSpec, bounds: Bounds, memory: Memory
) -> Parcel | None:
    """A video without sound is nothing to complain about; one whose sound is broken is."""
    from sglang_nemotron.media.audio.decode import has_audio

    if spec.audio is None:
        raise MediaError(order.name, "its sound was asked for, but this checkpoint has no sound encoder")
    name = f"the sound of {order.name}"
    if not has_audio(data):
        return None
    return _heard(_read(data, spec.audio, name, bounds, memory), content, spec)


def _read(data: bytes, rule: SoundRule, name: str, bounds: Bounds, memory: Memory) -> Sound:
    from sglang_nemotron.media.audio.file import read_sound

    return read_sound(data, rule, name=name, limits=bounds.audio, threads=2 * bounds.threads, memory=memory)


def _heard(made: Sound, content: Content, spec: OmniSpec) -> Parcel:
    identity = _identity(content, "sound", spec.audio)
    return Parcel("sound", identity, made.mel_NTF, made.num_tokens, num_frames=made.num_frames_N)
