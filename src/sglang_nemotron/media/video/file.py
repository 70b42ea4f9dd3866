"""A video file comes in, as bytes or a path; a measured `VideoClip` of its sampled frames, or a `MediaError`, goes out.

Full-size frames live only until they are resized. Which frames to take, grids and texts are `video.py`'s.
"""

from __future__ import annotations

import os
import time
from collections.abc import Container, Iterator, Sequence
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from sglang_nemotron.config.omni import VideoRule
from sglang_nemotron.media.features import VideoClip
from sglang_nemotron.media.file_kinds import HEAD, is_still
from sglang_nemotron.media.pixels.resize import Memory, new_pixels
from sglang_nemotron.media.video.faults import check_size, no_track, no_video
from sglang_nemotron.media.video.index import VideoIndex, is_whole, known_by, scan
from sglang_nemotron.media.video.resize import num_to_decode, resize_all
from sglang_nemotron.media.video.sampling import sample_indices, timestamps, video_clip
from sglang_nemotron.media.video.times import Stamps, variable_ticks
from sglang_nemotron.prompt.errors import MediaError
from sglang_nemotron.prompt.options import MediaLimits, MediaOptions

# containers of one video, none of which can name another file or address (a playlist could: HLS, DASH, concat)
FORMATS = "mov,matroska,gif,avi,mpegts,mpeg,flv,ogg,asf"
CODECS = (
    *("av1", "flv", "gif", "h263", "h264", "hevc", "libdav1d", "mjpeg", "mpeg1video", "mpeg2video", "mpeg4"),
    *("msmpeg4v3", "prores", "theora", "vc1", "vp6f", "vp8", "vp9", "wmv2", "wmv3"),
)
# decoders that pass over a frame no other refers to when told so packet by packet; dav1d drops wanted ones too
SKIPPING = ("h264", "hevc")
# containers whose table of contents leads back to the very first packet
REWINDING = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
# a frame that cannot be decoded is stood in for by its neighbour in time, up to so many seconds away
NEIGHBOUR_SECONDS = 1.0
# FFmpeg's disposition bit of a cover picture
ATTACHED_PICTURE = 1 << 10


def read_clip(
    source: bytes | str | Path,
    *,
    name: str,
    rule: VideoRule,
    options: MediaOptions,
    limits: MediaLimits,
    threads: int = 2,
    memory: Memory = new_pixels,
) -> VideoClip:
    """Decodes, samples, turns upright, resizes and normalises one video.

    source: the file's bytes, or its path. name: how errors call it ("video 2"). threads: for resizing; there are 2 to
    10 more for decoding beside it. memory: makes what the frames are written to; a clip in a narrower type than float32
    is never in memory in both.
    Which frames and which times: as of `VideoFile.sample`. The pixel aspect ratio is not applied, and a file whose
    frames change size is brought to its first frame's grid, as the reference does. Raises MediaError.
    """
    with VideoFile(source, name=name, limits=limits, threads=threads) as video:
        indices, seconds = video.sample(options.fps, min(options.max_frames, limits.max_video_frames))
        frames, grid = resize_all(
            video.frames(indices),
            len(indices),
            rule,
            size=(video.width, video.height),
            workers=threads,
            memory=memory,
            check=lambda width, height: check_size(name, width, height, limits),
        )
        return video_clip(
            frames,
            num_frames=len(indices),
            grid=grid,
            seconds=seconds,
            rule=rule,
            pruning_rate=rule.pruning_rate if options.pruning_rate is None else options.pruning_rate,
        )


class VideoFile:
    """One opened and indexed video; a context manager. Raises MediaError from its making on.

    num_frames: shown frames. fps: the container's rate, None if it tells none; where the rate varies, frames a second
    on average. width, height: as told, before rotation; frames may differ. seconds: from the first to the end of the
    last frame. has_sound: whether there is an audio track. threads: as of `read_clip`.
    """

    def __init__(self, source: bytes | str | Path, *, name: str, limits: MediaLimits, threads: int = 2) -> None:
        self._name, self._limits, self._threads = name, limits, threads
        self._deadline = time.monotonic() + limits.max_decode_seconds
        self._file = _open_source(source, name, limits)
        # the one that was indexed, until its frames are read
        self._indexed: Any = None
        # of each frame, where the frame rate varies
        self._stamps: Stamps | None = None
        try:
            self._index = self._read_header_and_index()
        except BaseException:
            self._close()
            raise
        self.num_frames = len(self._index.pts)

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._indexed is not None:
            self._indexed.close()
        self._file.close()

    def _open(self) -> Any:
        """The file with its header read. FFmpeg decodes a frame or more to find out what a header leaves open.

        Not where it need not, for the first frame is the dearest of all: the table of an MP4 tells how far frames are
        out of order, which H.264 may leave to be guessed; in other containers, frames would be lost.
        """
        if self._is_whole():
            container = self._open_with({"skip_frame": "all"})
            if all(self._is_told(stream.codec_context) for stream in container.streams.video):
                return container
            container.close()
        return self._open_with({})

    def _is_whole(self) -> bool:
        try:
            return is_whole(self._file)
        except OSError as error:
            raise MediaError(self._name, f"cannot be read: {error.strerror or error}") from error

    def _is_told(self, decoder: Any) -> bool:
        """Whether a header says enough of a track. One that tells an absurd size may be wrong: its frames know."""
        try:
            check_size(self._name, decoder.width, decoder.height, self._limits)
        except (AttributeError, MediaError):
            return False
        return decoder.name == "h264"

    def _open_with(self, options: dict[str, str]) -> Any:
        """options: of the decoders that look for what the header leaves open, not of those that decode for us."""
        import av
        from av.error import FFmpegError

        self._file.seek(0)
        options = {
            # no protocol at all: the bytes come from us, and nothing that they name is fetched
            "protocol_whitelist": "none",
            "format_whitelist": FORMATS,
            "max_pixels": str(self._limits.max_video_pixels),
            **options,
        }
        try:
            # titles in another encoding than UTF-8 are still titles, and read by nobody
            return av.open(self._file, mode="r", metadata_errors="replace", options=options)
        except (FFmpegError, ValueError, IndexError, OSError) as error:
            raise no_video(self._name, self._head(), _reason(error), FORMATS) from error

    def _stream(self, container: Any) -> Any:
        """The first video track that is not a cover picture, ready to decode."""
        pictures = [stream for stream in container.streams.video if int(stream.disposition) & ATTACHED_PICTURE]
        for stream in container.streams.video:
            if stream not in pictures:
                return stream
        kinds = {stream.type for stream in container.streams if stream not in pictures}
        raise no_track(self._name, self._head(), ", ".join(sorted(kinds)) or "nothing")

    def _head(self) -> bytes:
        self._file.seek(0)
        return self._file.read(HEAD)

    def _read_header_and_index(self) -> VideoIndex:
        if is_still(self._head()):
            raise no_video(self._name, self._head(), "a picture", FORMATS)
        limits, container = self._limits, self._open()
        self._indexed = container
        stream = self._stream(container)
        decoder = stream.codec_context
        if decoder is None or decoder.name not in CODECS:
            raise MediaError(
                self._name,
                f"is encoded as {getattr(decoder, 'name', 'nothing known')}",
                f"codecs {', '.join(CODECS)}",
            )
        self.width, self.height = decoder.width, decoder.height
        check_size(self._name, self.width, self.height, limits)
        claimed = _claimed_seconds(container, stream)
        self._check_seconds(claimed)
        self.has_sound = bool(container.streams.audio)
        index = scan(container, stream, name=self._name, max_packets=_max_packets(limits), deadline=self._deadline)
        self.seconds = index.seconds
        self._check_seconds(index.seconds)
        rate = float(stream.average_rate or 0)
        if rate <= 0 and index.seconds > 0 and len(index.pts) > 1:
            rate = len(index.pts) / index.seconds
        self.fps = rate or None
        ticks_N = variable_ticks(index.pts, stream.time_base, rate) if index.timed else None
        if ticks_N is not None:
            self._stamps = Stamps(ticks_N, stream.time_base, index.seconds)
            self.fps = len(index.pts) / index.seconds if index.seconds > 0 else None
        return index

    def sample(self, fps: float, max_frames: int) -> tuple[list[int], list[float] | None]:
        """(positions in order of presentation, increasing; the seconds that are told for each, None if none are known).

        At a constant frame rate as the reference does, by position; where it varies, by the frames' own time stamps.
        """
        if self._stamps is not None:
            return self._stamps.sample(fps, max_frames)
        indices = sample_indices(self.num_frames, self.fps, fps=fps, max_frames=max_frames)
        return indices, timestamps(indices, self.fps)

    def _again(self) -> tuple[Any, Iterator[Any]]:
        """A container, to be closed, and the packets of its video track from the first one on.

        FFmpeg decodes up to twenty frames to open a file, 0.1 s of 1080p: the container that was indexed is used again
        if it can be put back.
        """
        container, self._indexed = self._indexed, None
        if container is not None and container.format.name in REWINDING:
            packets = self._rewound(container)
            if packets is not None:
                return container, packets
        if container is not None:
            container.close()
        container = self._open()
        return container, container.demux(self._stream(container))

    def _rewound(self, container: Any) -> Iterator[Any] | None:
        from av.error import FFmpegError

        stream = self._stream(container)
        pts, dts, _ = self._index.first
        try:
            container.seek(pts if dts is None else dts, stream=stream)
            packets = container.demux(stream)
            first = next(packets, None)
        except (FFmpegError, TypeError):
            return None
        if first is None or known_by(first) != self._index.first:
            return None
        return chain([first], packets)

    def _check_seconds(self, seconds: float | None) -> None:
        most = self._limits.max_video_seconds
        if seconds is not None and seconds > most:
            raise MediaError(self._name, f"is {seconds:,.1f} seconds long", f"at most {most:,g} seconds")

    def frames(self, indices: Sequence[int]) -> Iterator[Any]:
        """The av.VideoFrame of each index, in order. indices: increasing positions in order of presentation.

        Only what those frames depend on is decoded: whole groups of pictures without a wanted frame are passed over,
        and so are frames that no other frame refers to.
        """
        assert list(indices) == sorted(set(indices)) and indices[0] >= 0 and indices[-1] < self.num_frames
        container, packets = self._again()
        with container:
            stream = self._stream(container)
            decoder = stream.codec_context
            ranges, targets = self._index.ranges(set(indices))
            decoder.thread_count = num_to_decode(self._threads, self.width * self.height, len(ranges))
            decoder.thread_type = "AUTO"
            decoder.options = {"max_pixels": str(self._limits.max_video_pixels)}
            decoded = self._decode(packets, decoder, ranges, targets)
            yield from self._match(decoded, indices, float(stream.time_base))

    def _decode(
        self, packets: Iterator[Any], decoder: Any, ranges: Sequence[tuple[int, int]], targets: Container[int]
    ) -> Iterator[Any]:
        """ranges, targets: as of `VideoIndex.ranges`."""
        from av.error import FFmpegError

        index = self._index
        may_skip = index.timed and decoder.name in SKIPPING
        feeding, errors, current = False, 0, 0
        for place, packet in enumerate(packet for packet in packets if packet.size):
            self._check_time()
            while current < len(ranges) and place >= ranges[current][1]:
                current += 1
            if current == len(ranges):
                break
            if place < ranges[current][0]:
                if feeding:
                    yield from self._drain(decoder)
                    decoder.flush_buffers()
                    feeding = False
                continue
            feeding = True
            if may_skip:
                decoder.skip_frame = "DEFAULT" if place in targets else "NONREF"
            try:
                yield from decoder.decode(packet)
            except FFmpegError as error:
                # one bad packet costs one frame, whose neighbour stands in; many are a bad file
                errors += 1
                if errors > max(8, len(index.pts) // 10):
                    raise MediaError(self._name, f"cannot be decoded: {_reason(error)} in {errors} places") from error
        yield from self._drain(decoder)

    def _drain(self, decoder: Any) -> Iterator[Any]:
        from av.error import EOFError as Drained
        from av.error import FFmpegError

        try:
            yield from decoder.decode(None)
        except Drained:
            return
        except FFmpegError as error:
            raise MediaError(self._name, f"cannot be decoded: {_reason(error)}") from error

    def _match(self, decoded: Iterator[Any], indices: Sequence[int], tick: float) -> Iterator[Any]:
        """Pairs decoded frames, in order of presentation, with the wanted ones; by time, else by count."""
        pts, timed = self._index.pts, self._index.timed
        reach = NEIGHBOUR_SECONDS / tick if timed else 0
        taken, last = 0, None
        for count, frame in enumerate(decoded):
            here = frame.pts if timed else count
            if here is None:
                continue
            while taken < len(indices):
                there = pts[indices[taken]] if timed else indices[taken]
                if here < there or here - there > reach:
                    break
                yield frame
                taken += 1
            last = (here, frame)
            if taken == len(indices):
                return
        while taken < len(indices):
            there = pts[indices[taken]] if timed else indices[taken]
            if last is None or abs(there - last[0]) > reach:
                raise MediaError(
                    self._name,
                    f"frame {indices[taken] + 1} of {self.num_frames} cannot be decoded: the file is damaged",
                )
            yield last[1]
            taken += 1

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline:
            most = self._limits.max_decode_seconds
            raise MediaError(self._name, "takes too long to decode", f"at most {most:g} seconds of decoding")


def _open_source(source: bytes | str | Path, name: str, limits: MediaLimits) -> BinaryIO:
    if isinstance(source, (str, Path)):
        try:
            file: BinaryIO = open(source, "rb")  # noqa: SIM115 (closed by VideoFile)
            size = os.fstat(file.fileno()).st_size
        except OSError as error:
            raise MediaError(name, f"cannot be opened: {error.strerror or error}") from error
    else:
        file, size = BytesIO(source), len(source)
    problem = None
    if size == 0:
        problem = MediaError(name, "is empty: 0 bytes")
    elif size > limits.max_video_bytes:
        problem = MediaError(name, f"is {size:,} bytes", f"at most {limits.max_video_bytes:,} bytes")
    if problem is not None:
        file.close()
        raise problem
    return file


def _claimed_seconds(container: Any, stream: Any) -> float | None:
    """What the header says, the longer of track and file; None if it says nothing."""
    claims = []
    if stream.duration:
        claims.append(float(stream.duration * stream.time_base))
    if container.duration:
        claims.append(container.duration / 1_000_000)
    return max(claims, default=None)


def _max_packets(limits: MediaLimits) -> int:
    """Frames of the longest video at 240 per second: a bound for the index, not for honest files."""
    return max(1, int(limits.max_video_seconds * 240))


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
