"""Decoded frames come in; a clip's resized frames, upright, go out, in threads beside the decoder."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import torch

from sglang_nemotron.config.omni import VideoRule
from sglang_nemotron.media.features import CHANNELS
from sglang_nemotron.media.pixels.resize import Memory, Resizer
from sglang_nemotron.media.video.pixels import orientation, rgb_planes
from sglang_nemotron.media.video.sampling import new_frames, video_grid

# frames depend on each other, so that threads which decode often wait for each other: so many more than there are to
# resize save a tenth of the time, if what they keep fits MORE_BYTES. Where frames are passed over, FEW_MORE do as well
FEW_MORE, MORE_TO_DECODE = 2, 10
MORE_BYTES = 100 << 20
# FFmpeg advises against more
MOST_TO_DECODE = 16
# frames that each of them keeps, as measured, in the usual format (those of 10 bits take twice as much)
KEPT_FRAMES, FRAME_BYTES_PER_PIXEL = 3, 1.5
# decoded frames that may wait to be resized, so that neither side waits for the other at every frame
AHEAD_BYTES = 24 << 20


def resize_all(
    frames: Iterator[Any],
    num_frames: int,
    rule: VideoRule,
    *,
    size: tuple[int, int],
    workers: int,
    memory: Memory,
    check: Callable[[int, int], None],
) -> tuple[torch.Tensor, tuple[int, int]]:
    """(frames_TChw as `new_frames` makes them, grid). Decoding goes on while `workers` threads resize what has come.

    frames: av.VideoFrames, decoded as they are asked for, in this thread, which then helps with what still waits.
    size: width and height that the file tells, for which memory is made while the first frame is decoded; it may be
    wrong. check: raises for a width and height that are refused.
    """
    from av.video.reformatter import VideoReformatter

    tools: SimpleQueue[tuple[Any, Resizer]] = SimpleQueue()
    pending: deque[tuple[Future[None], Any, int]] = deque()
    grid: tuple[int, int] | None = None
    swap, flip = False, ()

    def resize(frame: Any, number: int) -> None:
        slot, tool = made.result()[number], tools.get()
        try:
            reformatter, resizer = tool
            planes_CHW = rgb_planes(frame, reformatter)
            if not swap and not flip:
                resizer.planes_into(planes_CHW, slot)
            else:
                # the small picture is turned, not the large one: the resize treats both sides alike
                small = torch.empty((3, slot.shape[2], slot.shape[1]) if swap else slot.shape, dtype=torch.float32)
                resizer.planes_into(planes_CHW, small)
                turned = small.transpose(1, 2) if swap else small
                slot.copy_(turned.flip(flip) if flip else turned)
        finally:
            tools.put(tool)

    # the memory's first touch takes as long as a third of the resizes
    def make(grid: tuple[int, int], instead_of: Future[torch.Tensor] | None = None) -> torch.Tensor:
        # that of a film which is shown on its side
        if instead_of is not None and math.prod(grid) == math.prod(expected):
            return instead_of.result().view(-1, CHANNELS, grid[0] * rule.patch_size, grid[1] * rule.patch_size)
        return new_frames(num_frames, grid, rule, memory).zero_()

    with (
        ThreadPoolExecutor(workers, thread_name_prefix="video") as pool,
        ThreadPoolExecutor(1, thread_name_prefix="memory") as beside,
    ):
        expected = video_grid(*size, rule)
        made = beside.submit(make, expected)
        try:
            for number, frame in enumerate(frames):
                check(frame.width, frame.height)
                if grid is None:
                    # of the whole file, and asked for once: PyAV 18 keeps a frame whose side data were looked at
                    # until Python collects its garbage
                    swap, flip = orientation(frame)
                    sides = (frame.height, frame.width) if swap else (frame.width, frame.height)
                    grid = video_grid(*sides, rule)
                    if grid != expected:
                        made = beside.submit(make, grid, made)
                    for _ in range(workers + 1):
                        tools.put((VideoReformatter(), Resizer((grid[1], grid[0]) if swap else grid, rule)))
                pending.append((pool.submit(resize, frame, number), frame, number))
                # what waits is full-size frames, of 1.5 bytes a pixel
                most = max(workers, 2 * AHEAD_BYTES // (3 * frame.width * frame.height))
                while len(pending) > most:
                    pending.popleft()[0].result()
            while pending:
                # from the end: the pool takes them from the front. No name for the future: an error would keep it,
                # and it the error, and both the memory, until Python collects its garbage
                if pending[-1][0].cancel():
                    resize(*pending.pop()[1:])
                else:
                    pending.pop()[0].result()
        finally:
            for future, _, _ in pending:
                future.cancel()
    assert grid is not None
    return made.result(), grid


def num_to_decode(threads: int, num_pixels: int, num_ranges: int) -> int:
    """Threads that decode frames of `num_pixels` >= 1 while `threads` resize them.

    num_ranges: of packets that are decoded, between which others are passed over.
    """
    fit = int(MORE_BYTES / (KEPT_FRAMES * FRAME_BYTES_PER_PIXEL * num_pixels))
    wanted = MORE_TO_DECODE if num_ranges == 1 else FEW_MORE
    return threads + max(FEW_MORE, min(wanted, fit, MOST_TO_DECODE - threads))
