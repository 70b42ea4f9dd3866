"""An opened container comes in; where each frame of its video track lies, and what must be decoded to see it, go out.

Nothing is decoded here.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sglang_nemotron.prompt.cargo import MediaError

# a header may round its claim, and a last frame may have no length of its own
MISSING_SHARE, MISSING_SECONDS = 0.1, 0.5


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """A video track, packet by packet. Made by `scan`.

    pts: time of each shown frame in ticks of the track, in order of presentation. places: the place of each in order of
    decoding, counted over all packets. keys: places of the keyframes, increasing; key_pts: their times.
    timed: False if the container gives no times; then frames are known by count alone, and pts are counts.
    seconds: from the first to the end of the last frame. first: what its first packet is known by, as `known_by` says.
    """

    pts: list[int]
    places: list[int]
    keys: list[int]
    key_pts: list[int]
    timed: bool
    seconds: float
    first: tuple[int | None, int | None, int]

    def ranges(self, wanted: Collection[int]) -> tuple[list[tuple[int, int]], set[int]]:
        """(half-open ranges of places to decode, increasing and apart; places of the wanted frames).

        wanted: indices of frames in order of presentation. Decoding a range from its start, which is a keyframe, gives
        every wanted frame in it.
        """
        targets = {self.places[index] for index in wanted}
        if not self.timed:
            return [(0, self.places[-1] + 1)], targets
        needed: list[tuple[int, int]] = []
        for index in wanted:
            place = self.places[index]
            group = bisect.bisect_right(self.keys, place) - 1
            # frames that follow a keyframe but are shown before it may refer to the group before
            if group > 0 and self.pts[index] < self.key_pts[group]:
                group -= 1
            needed.append((self.keys[group] if group >= 0 else 0, place + 1))
        merged: list[tuple[int, int]] = []
        for start, stop in sorted(needed):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
            else:
                merged.append((start, stop))
        return merged, targets


def known_by(packet: Any) -> tuple[int | None, int | None, int]:
    """What tells a packet from its neighbours: its two times and its size."""
    return packet.pts, packet.dts, packet.size


def scan(container: Any, stream: Any, *, name: str, max_packets: int, deadline: float) -> VideoIndex:
    """Reads the whole file once without decoding. Raises MediaError for a track without frames and for a file cut off.

    max_packets: more is refused. deadline: of `time.monotonic()`. A stream format without a table of contents or a
    stated length (MPEG-TS, GIF) cannot be known to be cut off, and is taken as it is.
    """
    from av.error import FFmpegError

    # without a count of frames, the claimed length of the whole file is compared with the end of all its tracks
    counted = bool(stream.frames)
    chosen = [stream] if counted else [*container.streams.video, *container.streams.audio]
    shown: list[tuple[int | None, int, int]] = []
    keys: list[tuple[int, int | None]] = []
    num_packets, end, first, slots = 0, 0.0, None, 0
    try:
        for number, packet in enumerate(container.demux(chosen)):
            if time.monotonic() > deadline:
                raise MediaError(name, "takes too long to read")
            if number >= 8 * max_packets or num_packets > max_packets:
                raise MediaError(name, f"has more than {max_packets:,} frames", f"at most {max_packets:,} frames")
            if not packet.size:
                continue
            if not counted and packet.pts is not None and packet.time_base:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index != stream.index:
                continue
            if not packet.is_discard:
                shown.append((packet.pts, num_packets, packet.duration or 0))
            if packet.is_keyframe:
                keys.append((num_packets, packet.pts))
            first = first or known_by(packet)
            slots = max(slots, (packet.dts or 0) + 1)
            num_packets += 1
    except FFmpegError as error:
        raise MediaError(name, f"is damaged or cut off after {num_packets} frames: {error.strerror}") from error
    if not shown or first is None:
        raise MediaError(name, "has a video track without frames", "at least 1 frame")
    if container.format.name == "avi" and slots > num_packets:
        # it counts a frame that is repeated, and stores nothing for it
        end, counted = float(slots * stream.time_base), False
    _check_whole(container, stream, name=name, num_packets=num_packets, end=end, counted=counted)
    return _index(stream, shown, keys, first)


def _check_whole(container: Any, stream: Any, *, name: str, num_packets: int, end: float, counted: bool) -> None:
    if counted:
        if num_packets < stream.frames:
            raise MediaError(name, f"is cut off: {num_packets} frames of the {stream.frames} that its header states")
    elif container.duration and container.format.name in ("avi", "matroska,webm"):
        claimed = container.duration / 1_000_000
        if end < claimed * (1 - MISSING_SHARE) - MISSING_SECONDS:
            raise MediaError(name, f"is cut off: {end:.1f} seconds of the {claimed:.1f} that its header states")


def _index(
    stream: Any,
    shown: list[tuple[int | None, int, int]],
    keys: list[tuple[int, int | None]],
    first: tuple[int | None, int | None, int],
) -> VideoIndex:
    times = [pts for pts, _, _ in shown if pts is not None]
    key_times = [pts for _, pts in keys if pts is not None]
    rate = float(stream.average_rate or 0)
    if len(times) < len(shown) or len(key_times) < len(keys) or not stream.time_base:
        count = list(range(len(shown)))
        places = [place for _, place, _ in shown]
        return VideoIndex(count, places, [], [], False, len(shown) / rate if rate else 0.0, first)
    order = sorted(range(len(shown)), key=lambda at: times[at])
    last = order[-1]
    ticks = times[last] - times[order[0]] + shown[last][2]
    return VideoIndex(
        pts=[times[at] for at in order],
        places=[shown[at][1] for at in order],
        keys=[place for place, _ in keys],
        key_pts=key_times,
        timed=True,
        seconds=float(ticks * stream.time_base),
        first=first,
    )
