"""A file that is sent as something else than it is gets named for what it is; pictures are read where Pillow can."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache

import av
import numpy as np
import pytest
from PIL import Image, features

from media.test_audio_file import SPEECH, muxed, tones, written
from sglang_nemotron.media.audio.file import read_audio
from sglang_nemotron.media.file_kinds import kind_of
from sglang_nemotron.media.image import file as image_file
from sglang_nemotron.media.image.file import read_image
from sglang_nemotron.media.video.file import VideoFile
from sglang_nemotron.prompt.errors import MediaError
from support.video_media import encode, picture
from support.waiting import PATIENT

READERS: dict[str, Callable[[bytes], object]] = {
    "video": lambda data: VideoFile(data, name="item 1", limits=PATIENT),
    "audio": lambda data: read_audio(data, name="item 1"),
    "image": lambda data: read_image(data, name="item 1"),
}
VIDEO_CONTAINERS = "containers mov, matroska, gif, avi, mpegts, mpeg, flv, ogg, asf"
SOUND_FORMATS = "WAV, MP3, FLAC, OGG, or AAC or Opus in MP4, WebM or MKV"
NO_TRACK = "has no video track, only audio"


AVIF_HEADER = b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(200)


def still(kind: str) -> bytes:
    if kind == "AVIF" and not image_file.reads_avif():
        return AVIF_HEADER
    file = io.BytesIO()
    Image.fromarray(picture(0, 64, 48)).save(file, kind)
    return file.getvalue()


def sound(kind: str, codec: str = "", subtype: str | None = None) -> bytes:
    voice = tones(48_000, 1, 0.5)
    return muxed(kind, codec, voice) if codec else written(voice, 48_000, kind, subtype)


def song_with_cover() -> bytes:
    """An M4A as music shops sell it: its cover is a video track of one picture."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        track = container.add_stream("aac", rate=48_000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(picture(0, 64, 48), format="rgb24")
        frame.pts = 0
        packets = [*cover.encode(frame), *cover.encode(None)]
        voice = av.AudioFrame.from_ndarray(np.zeros((1, 48_000), np.float32), format="fltp", layout="mono")
        voice.sample_rate = 48_000
        container.mux([*packets, *track.encode(voice), *track.encode(None)])
    # FFmpeg's muxer of this brand takes covers from its own command line alone
    return file.getvalue().replace(b"ftypisom", b"ftypM4A ", 1)


@cache
def files() -> dict[str, bytes]:
    return {
        **{kind: still(kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")},
        "m4a": sound("ipod", "aac"),
        "m4a with a cover": song_with_cover(),
        "sound in mp4": sound("mp4", "aac"),
        "sound in webm": sound("webm", "libopus"),
        "ogg": sound("OGG", subtype="VORBIS"),
        "opus": sound("ogg", "libopus"),
        "mp3": SPEECH,
        "aac": sound("adts", "aac"),
        "wav": sound("WAV"),
        "flac": sound("FLAC"),
        "aiff": sound("AIFF"),
        "mp4": encode(4),
        "webm": encode(4, codec="libvpx", container="webm"),
        "avi": encode(4, codec="mpeg4", container="avi"),
        "html": b"\n <!DOCTYPE html><html lang=en><title>404</title></html>",
        "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
        "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(500),
        "json": b'{"error": "not found"}',
        "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500),
    }


# (file, sent as): what the error says behind the item's name
SAYS = {
    ("m4a", "video"): f"{NO_TRACK}: it is an M4A file (send sound as audio)",
    ("m4a with a cover", "video"): f"{NO_TRACK}: it is an M4A file (send sound as audio)",
    ("sound in mp4", "video"): f"{NO_TRACK} (send sound as audio)",
    ("sound in webm", "video"): f"{NO_TRACK} (send sound as audio)",
    ("ogg", "video"): f"{NO_TRACK} (send sound as audio)",
    ("opus", "video"): f"{NO_TRACK} (send sound as audio)",
    ("mp3", "video"): f"{NO_TRACK}: it is an MP3 file (send sound as audio)",
    ("aac", "video"): f"{NO_TRACK}: it is an AAC file (send sound as audio)",
    ("wav", "video"): f"{NO_TRACK}: it is a WAV file (send sound as audio)",
    ("flac", "video"): f"{NO_TRACK}: it is a FLAC file (send sound as audio)",
    ("aiff", "video"): f"{NO_TRACK}: it is an AIFF file (send sound as audio)",
    **{
        (
            kind,
            "video",
        ): f"is not a video file, but {label} (send it as an image, or send one of the {VIDEO_CONTAINERS})"
        for kind, label in (("PNG", "a PNG picture"), ("WEBP", "a WebP picture"), ("AVIF", "an AVIF picture"))
    },
    ("heic", "video"): f"is not a video file, but a HEIC picture (send it as an image, or send one of the "
    f"{VIDEO_CONTAINERS})",
    ("html", "video"): f"is not a video file, but an HTML page (send one of the {VIDEO_CONTAINERS})",
    **{
        (kind, "audio"): f"not an audio file, but {label} (send it as an image, or send {SOUND_FORMATS})"
        for kind, label in (("JPEG", "a JPEG picture"), ("GIF", "a GIF picture"), ("AVIF", "an AVIF picture"))
    },
    ("mp4", "audio"): "the file has no audio track, only video (send it as a video)",
    ("webm", "audio"): "the file has no audio track, only video (send it as a video)",
    ("pdf", "audio"): f"not an audio file, but a PDF document (send {SOUND_FORMATS})",
    (
        "mp4",
        "image",
    ): "not an image, but an MP4 or QuickTime file (send it as a video, or as audio if it is only heard, "
    "or send {pictures})",
    ("avi", "image"): "not an image, but an AVI file (send it as a video, or as audio if it is only heard, or send "
    "{pictures})",
    ("m4a", "image"): "not an image, but an M4A file (send it as audio, or send {pictures})",
    ("wav", "image"): "not an image, but a WAV file (send it as audio, or send {pictures})",
    ("mp3", "image"): "not an image, but an MP3 file (send it as audio, or send {pictures})",
    ("svg", "image"): "not an image, but an SVG drawing (send {pictures})",
    ("json", "image"): "not an image, but JSON (send {pictures})",
    ("heic", "image"): "a HEIC picture, which is not read (send {pictures})",
}


@pytest.mark.parametrize(("kind", "wanted"), SAYS)
def test_a_file_sent_as_something_else_is_named(kind: str, wanted: str) -> None:
    with pytest.raises(MediaError) as caught:
        READERS[wanted](files()[kind])
    assert str(caught.value) == "item 1: " + SAYS[kind, wanted].format(pictures=image_file.format_names())


READ = {
    "video": {"mp4", "webm", "avi", "GIF"},
    "audio": {
        *("m4a", "m4a with a cover", "sound in mp4", "sound in webm"),
        *("ogg", "opus", "mp3", "aac", "wav"),
        "flac",
        "aiff",
    },
    "image": {"PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"},
}


@pytest.mark.parametrize("wanted", READERS)
def test_what_is_read_and_what_is_not(wanted: str) -> None:
    """Every file as every kind: read, or refused by name; nothing is named for what it was sent as."""
    read = READ[wanted] if image_file.reads_avif() else READ[wanted] - {"AVIF"}
    for kind, data in files().items():
        if kind in read:
            READERS[wanted](data)
            continue
        with pytest.raises(MediaError, match=r"^item 1: .+\(.+\)$"):
            READERS[wanted](data)


def test_noise_is_seldom_called_anything() -> None:
    """Of random bytes, those that look like the begin of an MP3 frame, or of a BMP, are one in a few hundred."""
    noise = np.random.default_rng(3)
    named = sum(kind_of(noise.bytes(400)) is not None for _ in range(2000))
    assert named < 40
    assert [kind_of(data) for data in (b"", b"\0", b"R", b"RIFF", b"\xff", b"hello", b"\0\0\0\0mdat")] == [None] * 7


# ---- AVIF


needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")


@needs_avif
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_avif_equals_the_reference(mode: str) -> None:
    file = io.BytesIO()
    Image.fromarray(picture(3, 90, 50)).convert(mode).save(file, "AVIF", quality=70)
    expected = np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB"))
    np.testing.assert_array_equal(read_image(file.getvalue(), name="image 1"), expected)


@needs_avif
def test_the_first_picture_of_an_avif_that_moves() -> None:
    file = io.BytesIO()
    shots = [Image.fromarray(np.full((32, 32, 3), shade, np.uint8)) for shade in (40, 200)]
    shots[0].save(file, "AVIF", save_all=True, append_images=shots[1:])
    assert abs(int(read_image(file.getvalue(), name="image 1")[16, 16, 0]) - 40) < 3
    with pytest.raises(MediaError, match="is not a video file, but an AVIF picture"):
        VideoFile(file.getvalue(), name="video 1", limits=PATIENT)


def test_avif_is_refused_by_name_where_pillow_cannot_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever Pillow is here: a header is enough to know one."""
    monkeypatch.setattr(image_file, "reads_avif", lambda: False)
    with pytest.raises(MediaError) as caught:
        read_image(AVIF_HEADER, name="image 2")
    assert str(caught.value) == (
        "image 2: an AVIF picture, which this server's Pillow cannot read "
        "(install Pillow 11.3 or later, or send PNG, JPEG, WebP, GIF, BMP or TIFF)"
    )
    with pytest.raises(MediaError, match=r"send PNG, JPEG, WebP, GIF, BMP or TIFF\)$"):
        read_image(b"", name="image 2")
