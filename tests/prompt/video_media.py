"""Encoded videos for the tests, made by PyAV, and the plainest possible reading of one: decode all, in order."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction

import av
import numpy as np
from published import SPEC

RULE = SPEC.video
MEAN, STD = RULE.mean, RULE.std
OPTIONS = {"libx264": {"preset": "ultrafast"}, "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"}}


def picture(number: int, width: int, height: int) -> np.ndarray:
    """A frame that says which one it is: moving bars, a shade of its own, top-left marked."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([(x * 3 + number * 7) % 256, (y * 2 + number * 11) % 256, (x + y + number * 5) % 256], axis=-1)
    rgb[: height // 4, : width // 4] = (250, 20, 20)
    return rgb.astype(np.uint8)


class Pipe:
    """Takes what is written to it, in order: nothing can be gone back to and filled in."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._written.append(bytes(data))
        return len(data)

    def getvalue(self) -> bytes:
        return b"".join(self._written)


@contextmanager
def _own_priority() -> Iterator[None]:
    """For root, SVT-AV1 makes the thread that opens it a real-time one, and so all that this thread starts afterwards.

    Two of these that wait for a third by spinning are a standstill on two cores.
    """
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)


def encode(
    num_frames: int = 60,
    *,
    width: int = 160,
    height: int = 96,
    codec: str = "libx264",
    container: str = "mp4",
    rate: int | Fraction = 30,
    options: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
    rotation: float | None = None,
    hflip: bool = False,
    sound: bool = False,
    pix_fmt: str = "yuv420p",
    piped: bool = False,
    muxer: dict[str, str] | None = None,
) -> bytes:
    """times: presentation times in 1/1000 s, for a variable frame rate; None is constant.

    options: of the encoder; muxer: of the container. piped: written as to a pipe, so that the file has no index, no
    length and no count of frames in its header.
    """
    out = Pipe() if piped else io.BytesIO()
    with _own_priority(), av.open(out, "w", format=container, container_options=muxer or {}) as file:
        stream = file.add_stream(codec, rate=rate, options={**OPTIONS.get(codec, {}), **(options or {})})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(rotation, hflip=hflip)
        voice = file.add_stream("aac", rate=16000) if sound else None
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(picture(number, width, height), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            file.mux(stream.encode(frame))
        if voice is not None:
            tone = np.sin(np.arange(int(16000 * num_frames / rate)) * 2 * np.pi * 440 / 16000).astype(np.float32) / 4
            frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
            frame.sample_rate = 16000
            file.mux(voice.encode(frame))
            file.mux(voice.encode(None))
        file.mux(stream.encode(None))
    return out.getvalue()


def decode_all(data: bytes) -> list[np.ndarray]:
    """Every shown frame, RGB (H, W, 3) uint8, in order of presentation; nothing skipped, one thread."""
    with av.open(io.BytesIO(data)) as file:
        stream = next(s for s in file.streams.video)
        stream.codec_context.thread_count = 1
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
