"""The bytes of one media file and a request to read it come in; features go out: the item, and a video's own sound.

Every fault of a file is a `MediaError` that names the item. Nothing here may know token ids, SGLang or processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from typing import TypeVar

from sglang_nemotron.config.omni import OmniSpec, SoundRule
from sglang_nemotron.media.features import MediaFeatures, ReadRequest, Sound
from sglang_nemotron.media.pixels.resize import Memory, new_pixels
from sglang_nemotron.prompt.errors import MediaError
from sglang_nemotron.prompt.options import MediaLimits

Result = TypeVar("Result")


# of a file's bytes; asked for once its item is measured, since it is made meanwhile
Content = Callable[[], bytes]


def measure(
    request: ReadRequest,
    data: bytes,
    spec: OmniSpec,
    limits: MediaLimits,
    pool: Executor,
    memory: Memory = new_pixels,
    threads: int = 2,
) -> list[MediaFeatures]:
    """The features of one item; of a video that is to be heard, of its sound too, if it has any. MediaError.

    pool: two threads for what goes on beside decoding; no job in it outlives this call. memory: makes what is much to
    copy: pixels, which get its type, and mel. threads: that resize a video; 2 to 10 more decode it, and twice as many
    measure a sound.
    """
    if not data:
        raise MediaError(request.name, "the file is empty")
    with _Beside(pool) as beside:
        if request.kind == "image":
            return [_image(request, data, spec, memory, beside)]
        content = _content(data, beside)
        file = _File(request, data, content, spec, limits, memory, threads)
        if request.kind == "sound":
            return [file.sound()]
        clip = file.video()
        track = file.track() if request.options.audio_in_video else None
        return [clip] if track is None else [clip, track]


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


def _image(request: ReadRequest, data: bytes, spec: OmniSpec, memory: Memory, beside: _Beside) -> MediaFeatures:
    from sglang_nemotron.media.image.file import read_image
    from sglang_nemotron.media.image.picture import PictureToBe

    begun: list[PictureToBe] = []
    contents: list[Content] = []

    def begin(width: int, height: int) -> None:
        begun.append(
            PictureToBe(width, height, spec.image, request.budget, name=request.name, memory=memory, start=beside.start)
        )

        # no sooner: what runs before the decoder shares the interpreter's lock with it
        contents.append(_content(data, beside))

    rgb_HWC = read_image(data, name=request.name, on_size=begin)
    image = begun[0].of(rgb_HWC)
    identity = _identity(contents[0], "image", image.grid_HW, spec.image)
    return image.known_by(identity)


@dataclass(frozen=True, slots=True)
class _File:
    """A file with a time axis, and all that its reading depends on."""

    request: ReadRequest
    data: bytes
    content: Content
    spec: OmniSpec
    limits: MediaLimits
    memory: Memory
    threads: int

    def video(self) -> MediaFeatures:
        from sglang_nemotron.media.video.file import read_clip

        options, rule = self.request.options, self.spec.video
        clip = read_clip(
            self.data,
            name=self.request.name,
            rule=rule,
            options=options,
            limits=self.limits,
            threads=self.threads,
            memory=self.memory,
        )
        changes = (clip.grid_HW, clip.headings, clip.pruning_rate, options.fps, options.max_frames, rule)
        return clip.known_by(_identity(self.content, "video", *changes))

    def sound(self) -> MediaFeatures:
        if self.spec.audio is None:
            raise MediaError(self.request.name, "this checkpoint has no sound encoder")
        return self._read(self.spec.audio, self.request.name)

    def track(self) -> MediaFeatures | None:
        """A video without sound is nothing to complain about; one whose sound is broken is."""
        from sglang_nemotron.media.audio.decode import has_audio

        if self.spec.audio is None:
            raise MediaError(self.request.name, "its sound was asked for, but this checkpoint has no sound encoder")
        if not has_audio(self.data):
            return None
        return self._read(self.spec.audio, f"the sound of {self.request.name}")

    def _read(self, rule: SoundRule, name: str) -> Sound:
        from sglang_nemotron.media.audio.file import read_sound

        threads = 2 * self.threads
        made = read_sound(self.data, rule, name=name, limits=self.limits, threads=threads, memory=self.memory)
        return made.known_by(_identity(self.content, "sound", rule))
