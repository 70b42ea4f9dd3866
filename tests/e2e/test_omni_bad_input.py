"""Bad media are a 400 that names the item and the limit, soon, while a text stream beside them notices nothing."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sglang_nemotron.cli.server import ServerProcess
from support.omni_media import film, photo, recording
from support.omni_requests import (
    Wish,
    difference,
    holdings,
    part,
    tell,
    text,
    uri,
)
from support.serving import OMNI, post
from support.waiting import NET_S, eventually

CHAT, GENERATE = "/v1/chat/completions", "/generate"
IMAGE_ID = 18
# of the stream beside them; up to 1,100 came while everything was refused
STREAM_TOKENS = 2400
# of the bad items, those that take longest: a stream that runs has tokens meanwhile, and has them at the next try
SLOW_ITEMS, TRIES = 6, 5


# ---- files


@cache
def good() -> dict[str, Any]:
    return part("image", photo(300, 200, seed=1), "png")


@cache
def small() -> dict[str, Any]:
    return part("image", photo(20, 20, seed=1), "png")


@cache
def clip() -> bytes:
    return film(64, 48, seed=2, num_frames=12)


def png(width: int, height: int) -> bytes:
    """Claims this size, and holds one row of nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


def gif_bomb() -> bytes:
    """A canvas of 65,535 x 65,535 in 40 bytes."""
    return b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0x80, 0, 0) + bytes(6) + b"," + bytes(20) + b";"


def without_frames() -> bytes:
    """A film whose tables of samples are emptied."""
    data = bytearray(clip())
    for table, skip in ((b"stsz", 8), (b"stco", 4), (b"stts", 4), (b"stsc", 4), (b"stss", 4), (b"ctts", 4)):
        at = data.find(table)
        if at >= 0:
            data[at + 4 + skip : at + 8 + skip] = bytes(4)
    return bytes(data)


def wav(samples_S: np.ndarray, rate: int = 16_000, **more: Any) -> bytes:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, samples_S, rate, **{"format": "WAV", **more})
    return file.getvalue()


def not_a_number() -> bytes:
    samples_S = np.zeros(16_000, np.float32)
    samples_S[9_000] = np.nan
    return wav(samples_S, subtype="FLOAT")


@cache
def silence(seconds: int) -> bytes:
    """FLAC at 8 kHz: some KB an hour."""
    return wav(np.zeros(8000 * seconds, np.int16), 8000, format="FLAC")


def claiming_hours() -> bytes:
    """8 bits at 8 kHz, a second of them, of which the header makes three hours."""
    data = bytearray(wav(np.zeros(8000, np.float32), 8000, subtype="PCM_U8"))
    struct.pack_into("<I", data, data.find(b"data") + 4, 3 * 3600 * 8000)
    return bytes(data)


def long_thin() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (1, 400_000)).save(file, "PNG")
    return file.getvalue()


# ---- requests


def chat(*parts: dict[str, Any], **options: Any) -> tuple[str, dict[str, Any]]:
    messages = [{"role": "user", "content": [*parts, text("What is it?")]}]
    return CHAT, {"model": "x", "max_tokens": 4, "messages": messages, **options}


def image(data: bytes, *, label: str = "png") -> tuple[str, dict[str, Any]]:
    return chat(part("image", data, label))


def video(data: bytes) -> tuple[str, dict[str, Any]]:
    return chat(part("video", data, "mp4"))


def audio(data: bytes, *, label: str = "wav") -> tuple[str, dict[str, Any]]:
    return chat(part("audio", data, label))


def url(kind: str, address: str) -> tuple[str, dict[str, Any]]:
    return chat({"type": f"{kind}_url", f"{kind}_url": {"url": address}})


def generate(ids: list[int], **media: Any) -> tuple[str, dict[str, Any]]:
    return GENERATE, {"input_ids": ids, "sampling_params": {"max_new_tokens": 2}, **media}


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# name -> (request, words of the message); made when they are sent
Bad = tuple[Callable[[], tuple[str, dict[str, Any]]], tuple[str, ...]]
BAD: dict[str, Bad] = {
    "truncated PNG": (lambda: image(photo(300, 200, seed=3)[:9000]), ("image 1: damaged or incomplete",)),
    "truncated JPEG": (
        lambda: image(photo(300, 200, seed=3, kind="JPEG")[:4000]),
        ("image 1: damaged or incomplete",),
    ),
    "empty image": (lambda: image(b""), ("image 1: the file is empty",)),
    "empty video": (lambda: video(b""), ("video 1: the file is empty",)),
    "empty audio": (lambda: audio(b""), ("audio 1: the file is empty",)),
    "sound called an image": (lambda: image(recording(0.5, seed=4)), ("image 1: not an image", "send PNG, JPEG")),
    "image called a video": (lambda: video(photo(60, 60, seed=4)), ("video 1: is not a video", "containers mov")),
    "video called a sound": (lambda: audio(clip()), ("audio 1: the file has no audio track",)),
    "text called an MP3": (
        lambda: audio(b"I am no song, but a letter.\n" * 200, label="mpeg"),
        ("audio 1: not an audio file", "WAV, MP3"),
    ),
    "PNG of 60,000 x 60,000": (
        lambda: image(png(60_000, 60_000)),
        ("image 1: claims 3,600,000,000 pixels", "at most 89,478,485 pixels"),
    ),
    "GIF bomb": (
        lambda: image(gif_bomb(), label="gif"),
        ("image 1: claims 4,294,836,225 pixels", "at most 89,478,485"),
    ),
    "1 x 400,000": (lambda: image(long_thin()), ("image 1: 1 x 400000 pixels", "13312 times the short one")),
    "the second of two images": (
        lambda: chat(good(), part("image", png(60_000, 60_000), "png")),
        ("image 2: claims 3,600,000,000 pixels", "at most 89,478,485 pixels"),
    ),
    "video without frames": (lambda: video(without_frames()), ("video 1: has a video track without frames",)),
    "video without a table of contents": (lambda: video(clip()[: len(clip()) // 2]), ("video 1: ", "cut off")),
    "sound called a video": (
        lambda: video(recording(0.5, seed=4)),
        ("video 1: has no video track, only audio", "send sound as audio"),
    ),
    "NaN samples": (lambda: audio(not_a_number()), ("audio 1: holds a NaN", "samples must be finite")),
    "0.01 s of audio": (lambda: audio(recording(0.01, seed=5)), ("audio 1: lasts 0.010 s", "at least 0.1 s")),
    "half a WAV": (
        lambda: audio(recording(3, seed=5)[:48_000]),
        ("audio 1: truncated: the header promises 3.00 s",),
    ),
    "three hours of audio": (lambda: audio(silence(3 * 3600)), ("audio 1: lasts 10800.0 s", "at most 3600 s")),
    "a claim of three hours": (lambda: audio(claiming_hours()), ("audio 1: lasts 10800.0 s", "at most 3600 s")),
    "nobody at the address": (
        lambda: url("image", f"http://127.0.0.1:{closed_port()}/a.png"),
        ("image 1: cannot be fetched: 127.0.0.1: Connection refused", "30 s at most"),
    ),
    "no such file": (lambda: url("video", "file:///no/such/file.mp4"), ("video 1: it names a file of the server",)),
    "a device": (lambda: url("audio", "file:///dev/zero"), ("audio 1: it names a file of the server",)),
    "a folder": (lambda: url("image", "file:///tmp"), ("image 1: it names a file of the server",)),
    "another scheme": (lambda: url("image", "ftp://127.0.0.1/a.png"), ("image 1: ftp: is no scheme",)),
    "bad base64": (lambda: url("image", "data:image/png;base64,@@@@"), ("image 1: '@@@@'", "no base64")),
    "base64 that ends early": (
        lambda: url("image", uri("image", photo(60, 60, seed=6), "png")[:-3]),
        ("image 1: '", "is no URL, no file here and no base64"),
    ),
    "a data URI without data": (lambda: url("audio", "data:audio/wav"), ("audio 1: the data URI has no comma",)),
    "long base64 with a hole": (
        lambda: url("video", uri("video", os.urandom(600_000), "mp4")[:-200_000] + "*" + "A" * 199_999),
        ("video 1: '", "is no URL, no file here and no base64"),
    ),
    "audio beyond the context": (
        lambda: audio(silence(3000)),
        ("audio 1: the prompt needs 37540 tokens or more", "at most 32761 fit"),
    ),
    "images beyond the context": (
        lambda: chat(*[small()] * 130),
        ("image 113: the prompt needs 32853 tokens or more", "at most 32761 fit"),
    ),
    "too many images to look at": (
        lambda: chat(*[small()] * 300),
        ("300 media items: the prompt needs 42529 tokens or more", "at most 32761 fit"),
    ),
    "more items than slots": (
        lambda: generate([1001, IMAGE_ID, 1002], image_data=[photo_base64(), photo_base64()]),
        ("images: the prompt has 1 places for them, but 2 came",),
    ),
    "more slots than items": (
        lambda: generate([1001, IMAGE_ID, IMAGE_ID], image_data=[photo_base64()]),
        ("images: the prompt has 2 places for them, but 1 came",),
    ),
    "a slot and no item": (
        lambda: generate([1001, IMAGE_ID]),
        ("images: the prompt has 1 places for them, but 0 came",),
    ),
    "an item of another kind": (
        lambda: generate([1001, IMAGE_ID], audio_data=[photo_base64()]),
        ("images: the prompt has 1 places for them, but 0 came",),
    ),
    "an item of no kind": (
        lambda: generate([1001, IMAGE_ID], image_data=[{"picture": 1}]),
        ("unknown field `picture`", "expected one of `url`"),
    ),
    "fps": (
        lambda: chat(good(), media_io_kwargs={"video": {"fps": -2}}),
        ("media_io_kwargs.video.fps is -2", "above 0"),
    ),
    "fps of one video": (lambda: chat(part("video", clip(), "mp4", fps=2000)), ("video_url.fps is 2000", "up to 1000")),
    "pruning rate": (lambda: chat(good(), video_pruning_rate=1.5), ("video_pruning_rate is 1.5", "below 1")),
    "frames": (
        lambda: chat(good(), mm_processor_kwargs={"max_frames": 5000}),
        ("mm_processor_kwargs.max_frames is 5000", "1 to 512"),
    ),
    "image tokens": (lambda: chat(good(), max_image_tokens=3), ("max_image_tokens is 3", "from 256 to 3328")),
    "audio in video": (lambda: chat(good(), use_audio_in_video="maybe"), ("use_audio_in_video",)),
    "an unknown option": (
        lambda: chat(good(), mm_processor_kwargs={"zoom": 2}),
        ("mm_processor_kwargs.zoom is not known", "known here"),
    ),
    "two options that disagree": (
        lambda: chat(good(), video_pruning_rate=0.5, mm_processor_kwargs={"video_pruning_rate": 0.7}),
        ("give one of the two",),
    ),
}


def photo_base64() -> str:
    return base64.b64encode(photo(64, 64, seed=7)).decode()


def refused(address: str, bad: Bad, **options: Any) -> str | None:
    """What is wrong with the refusal; None if it is as it should be."""
    make, words = bad
    path, body = make()
    status, answer = post(address, path, {**body, **options})
    if status != 400:
        return f"{status} {answer[:300]}"
    error = json.loads(answer)
    # OpenAI's clients read the message from here, top-level or inside `error`
    inner = error.get("error", {})
    message = error.get("message") or (inner.get("message", "") if isinstance(inner, dict) else inner)
    if missing := [word for word in words if word not in message]:
        return f"{missing} is not in {message[:300]!r}"
    return None


class Stream(threading.Thread):
    """A text of many tokens, read beside the others."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        sampling = {"temperature": 0, "max_new_tokens": STREAM_TOKENS, "ignore_eos": True}
        body = {"input_ids": [1001, 1002, 1003], "stream": True, "sampling_params": sampling}
        self._request = urllib.request.Request(
            address + GENERATE, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        self.begun = threading.Event()
        self.output_ids: list[int] = []

    def run(self) -> None:
        with urllib.request.urlopen(self._request, timeout=NET_S) as reply:
            for line in reply:
                if line.startswith(b"data: {"):
                    self.output_ids = json.loads(line[len(b"data: ") :])["output_ids"]
                    self.begun.set()

    def goes_on_during(self, call: Callable[[], object]) -> bool:
        before = len(self.output_ids)
        call()
        return len(self.output_ids) > before


def goes_on(beside: Stream, server: ServerProcess, name: str) -> bool:
    return beside.goes_on_during(lambda: refused(server.url, BAD[name]))


@pytest.mark.server(OMNI)
def test_bad_media_beside_a_stream(server: ServerProcess) -> None:
    beside = Stream(server.url)
    beside.start()
    assert beside.begun.wait(NET_S)
    wish = Wish([{"role": "user", "content": [good(), text("Well?")]}])
    before = tell(server.url, wish)
    assert before is not None
    problems, seconds = {}, {}
    for name, bad in BAD.items():
        began = time.monotonic()
        problems[name] = refused(server.url, bad)
        seconds[name] = time.monotonic() - began
    slow = sorted(BAD, key=lambda name: -seconds[name])[:SLOW_ITEMS]
    stopped = [name for name in slow if not any(goes_on(beside, server, name) for _ in range(TRIES))]
    during = len(beside.output_ids)
    assert not any(problems.values()), "\n".join(f"{name}: {text}" for name, text in problems.items() if text)
    # right afterwards, a good one gets what it got before
    after = tell(server.url, wish)
    assert after is not None and difference(wish, after, before[0]) == (None, False)
    beside.join(NET_S)
    alone = Stream(server.url)
    alone.run()
    print(f"the stream had {during} tokens by then; the slowest: {[f'{name} {seconds[name]:.2f} s' for name in slow]}")
    assert len(alone.output_ids) == STREAM_TOKENS and beside.output_ids == alone.output_ids
    assert 50 < during < STREAM_TOKENS, "the stream was not running meanwhile"
    assert not stopped, f"the stream stood still while these were refused: {stopped}"
    assert holdings(server).left == ()
    assert server.returncode is None


@pytest.mark.server(OMNI)
def test_bad_media_of_a_stream_and_of_several(server: ServerProcess) -> None:
    """Before the first event of a stream there is still a status to give; n does not change the answer."""
    for name in ("truncated PNG", "NaN samples", "audio beyond the context", "pruning rate"):
        for options in ({"stream": True}, {"n": 2}):
            assert refused(server.url, BAD[name], **options) is None, (name, options)


@pytest.mark.server(OMNI)
def test_one_bad_item_among_good_ones_leaves_nothing(server: ServerProcess) -> None:
    """The others are measured already, or wait for a worker, when the third is refused."""
    items = [good(), part("video", clip(), "mp4"), part("image", b"no image", "png"), part("video", clip(), "mp4")]
    path, body = chat(*items, use_audio_in_video=True)
    status, answer = post(server.url, path, body)
    assert status == 400 and "image 2: not an image" in answer
    assert eventually(lambda: holdings(server).left == ()), holdings(server)


@pytest.mark.server(OMNI)
def test_several_choices_keep_all_items(server: ServerProcess) -> None:
    """Of two images, videos and sounds each; SGLang alone would refuse the images and lose the second of the others."""
    items = [
        part("image", photo(200, 100, seed=11), "png"),
        part("video", clip(), "mp4"),
        part("audio", recording(1.0, seed=12), "wav"),
        part("video", film(48, 80, seed=13, num_frames=6), "mp4"),
        part("audio", recording(0.5, seed=14), "wav"),
        part("image", photo(90, 220, seed=15), "png"),
    ]
    messages = [{"role": "user", "content": [*items, text("And?")]}]
    alone = tell(server.url, Wish(messages))
    assert alone is not None
    for stream in (False, True):
        wish = Wish(messages, n=3, stream=stream)
        said = tell(server.url, wish)
        assert said is not None and difference(wish, said, alone[0])[0] is None


@pytest.mark.server(OMNI)
def test_odd_media_that_are_served(server: ServerProcess) -> None:
    """What looks hostile and is not: a strip of 1 x 8000, sound in an image's clothes, one frame, one pixel."""
    strip = part("image", photo(1, 8000, seed=8), "png")
    path, body = chat(strip, part("image", photo(1, 1, seed=8), "png"))
    status, answer = post(server.url, path, body)
    # 716 x 2 patches of the strip and 32 x 32 of the dot
    assert status == 200 and json.loads(answer)["usage"]["prompt_tokens"] > 358 + 256, answer
    for request in (
        chat(part("audio", recording(0.2, seed=9, kind="OGG"), "mpeg"), part("image", photo(50, 50, seed=9), "jpeg")),
        chat(part("video", film(32, 32, seed=9, num_frames=1), "webm")),
    ):
        status, answer = post(server.url, *request)
        assert status == 200, answer


def test_files_of_this_file_are_what_they_say(tmp_path: Path) -> None:
    from PIL import Image

    assert Image.open(io.BytesIO(png(300, 200))).size == (300, 200)
    assert len(gif_bomb()) < 100 and len(silence(3 * 3600)) < 2 << 20
    assert b"data" in claiming_hours() and len(claiming_hours()) < 10_000
