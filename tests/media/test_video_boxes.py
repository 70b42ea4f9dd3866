"""Which files are opened without decoding a frame, and that the others would lose some."""

from __future__ import annotations

import functools
import io
import re

import av
import numpy as np
import pytest

from sglang_nemotron.media.video import file as video_file
from sglang_nemotron.media.video.file import VideoFile
from sglang_nemotron.media.video.index import is_whole
from support.video_media import decode_all, encode
from support.waiting import PATIENT

REORDERED = {"preset": "medium", "g": "24", "bf": "3", "b_strategy": "0"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}


def unhinted(data: bytes) -> bytes:
    """The MP4 without H.264's own word on how many frames may be out of order, as many cameras leave it out.

    x264 writes it last: a flag, three constants and the greatest length of motion vectors, twice.
    """
    at = data.index(b"avcC") + 10
    length, at = int.from_bytes(data[at : at + 2], "big"), at + 2
    bits = "".join(f"{byte:08b}" for byte in data[at : at + length])
    flag = [found.start() for found in re.finditer(r"1111(000\d{4})\1", bits)][-1]
    patched = bytearray(data)
    patched[at + flag // 8] ^= 128 >> flag % 8
    return bytes(patched)


def moved(data: bytes, container: str, options: dict[str, str] | None = None) -> bytes:
    """The same packets in another file."""
    out = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(out, "w", format=container, options=options or {}) as file:
        stream = file.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                file.mux(packet)
    return out.getvalue()


@functools.cache
def hinted() -> bytes:
    """Made once: two encodings of the same pictures by several threads are not always equal."""
    return encode(60, options=REORDERED)


FILES = {
    "hint": hinted,
    "no hint": lambda: unhinted(hinted()),
    "no hint, in fragments": lambda: moved(unhinted(hinted()), "mp4", FRAGMENTS),
    "no hint, matroska": lambda: moved(unhinted(hinted()), "matroska"),
    "no hint, transport stream": lambda: moved(unhinted(hinted()), "mpegts"),
}


def frames(data: bytes) -> list[np.ndarray]:
    with VideoFile(data, name="video 1", limits=PATIENT) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.frames(list(range(file.num_frames)))]


@pytest.mark.parametrize("kind", FILES)
def test_every_frame_is_there(kind: str) -> None:
    expected = decode_all(hinted())
    got = frames(FILES[kind]())
    assert len(got) == 60 and all(np.array_equal(one, other) for one, other in zip(got, expected, strict=True))


@pytest.mark.parametrize("kind", FILES)
def test_the_shortcut_anywhere_else_would_lose_frames(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_file, "is_whole", lambda file: True)
    expected = decode_all(hinted())
    same = [np.array_equal(one, other) for one, other in zip(frames(FILES[kind]()), expected, strict=True)]
    assert all(same) == (kind in ("hint", "no hint"))


def test_a_file_that_is_not_h264_is_opened_anew() -> None:
    data = encode(30, codec="libx265", options={"preset": "fast", "x265-params": "log-level=none"})
    assert is_whole(io.BytesIO(data))
    expected = decode_all(data)
    assert all(np.array_equal(one, other) for one, other in zip(frames(data), expected, strict=True))


def test_whole_files() -> None:
    data = encode(10)
    long_box = (1).to_bytes(4, "big") + b"free" + (24).to_bytes(8, "big") + bytes(8)
    assert is_whole(io.BytesIO(data)) and is_whole(io.BytesIO(data + long_box))
    # the last box may go on to the end
    assert is_whole(io.BytesIO(data + bytes(4) + b"free" + bytes(100)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(100),
        encode(10) + (1).to_bytes(4, "big") + b"free" + (8).to_bytes(8, "big"),
        encode(10)[:-1],
        encode(10) + b"\x00",
        encode(10, container="matroska"),
        moved(encode(10), "mp4", FRAGMENTS),
        (8).to_bytes(4, "big") + b"ftyp" + ((8).to_bytes(4, "big") + b"free") * 1_000_000,
    ],
    ids=[
        "empty",
        "zeros",
        "a long box shorter than its head",
        "cut off",
        "a byte too many",
        "matroska",
        "fragments",
        "boxes without end",
    ],
)
def test_other_files(data: bytes) -> None:
    assert not is_whole(io.BytesIO(data))


@pytest.mark.parametrize("size", [(320, 200), (60000, 10), (0, 0)])
def test_a_header_with_a_wrong_size_is_not_believed(size: tuple[int, int]) -> None:
    data = encode(10)
    # width and height of the sample entry: ISO/IEC 14496-12, section 12.1.3
    at = data.index(b"avc1", data.index(b"stsd")) + 28
    assert data[at : at + 4] == (160).to_bytes(2, "big") + (96).to_bytes(2, "big")
    patched = data[:at] + size[0].to_bytes(2, "big") + size[1].to_bytes(2, "big") + data[at + 4 :]
    assert all(np.array_equal(one, other) for one, other in zip(frames(patched), decode_all(data), strict=True))
