"""Files of every format become the samples that librosa reads, and bad ones an error that names item and limit.

Shape letters: S samples, C channels.
"""

from __future__ import annotations

import dataclasses
import io
import pickle
import struct
import threading
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import librosa
import numpy as np
import pytest
import soundfile
import torch

from sglang_nemotron.media.audio.decode import has_audio
from sglang_nemotron.media.audio.file import read_audio, read_sound
from sglang_nemotron.media.audio.mel import sound
from sglang_nemotron.prompt.errors import MediaError
from sglang_nemotron.prompt.options import MediaLimits
from support.costs import assert_cheap, cost, memory_peak
from support.published import SPEC

RULE = SPEC.audio
SPEECH = (Path(__file__).parents[1] / "data" / "media" / "speech.mp3").read_bytes()
MEBIBYTE = 2**20
# two decoders of the same lossy file: a quarter of a 16-bit step (ISO/IEC 11172-4 allows a right one 8 times as much)
DECODERS = 2.0**-17


def tones(rate: int, channels: int = 1, seconds: float = 1.0) -> np.ndarray:
    """(S, C): another tone in each channel, over a little noise."""
    time_S1 = np.arange(round(rate * seconds))[:, None] / rate
    noise = np.random.default_rng(rate).normal(0, 1e-3, (len(time_S1), channels))
    return (0.4 * np.sin(2 * np.pi * (300 + 200 * np.arange(channels)) * time_S1) + noise).astype(np.float32)


def written(samples_SC: np.ndarray, rate: int, kind: str, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples_SC, rate, format=kind, subtype=subtype)
    return file.getvalue()


def muxed(kind: str, codec: str, samples_SC: np.ndarray | None, rate: int = 48_000, video: bool = False) -> bytes:
    """A container by PyAV, with an audio track (or None) and perhaps a track of pictures."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        pictures = container.add_stream("mpeg4", rate=10) if video else None
        track = None
        if samples_SC is not None:
            layout = {1: "mono", 2: "stereo", 6: "5.1"}[samples_SC.shape[1]]
            track = container.add_stream(codec, rate=rate, layout=layout)
        if pictures is not None:
            pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
            for number in range(10):
                image = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * number, np.uint8), format="rgb24")
                image.pts, image.time_base = number, Fraction(1, 10)
                container.mux(pictures.encode(image))
            container.mux(pictures.encode(None))
        if track is not None:
            resampler = av.AudioResampler(format=track.codec_context.format, layout=layout, rate=rate)
            for start in range(0, len(samples_SC), 4800):
                piece = np.ascontiguousarray(samples_SC[start : start + 4800].T)
                frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=layout)
                frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
                for ready in resampler.resample(frame):
                    container.mux(track.encode(ready))
            container.mux(track.encode(None))
    return file.getvalue()


def likeness(samples_S: np.ndarray, wanted_S: np.ndarray) -> float:
    """Share of the wanted signal's energy that is there, at the same place (1.0 is all)."""
    length = min(len(samples_S), len(wanted_S))
    error = samples_S[:length].astype(np.float64) - wanted_S[:length]
    return 1.0 - float((error**2).sum() / (wanted_S[:length].astype(np.float64) ** 2).sum())


def refusal(data: bytes, limits: MediaLimits | None = None) -> MediaError:
    """The error both readers give, which must be the same, must cross processes and must leave no thread behind."""
    before = threading.active_count()
    with pytest.raises(MediaError) as first:
        read_audio(data, name="audio 2", limits=limits)
    with pytest.raises(MediaError) as second:
        read_sound(data, RULE, name="audio 2", limits=limits)
    assert str(first.value) == str(second.value) == str(pickle.loads(pickle.dumps(first.value)))
    assert str(first.value).startswith("audio 2: ")
    assert threading.active_count() == before
    return first.value


PLAIN = [
    *(("WAV", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM")),
    *(("WAVEX", subtype) for subtype in ("PCM_16", "PCM_24", "FLOAT")),
    *(("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("AIFF", "PCM_16"), ("RF64", "PCM_16"), ("AU", "PCM_16")),
]


@pytest.mark.parametrize(
    ("kind", "subtype", "rate", "channels"),
    [
        (kind, subtype, rate, channels)
        for kind, subtype in PLAIN
        for rate, channels in [(16_000, 1), (44_100, 2), (8000, 1), (48_000, 6)]
        # this format has no more than two channels
        if channels <= 2 or subtype != "IMA_ADPCM"
    ],
)
def test_plain_files_are_what_librosa_loads_bit_for_bit(kind: str, subtype: str, rate: int, channels: int) -> None:
    # longer than two blocks
    data = written(tones(rate, channels, 140_001 / rate), rate, kind, subtype)
    samples_S = read_audio(data, name="audio 1")
    wanted_S, _ = librosa.load(io.BytesIO(data), sr=16_000)
    assert samples_S.dtype == np.float32 and np.array_equal(samples_S, wanted_S)


@pytest.mark.parametrize(("kind", "rates"), [("MP3", (16_000, 22_050, 44_100)), ("OGG", (8000, 22_050, 48_000))])
@pytest.mark.parametrize("channels", [1, 2])
def test_mp3_and_vorbis_are_what_librosa_loads_but_for_rounding(
    kind: str, rates: tuple[int, ...], channels: int
) -> None:
    for rate in rates:
        data = written(tones(rate, channels, 140_001 / rate), rate, kind)
        samples_S = read_audio(data, name="audio 1")
        wanted_S, _ = librosa.load(io.BytesIO(data), sr=16_000)
        assert samples_S.shape == wanted_S.shape and np.abs(samples_S - wanted_S).max() < DECODERS


@pytest.mark.parametrize("rate", [11_025, 12_000, 22_050, 24_000, 32_000, 88_200, 96_000, 192_000])
def test_any_rate(rate: int) -> None:
    data = written(tones(rate, 2), rate, "WAV", "FLOAT")
    assert np.array_equal(read_audio(data, name="audio 1"), librosa.load(io.BytesIO(data), sr=16_000)[0])


LOSSLESS = [
    ("mov", "alac"),
    ("matroska", "pcm_s16le"),
    ("matroska", "flac"),
    ("avi", "pcm_s16le"),
    ("mov", "pcm_s24le"),
]
LOSSY = [("mp4", "aac"), ("ipod", "aac"), ("adts", "aac"), ("matroska", "aac"), ("webm", "libopus"), ("ogg", "libopus")]


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize(("kind", "codec"), LOSSLESS)
def test_lossless_tracks_of_containers_are_the_file_without_them(kind: str, codec: str, channels: int) -> None:
    samples_SC = np.round(tones(48_000, channels) * 32_768).clip(-32_768, 32_767).astype(np.float32) / 32_768
    samples_S = read_audio(muxed(kind, codec, samples_SC), name="audio 1")
    wanted_S = read_audio(written(samples_SC, 48_000, "WAV", "PCM_24"), name="audio 1")
    # soxr's blocks begin elsewhere, which is nothing to it; the channels of 5.1 may be stored in another order
    assert len(samples_S) == len(wanted_S) and np.abs(samples_S - wanted_S).max() < 1e-6


@pytest.mark.parametrize(
    ("kind", "codec", "video"),
    # the others hold no pictures, or none that the encoder of pictures here makes
    [(*lossy, False) for lossy in LOSSY] + [(*lossy, True) for lossy in LOSSY if lossy[0] in {"mp4", "matroska"}],
)
def test_lossy_tracks_of_containers_and_videos(kind: str, codec: str, video: bool) -> None:
    samples_SC = tones(48_000, 2, 2.0)
    samples_S = read_audio(muxed(kind, codec, samples_SC, video=video), name="audio 1")
    wanted_S = librosa.resample(samples_SC.mean(1), orig_sr=48_000, target_sr=16_000)
    if kind == "adts":
        # a bare stream of AAC cannot say that its first 1,024 samples only fill the encoder
        samples_S = samples_S[1024 // 3 :]
    assert abs(len(samples_S) - len(wanted_S)) <= 1024
    assert likeness(samples_S, wanted_S) > 0.99
    assert likeness(np.roll(samples_S, 8), wanted_S) < 0.9


def test_speech_from_bytes_to_tokens() -> None:
    measured = read_sound(SPEECH, RULE, name="audio 1")
    wanted_S, _ = librosa.load(io.BytesIO(SPEECH), sr=16_000)
    samples_S = read_audio(SPEECH, name="audio 1")
    assert samples_S.shape == wanted_S.shape and np.abs(samples_S - wanted_S).max() < DECODERS
    assert measured.num_frames_N == (484,) and measured.num_tokens == 61


@pytest.mark.parametrize("data", [SPEECH, written(tones(44_100, 2, 61.0), 44_100, "WAV", "PCM_16")])
@pytest.mark.parametrize("threads", [1, 2])
def test_measuring_while_decoding_changes_nothing(data: bytes, threads: int) -> None:
    before = threading.active_count()
    measured = read_sound(data, RULE, name="audio 1", threads=threads)
    whole = sound(read_audio(data, name="audio 1"), RULE)
    assert torch.equal(measured.feature, whole.feature) and measured.tokens_N == whole.tokens_N
    assert threading.active_count() == before


def test_the_bytes_say_what_a_file_is() -> None:
    """An MP3 is read whether or not a tag comes first; a stream whose writer did not know its length, to its end."""
    tag = b"ID3\x03\x00\x00" + bytes([0, 0, 1, 0]) + bytes(128)
    assert np.array_equal(read_audio(tag + SPEECH, name="audio 1"), read_audio(SPEECH, name="audio 1"))
    whole = written(tones(16_000), 16_000, "WAV", "PCM_16")
    place = whole.index(b"data") + 4
    for size in (0, 0x7FFF_FFFF, 0xFFFF_FFFF):
        stream = whole[:place] + struct.pack("<I", size) + whole[place + 4 :]
        assert np.array_equal(read_audio(stream, name="audio 1"), read_audio(whole, name="audio 1")), size


WAV = written(tones(16_000, 2, 3.0), 16_000, "WAV", "PCM_16")
AAC = muxed("mp4", "aac", tones(48_000, 2, 3.0))


def header(offset: int, code: str, value: int) -> bytes:
    """WAV with another number in its fmt chunk."""
    return WAV[:offset] + struct.pack(code, value) + WAV[offset + struct.calcsize(code) :]


NO_AUDIO_FILE = "not an audio file that can be read (WAV, MP3, FLAC, OGG, or AAC or Opus in MP4, WebM or MKV)"
# name -> (file, words of the message: ours alone, no library's)
BAD = {
    "empty": (b"", "the file is empty"),
    "one byte": (b"R", NO_AUDIO_FILE),
    "zeros": (bytes(100_000), NO_AUDIO_FILE),
    "a text file": (b"This is not an MP3 but a letter.\n" * 4000, NO_AUDIO_FILE),
    "noise": (np.random.default_rng(0).bytes(200_000), NO_AUDIO_FILE),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(1000), "not an audio file, but a PNG picture (send it as an image, "),
    "a playlist": (
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
        "not an audio file, but a playlist, which is not followed (send WAV, ",
    ),
    "a list of files": (b"ffconcat version 1.0\nfile '/etc/hostname'\n", NO_AUDIO_FILE),
    "an MP3's first bytes, then text": (SPEECH[:40] + b"and then a letter\n" * 4000, NO_AUDIO_FILE),
    "a header alone": (WAV[:44], "truncated: the header promises 3.00 s, 0.00 s are there"),
    "a WAV without samples": (written(np.zeros((0, 1)), 16_000, "WAV", "PCM_16"), "the file holds no audio samples"),
    "half a WAV": (WAV[: len(WAV) // 2], "truncated: the header promises 3.00 s, 1.50 s are there"),
    "half a FLAC": (
        (lambda data: data[: len(data) // 2])(written(tones(16_000, 1, 3.0), 16_000, "FLAC")),
        "damaged after 0.0 s: ",
    ),
    "half an MP4": (AAC[: len(AAC) // 2], NO_AUDIO_FILE),
    "half an MKV": (
        (lambda data: data[: len(data) // 2])(muxed("matroska", "flac", tones(48_000, 2, 3.0))),
        "truncated: the header promises 3.00 s, 1.44 s are there",
    ),
    "an MP4 of 0 bytes of sound": (AAC[:40], NO_AUDIO_FILE),
    "a video without sound": (muxed("mp4", "", None, video=True), "the file has no audio track"),
    "a rate of 0": (header(24, "<I", 0), NO_AUDIO_FILE),
    "a rate of 1 Hz": (header(24, "<I", 1), "sample rate of 1 Hz (from 1000 to 384000 Hz)"),
    "a rate of 2 GHz": (header(24, "<I", 2_000_000_000), "sample rate of 2000000000 Hz"),
    "no channels": (header(22, "<H", 0), "the file has no audio track"),
    "9 channels": (written(tones(16_000, 9), 16_000, "WAV", "PCM_16"), "9 channels (1 to 8)"),
    # the first is what PyAV 19 makes of it, the second PyAV 18
    "65,535 channels": (header(22, "<H", 65_535), ("65535 channels (1 to 8)", "the file has no audio track")),
    "0.01 s": (written(tones(16_000, 1, 0.01), 16_000, "WAV", "PCM_16"), "lasts 0.010 s (at least 0.1 s of audio)"),
}


@cache
def cost_of(seconds: int) -> float:
    """Of reading an honest file of this length, in stereo at 48 kHz."""
    data = written(tones(48_000, 2, float(seconds)), 48_000, "FLAC")
    return cost(lambda: read_audio(data, name="audio 1"))


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused_by_name_and_soon(kind: str) -> None:
    data, wanted = BAD[kind]
    said = str(refusal(data))
    assert_cheap(lambda: refusal(data), beside=cost_of(60), times=3, what="a minute of sound")
    assert any(words in said for words in ([wanted] if isinstance(wanted, str) else wanted)), said


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 3e30])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_samples_that_are_no_sound(value: float, rate: int) -> None:
    samples_SC = tones(rate, 2, 3.0)
    samples_SC[70_000 % len(samples_SC), 1] = value
    error = refusal(written(samples_SC, rate, "WAV", "FLOAT"))
    assert ("NaN or infinite" if not np.isfinite(value) else "absurdly loud") in error.problem and error.limit


def test_loud_but_finite_is_served() -> None:
    """Samples scaled as integers, or far louder, are normalised away; nothing overflows up to the limit."""
    data = written(tones(16_000) * 2e9, 16_000, "WAV", "FLOAT")
    assert bool(torch.isfinite(read_sound(data, RULE, name="audio 1").feature).all())


def long_flac(seconds: int, honest: bool) -> bytes:
    """Hours of silence in some KB; a stream's header says 0 samples, which means unknown."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 8000, 1, "PCM_16", format="FLAC") as out:
        for _ in range(seconds // 60):
            out.write(np.zeros(8000 * 60, np.int16))
    data = bytearray(file.getvalue())
    if not honest:
        # STREAMINFO: 36 bits of total samples end 26 bytes into the file
        data[21] &= 0xF0
        data[22:26] = bytes(4)
    return bytes(data)


@pytest.mark.parametrize("honest", [True, False])
def test_three_hours_are_refused_in_bounded_time_and_memory(honest: bool) -> None:
    data = long_flac(3 * 3600, honest)
    assert len(data) < 2 * MEBIBYTE
    limits = MediaLimits(max_audio_seconds=1800.0)
    with memory_peak() as peak:
        error = refusal(data, limits)
    assert error.problem.startswith("lasts ") and error.limit == "at most 1800 s of audio"
    assert ("by its header" in error.problem) == honest
    # by the header at once; else what half an hour takes: 115 MB of samples at 16 kHz
    assert peak.num_bytes < (4 if honest else 150) * MEBIBYTE
    if honest:
        assert_cheap(lambda: refusal(data, limits), beside=cost_of(60), times=0.2, what="a minute of sound")
    else:
        allowed = long_flac(1740, honest=True)
        beside = cost(lambda: read_audio(allowed, name="audio 1", limits=limits))
        assert_cheap(lambda: refusal(data, limits), beside=beside, times=4, what="29 minutes of sound")


def test_a_file_may_not_hold_more_values_than_the_limit() -> None:
    data = written(np.zeros((48_000, 8), np.float32), 48_000, "FLAC")
    error = refusal(data, dataclasses.replace(MediaLimits(), max_audio_values=300_000))
    assert error.limit == "at most 300000 over all channels"
    assert read_audio(data, name="audio 1", limits=MediaLimits(max_audio_values=400_000)).shape == (16_000,)


def test_limits_are_arguments() -> None:
    limits = MediaLimits(min_audio_seconds=0.0, max_audio_seconds=2.0)
    assert refusal(WAV, limits).limit == "at most 2 s of audio"
    short = written(tones(16_000, 1, 0.01), 16_000, "WAV", "PCM_16")
    # below the server's minimum only if it lowers it: then a clip of 0.1 s, as the serving engines fill it up
    assert read_sound(short, RULE, name="audio 1", limits=limits).num_frames_N == (10,)
    assert len(read_audio(SPEECH, name="audio 1", rate=8000)) == -(-len(read_audio(SPEECH, name="audio 1")) // 2)


def test_whether_a_video_has_sound() -> None:
    assert has_audio(AAC) and has_audio(muxed("mp4", "aac", tones(48_000, 2), video=True))
    assert not has_audio(muxed("mp4", "", None, video=True)) and not has_audio(b"text")


def test_damage_in_the_middle() -> None:
    """A few lost packets of a recording are passed over; a file that is mostly damage is refused."""
    data = muxed("adts", "aac", tones(48_000, 2, 5.0))
    scratched = bytearray(data)
    scratched[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    assert abs(len(read_audio(bytes(scratched), name="audio 1")) - 80_000) < 4000
    flac = bytearray(written(tones(16_000, 1, 5.0), 16_000, "FLAC"))
    flac[len(flac) // 4 :] = np.random.default_rng(0).bytes(len(flac) - len(flac) // 4)
    assert refusal(bytes(flac)).problem.startswith("damaged after ")
