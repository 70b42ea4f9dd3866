"""What is wrong with a video as a whole comes in; the `MediaError` that says so goes out."""

from __future__ import annotations

from sglang_nemotron.prompt.cargo import MediaError
from sglang_nemotron.prompt.file_kinds import kind_of, other_than
from sglang_nemotron.prompt.options import MediaLimits


def no_video(name: str, head: bytes, reason: str, containers: str) -> MediaError:
    """For a file that does not open. head: its first bytes. containers: that would, as FFmpeg lists them."""
    other, send = other_than("video", head), f"containers {containers.replace(',', ', ')}"
    if other is None:
        return MediaError(name, f"is not a video file that can be read, or is cut off: {reason}", send)
    kind = kind_of(head)
    if kind is not None and kind.sort == "audio":
        return no_track(name, head, "audio")
    return MediaError(name, f"is not a video file, but {other[0]}", f"{other[1]}send one of the {send}")


def no_track(name: str, head: bytes, kinds: str) -> MediaError:
    """For a file without a video track. kinds: of the tracks that it has."""
    other = other_than("video", head)
    what = f": it is {other[0]}" if other is not None else ""
    return MediaError(name, f"has no video track, only {kinds}{what}", "send sound as audio")


def check_size(name: str, width: int, height: int, limits: MediaLimits) -> None:
    """Raises for frames that are too large, too narrow or nothing."""
    if width < 1 or height < 1:
        # FFmpeg leaves the size out when the file claims one above the limit that it was told
        problem = "states no picture size that can be used: damaged, cut off, or too large"
        raise MediaError(name, problem, f"at most {limits.max_video_pixels:,} pixels a frame")
    if width * height > limits.max_video_pixels:
        raise MediaError(
            name,
            f"is {width}x{height}, {width * height:,} pixels",
            f"at most {limits.max_video_pixels:,} pixels a frame",
        )
    aspect = max(width / height, height / width)
    if aspect > limits.max_video_aspect:
        raise MediaError(
            name, f"is {width}x{height}", f"the long side at most {limits.max_video_aspect:g} times the short one"
        )
