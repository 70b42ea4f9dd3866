"""A decoded frame comes in; its red, green and blue, and how to turn it upright, go out. Nothing is resized here."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

# pixel formats of which FFmpeg's planar RGB may have the bits of its packed RGB, and on how many rows that is tried
PLANAR_ALIKE = ("yuv420p", "yuvj420p")
TRIED_ROWS = 16


def rgb_planes(frame: Any, reformatter: Any) -> Sequence[np.ndarray]:
    """Red, green and blue of a frame, each (H, W) uint8, with the bits of FFmpeg's rgb24, which the reference reads.

    FFmpeg writes the common pictures as three planes with the same bits, sooner than packed, and planes are resized in
    half the time. Of the others (10 bits, odd sides) the two differ, so that those are taken apart here.
    """
    layout = frame.format.name, frame.width, frame.height, int(frame.colorspace), int(frame.color_range)
    if layout[0] in PLANAR_ALIKE and _planes_are_exact(*layout):
        return _read_planes(reformatter.reformat(frame, format="gbrp"))
    return list(_read_packed(reformatter.reformat(frame, format="rgb24")).transpose(2, 0, 1))


@functools.lru_cache(maxsize=256)
def _planes_are_exact(kind: str, width: int, height: int, colorspace: int, color_range: int) -> bool:
    """Tried on a few rows of noise: which code FFmpeg has for it depends on the processor and on the sides."""
    from av import VideoFrame
    from av.video.reformatter import VideoReformatter

    if width % 2 or height % 2:
        return False
    frame = VideoFrame(width, min(height, TRIED_ROWS), kind)
    frame.colorspace, frame.color_range = colorspace, color_range
    noise = np.random.default_rng(width)
    for plane in frame.planes:
        plane.update(noise.bytes(plane.buffer_size))
    planes_CHW = _read_planes(VideoReformatter().reformat(frame, format="gbrp"))
    packed_HWC = _read_packed(VideoReformatter().reformat(frame, format="rgb24"))
    return all(np.array_equal(plane_HW, packed_HWC[:, :, colour]) for colour, plane_HW in enumerate(planes_CHW))


def _read_planes(frame: Any) -> list[np.ndarray]:
    """Of a gbrp frame, in the order red, green, blue, not copied: rows may lie apart."""
    planes = [frame.planes[at] for at in (2, 0, 1)]
    return [
        np.frombuffer(plane, dtype=np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]
        for plane in planes
    ]


def _read_packed(frame: Any) -> np.ndarray:
    """The pixels of an rgb24 frame, (H, W, 3) uint8, not copied: its rows may lie apart."""
    plane = frame.planes[0]
    rows = np.frombuffer(plane, dtype=np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width * 3]
    return rows.reshape(frame.height, frame.width, 3)


def orientation(frame: Any) -> tuple[bool, tuple[int, ...]]:
    """How to show a frame upright: (whether rows and columns change places, then the axes of (C, H, W) to flip).

    From the file's display matrix: (x, y) of the stored picture goes to (a x + c y, b x + d y). An angle that is not a
    right one is taken as the nearest that is.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    matrix = np.zeros(0) if data is None else np.frombuffer(bytes(data), dtype=np.int32)
    if len(matrix) < 9 or not matrix[[0, 1, 3, 4]].any():
        return False, ()
    a, b, c, d = (int(matrix[at]) for at in (0, 1, 3, 4))
    swap = abs(a) + abs(d) < abs(b) + abs(c)
    down, across = (b, c) if swap else (d, a)
    return swap, tuple(axis for axis, sign in ((1, down), (2, across)) if sign < 0)
