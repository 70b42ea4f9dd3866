"""Small whole files of every format that is read: what the corpus of hostile media is made from.

Each is of some hundred bytes, or a few KB where its container takes that much.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from typing import Literal

import av
import numpy as np
import soundfile
from PIL import Image

from sglang_nemotron.media.image.file import reads_avif
from support.video_media import encode, picture

Kind = Literal["image", "video", "sound"]


def still(kind: str, **options: object) -> bytes:
    """A picture of Pillow's, 24 x 16. kind: Pillow's name of the format."""
    file = io.BytesIO()
    Image.fromarray(picture(1, 24, 16)).save(file, kind, **options)
    return file.getvalue()


def moving(kind: str) -> bytes:
    """Three pictures in one file of a still format."""
    file = io.BytesIO()
    first, *rest = (Image.fromarray(picture(number, 24, 16)) for number in range(3))
    first.save(file, kind, save_all=True, append_images=rest, duration=100)
    return file.getvalue()


def tone(rate: int = 8000, seconds: float = 0.15) -> np.ndarray:
    return np.sin(np.arange(int(rate * seconds)) / 5).astype(np.float32) / 4


def plain(kind: str, subtype: str | None = None) -> bytes:
    """A sound by libsndfile."""
    file = io.BytesIO()
    soundfile.write(file, tone(), 8000, format=kind, subtype=subtype)
    return file.getvalue()


def muxed(container: str, codec: str, rate: int = 16_000) -> bytes:
    """A sound by FFmpeg."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as made:
        track = made.add_stream(codec, rate=rate, layout="mono")
        resampler = av.AudioResampler(format=track.codec_context.format, layout="mono", rate=rate)
        frame = av.AudioFrame.from_ndarray(tone(rate)[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        for ready in resampler.resample(frame):
            made.mux(track.encode(ready))
        made.mux(track.encode(None))
    return file.getvalue()


def film(codec: str, container: str, *, num_frames: int = 4, **more: object) -> bytes:
    """Frames of 32 x 32."""
    return encode(num_frames, width=32, height=32, codec=codec, container=container, rate=25, **more)  # type: ignore[arg-type]


@cache
def tagged() -> dict[str, tuple[Kind, bytes]]:
    """Files whose titles are in Latin-1, as older programs wrote them where the format says UTF-8."""
    title = b"M\xfcnchen bei Nacht"
    text = b"\x03" + title
    frame = b"TIT2" + len(text).to_bytes(4, "big") + b"\0\0" + text
    mp3 = b"ID3\x04\0\0" + len(frame).to_bytes(4, "big") + frame + muxed("mp3", "libmp3lame")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as made:
        made.metadata["title"] = "Munchen bei Nacht"
        track = made.add_stream("libx264", rate=25)
        track.width, track.height, track.pix_fmt = 32, 32, "yuv420p"
        for number in range(4):
            made.mux(track.encode(av.VideoFrame.from_ndarray(picture(number, 32, 32), format="rgb24")))
        made.mux(track.encode(None))
    named = file.getvalue()
    assert named.count(b"Munchen bei Nacht") == 1
    return {
        "mp3 with tags": ("sound", mp3),
        "mp4 with tags": ("video", named.replace(b"Munchen bei Nacht", title)),
    }


# what they are sent as, and how they are made
_MADE: dict[str, tuple[Kind, Callable[[], bytes]]] = {
    "png": ("image", lambda: still("PNG")),
    "jpeg": ("image", lambda: still("JPEG")),
    "jpeg, progressive": ("image", lambda: still("JPEG", progressive=True)),
    "webp": ("image", lambda: still("WEBP")),
    "webp, lossless": ("image", lambda: still("WEBP", lossless=True)),
    "webp that moves": ("image", lambda: moving("WEBP")),
    "gif": ("image", lambda: still("GIF")),
    "bmp": ("image", lambda: still("BMP")),
    "tiff": ("image", lambda: still("TIFF")),
    "tiff, deflated": ("image", lambda: still("TIFF", compression="tiff_deflate")),
    "tiff, LZW": ("image", lambda: still("TIFF", compression="tiff_lzw")),
    "png that moves": ("image", lambda: moving("PNG")),
    "mp4": ("video", lambda: film("libx264", "mp4")),
    "mp4 with sound": ("video", lambda: film("libx264", "mp4", sound=True)),
    "fragmented mp4": (
        "video",
        lambda: film("libx264", "mp4", muxer={"movflags": "frag_keyframe+empty_moov"}),
    ),
    "webm": ("video", lambda: film("libvpx", "webm")),
    "mkv": ("video", lambda: film("mpeg4", "matroska")),
    "avi": ("video", lambda: film("mpeg4", "avi")),
    "mpeg-ts": ("video", lambda: film("mpeg2video", "mpegts", num_frames=9)),
    "flv": ("video", lambda: film("flv", "flv")),
    "gif that moves": ("video", lambda: moving("GIF")),
    "wav": ("sound", lambda: plain("WAV")),
    "wav, float": ("sound", lambda: plain("WAV", "FLOAT")),
    "flac": ("sound", lambda: plain("FLAC")),
    "aiff": ("sound", lambda: plain("AIFF")),
    "au": ("sound", lambda: plain("AU")),
    "vorbis": ("sound", lambda: plain("OGG", "VORBIS")),
    "mp3": ("sound", lambda: muxed("mp3", "libmp3lame")),
    "opus": ("sound", lambda: muxed("ogg", "libopus", 48_000)),
    "aac": ("sound", lambda: muxed("adts", "aac")),
    "m4a": ("sound", lambda: muxed("mp4", "aac")),
    "opus in webm": ("sound", lambda: muxed("webm", "libopus", 48_000)),
}


@cache
def whole_files() -> dict[str, tuple[Kind, bytes]]:
    """name -> (what it is sent as, its bytes)."""
    made = {name: (kind, make()) for name, (kind, make) in _MADE.items()}
    if reads_avif():
        made["avif"] = ("image", still("AVIF"))
    return made
