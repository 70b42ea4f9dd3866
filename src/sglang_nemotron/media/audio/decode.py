"""A file's bytes in, blocks of mono samples at the file's own rate out, in bounded memory.

libsndfile (soundfile) reads what is stored as plain samples or FLAC, exactly as librosa does for the users of the
reference; FFmpeg (PyAV) reads the rest. Nothing here may know the model's rate, the network or SGLang.

Shape letters: S samples, C channels, F frames.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sglang_nemotron.media.file_kinds import other_than
from sglang_nemotron.prompt.errors import MediaError
from sglang_nemotron.prompt.options import MediaLimits

if TYPE_CHECKING:
    from av.audio.stream import AudioStream

BLOCK = 65_536
FORMAT_NAMES = "WAV, MP3, FLAC, OGG, or AAC or Opus in MP4, WebM or MKV"
# what FFmpeg may take the bytes for: media that carry their own data. Its playlist formats (hls, concat, dash, ...)
# would open other files and addresses that the bytes name
FFMPEG_FORMATS = (
    "aac,ac3,aiff,amr,asf,au,avi,caf,eac3,flac,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,mpegts,ogg,w64,wav"
)
# of these the length is an estimate or missing: the end is found by decoding
FFMPEG_ESTIMATES = frozenset({"aac", "ac3", "amr", "eac3", "mp3", "mpeg", "mpegts"})
# share of a file's packets that may be damaged: a recording cut from a stream loses its first or last
MAX_DAMAGED = 0.1
# a header that promises more than this beyond what follows belongs to a truncated file
MAX_MISSING_SECONDS = 0.5
# libsndfile's frame count when the header has none
UNKNOWN_FRAMES = 2**62


class Block(NamedTuple):
    """Mono samples, float32, and their rate in Hz."""

    samples_S: np.ndarray
    rate: int


def decode(data: bytes, *, name: str, limits: MediaLimits) -> Iterator[Block]:
    """Blocks of the file's best audio track, the mean of its channels, checked against the limits as they come.

    The bytes decide what the file is, never its name. Raises MediaError, at the latest when a limit is crossed.
    """
    if not data:
        raise MediaError(name, "the file is empty (0 bytes)")
    reader = _libsndfile(data, name, limits) if _is_plain(data) else None
    if reader is None:
        reader = _ffmpeg(data, name, limits)
    seconds, values = 0.0, 0
    for samples_SC, rate in reader:
        _check_header(name, limits, rate, samples_SC.shape[1])
        seconds, values = seconds + len(samples_SC) / rate, values + samples_SC.size
        if seconds > limits.max_audio_seconds:
            raise _too_long(name, f"lasts more than {limits.max_audio_seconds:g} s", limits)
        if values > limits.max_audio_values:
            raise MediaError(name, "holds too many samples", f"at most {limits.max_audio_values} over all channels")
        samples_S = mix(samples_SC)
        # a NaN makes both comparisons false
        if len(samples_S) and not (
            samples_S.min() >= -limits.max_audio_level and samples_S.max() <= limits.max_audio_level
        ):
            where = f"in its first {seconds:.1f} s"
            if not np.isfinite(samples_S).all():
                raise MediaError(name, f"holds a NaN or infinite sample {where}", "samples must be finite")
            raise MediaError(
                name, f"holds an absurdly loud sample {where}", f"at most {limits.max_audio_level:g} times full"
            )
        yield Block(samples_S, rate)


def has_audio(data: bytes) -> bool:
    """Whether FFmpeg sees an audio track: for a video, whose sound may be missing without being an error."""
    from av.error import FFmpegError

    try:
        with _open(data) as container:
            return bool(container.streams.audio)
    except FFmpegError:
        return False


def mix(samples_SC: np.ndarray) -> np.ndarray:
    """The mean of the channels: numpy's, bit for bit, without its slow walk along a short axis."""
    num_channels = samples_SC.shape[1]
    mono_S = samples_SC[:, 0].copy()
    for channel in range(1, num_channels):
        mono_S += samples_SC[:, channel]
    if num_channels > 1:
        mono_S /= num_channels
    return mono_S


def _check_header(name: str, limits: MediaLimits, rate: int, num_channels: int) -> None:
    if not limits.min_audio_rate <= rate <= limits.max_audio_rate:
        raise MediaError(
            name, f"sample rate of {rate} Hz", f"from {limits.min_audio_rate} to {limits.max_audio_rate} Hz"
        )
    if not 1 <= num_channels <= limits.max_audio_channels:
        raise MediaError(name, f"{num_channels} channels", f"1 to {limits.max_audio_channels}")


def _too_long(name: str, problem: str, limits: MediaLimits) -> MediaError:
    return MediaError(name, problem, f"at most {limits.max_audio_seconds:g} s of audio")


def _truncated(name: str, promised: float, found: float) -> MediaError:
    return MediaError(name, f"truncated: the header promises {promised:.2f} s, {found:.2f} s are there")


def _is_plain(data: bytes) -> bool:
    """Whether the bytes begin like a file that libsndfile reads well in blocks.

    Not MP3 or Vorbis: soundfile seeks after every block, and a decoder that was moved has lost what the frames before
    left it (measured on a 22 kHz MP3: an error of 0.15 of full scale at the borders).
    """
    return data.startswith((b"RIFF", b"RIFX", b"RF64", b"fLaC", b"FORM", b".snd"))


def _libsndfile(data: bytes, name: str, limits: MediaLimits) -> Iterator[tuple[np.ndarray, int]] | None:
    """(samples_SC float32, rate) by libsndfile; None if it does not know the format (FFmpeg may)."""
    import soundfile

    _check_wav_length(data, name, limits)
    try:
        file = soundfile.SoundFile(_Bytes(data))
    except soundfile.LibsndfileError:
        return None
    if file.frames == 0:
        # a WAV that was written as a stream says 0; FFmpeg reads on to the end
        return None
    _check_header(name, limits, file.samplerate, file.channels)
    promised = file.frames if file.frames < UNKNOWN_FRAMES else None
    if promised is not None and promised > limits.max_audio_seconds * file.samplerate:
        raise _too_long(name, f"lasts {promised / file.samplerate:.1f} s by its header", limits)
    return _libsndfile_blocks(file, promised, name)


class _Bytes(io.BytesIO):
    """A broken header sends libsndfile to places before the file: it stays where it is, and the log stays empty."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def _libsndfile_blocks(file, promised: int | None, name: str) -> Iterator[tuple[np.ndarray, int]]:
    import soundfile

    rate, found = file.samplerate, 0
    with file:
        buffer_SC = np.empty((BLOCK, file.channels), dtype=np.float32)
        while True:
            try:
                samples_SC = file.read(out=buffer_SC)
            except soundfile.LibsndfileError as error:
                raise MediaError(name, f"damaged after {found / rate:.1f} s: {error.error_string}") from error
            if not len(samples_SC):
                break
            found += len(samples_SC)
            yield samples_SC, rate
    if promised is not None and promised - found > MAX_MISSING_SECONDS * rate:
        raise _truncated(name, promised / rate, found / rate)


def _check_wav_length(data: bytes, name: str, limits: MediaLimits) -> None:
    """Refuse a WAV whose header promises more than there is (libsndfile silently shortens it).

    A length of 0 or near 2**31 or 2**32 is what programs write that did not know it: no promise.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return
    position, bytes_per_second = 12, 0
    while position + 8 <= len(data):
        kind, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if kind == b"fmt ":
            bytes_per_second = int.from_bytes(data[position + 16 : position + 20], "little")
        if kind == b"data":
            there = len(data) - position - 8
            if bytes_per_second and 0 < size < 0x7FFF_0000:
                promised = size / bytes_per_second
                if promised > limits.max_audio_seconds:
                    raise _too_long(name, f"lasts {promised:.1f} s by its header", limits)
                if promised - there / bytes_per_second > MAX_MISSING_SECONDS:
                    raise _truncated(name, promised, there / bytes_per_second)
            return
        position += 8 + size + size % 2


def _open(data: bytes) -> Any:
    import av

    # titles in another encoding than UTF-8 are still titles, and read by nobody
    return av.open(io.BytesIO(data), metadata_errors="replace", options={"format_whitelist": FFMPEG_FORMATS})


def _ffmpeg(data: bytes, name: str, limits: MediaLimits) -> Iterator[tuple[np.ndarray, int]]:
    """(samples_SC float32, rate) by FFmpeg, about BLOCK samples at a time."""
    import av
    from av.error import FFmpegError

    try:
        container = _open(data)
    except FFmpegError as error:
        raise _no_audio_file(data, name) from error
    with container:
        stream: Any = container.streams.best("audio")
        if stream is None:
            raise _no_track(data, name, bool(container.streams.video))
        if stream.codec_context is None:
            raise MediaError(name, "the encoding of its audio track is not known", FORMAT_NAMES)
        _check_header(name, limits, stream.codec_context.sample_rate, stream.codec_context.channels)
        # without a length of its own, a track may rightly end before its container
        promised = None
        if not FFMPEG_ESTIMATES.intersection(container.format.name.split(",")):
            if stream.duration is not None:
                promised = float(stream.duration * stream.time_base)
            elif container.duration is not None and len(container.streams) == 1:
                promised = container.duration / av.time_base
        if promised is not None and promised > limits.max_audio_seconds:
            raise _too_long(name, f"lasts {promised:.1f} s by its header", limits)
        for other in container.streams:
            if other is not stream:
                # the enumeration has no stable public name; 48 is AVDISCARD_ALL
                other.discard = type(other.discard)(48)
        pending: list[_Frame] = []
        num_pending, found = 0, 0.0
        for frame in _frames(container, stream, name):
            if num_pending and (num_pending >= BLOCK or not frame.continues(pending[0])):
                yield _joined(pending), pending[0].rate
                pending, num_pending = [], 0
            pending.append(frame)
            num_samples = len(frame.channels[0])
            num_pending, found = num_pending + num_samples, found + num_samples / frame.rate
        if pending:
            yield _joined(pending), pending[0].rate
        if promised is not None and promised - found > MAX_MISSING_SECONDS:
            raise _truncated(name, promised, found)


def _no_audio_file(data: bytes, name: str) -> MediaError:
    other = other_than("audio", data)
    if other is None:
        return MediaError(name, "not an audio file that can be read", FORMAT_NAMES)
    return MediaError(name, f"not an audio file, but {other[0]}", f"{other[1]}send {FORMAT_NAMES}")


def _no_track(data: bytes, name: str, has_video: bool) -> MediaError:
    if other_than("audio", data) is not None:
        return _no_audio_file(data, name)
    if has_video:
        return MediaError(name, "the file has no audio track, only video", "send it as a video")
    return MediaError(name, "the file has no audio track")


class _Frame(NamedTuple):
    """The samples of each channel, float32, and their rate in Hz."""

    channels: list[np.ndarray]
    rate: int

    def continues(self, other: _Frame) -> bool:
        return self.rate == other.rate and len(self.channels) == len(other.channels)


def _joined(frames: list[_Frame]) -> np.ndarray:
    """(S, C), each channel in one piece of memory."""
    parts_CF = list(zip(*(frame.channels for frame in frames), strict=True))
    samples_CS = np.empty((len(parts_CF), sum(map(len, parts_CF[0]))), dtype=np.float32)
    for samples_S, parts_F in zip(samples_CS, parts_CF, strict=True):
        np.concatenate(parts_F, out=samples_S)
    return samples_CS.T


def _frames(container, stream: AudioStream, name: str) -> Iterator[_Frame]:
    """Decoded frames of a stream, damaged packets left out up to MAX_DAMAGED of them."""
    from av.error import FFmpegError

    num_packets, damaged, last_error = 0, 0, None
    # a generator that has raised is at its end: an error of the demuxer, unlike one of the decoder, is the last
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                break
            num_packets += 1
            frames = packet.decode()
        except FFmpegError as error:
            damaged, last_error = damaged + 1, error
            continue
        for frame in frames:
            yield _Frame(_channels(frame), frame.sample_rate)
    if damaged > max(1.0, MAX_DAMAGED * num_packets):
        raise MediaError(name, f"damaged: {damaged} of {num_packets} packets cannot be decoded") from last_error


def _channels(frame: Any) -> list[np.ndarray]:
    """The samples of each channel of a frame, float32, full scale 1, as libsndfile scales integers."""
    if frame.format.name == "fltp":
        # what most decoders give, in frames of some 20 ms: not copied
        return [np.frombuffer(plane, dtype=np.float32, count=frame.samples) for plane in frame.planes]
    array = frame.to_ndarray()
    samples_CS = array if frame.format.is_planar else array.reshape(-1, frame.layout.nb_channels).T
    if samples_CS.dtype == np.uint8:
        samples_CS = (samples_CS.astype(np.float32) - 128.0) / 128.0
    elif samples_CS.dtype.kind == "i":
        samples_CS = samples_CS.astype(np.float32) / np.float32(2 ** (8 * samples_CS.dtype.itemsize - 1))
    return list(samples_CS.astype(np.float32, copy=False))
