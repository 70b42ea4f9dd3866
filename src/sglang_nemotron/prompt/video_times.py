"""The time stamps of a video's frames come in; whether its frame rate varies, which frames to take and when they are
shown go out.

Ticks are the track's own unit of time, whole numbers of which all stamps are. Nothing is read or decoded here.

Shape letters: N frames in order of presentation, S sampled frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

# what Matroska, WebM and FLV round their stamps to, which a file keeps when it is copied to a finer container
ROUNDING_SECONDS = 0.001
# FFmpeg takes a rate for a standard one that is so near
RATE_SHARE = 0.01


@dataclass(frozen=True, eq=False)
class Stamps:
    """When the frames of a video of variable frame rate are shown.

    ticks_N: from the first frame to each, as `variable_ticks` gives them. tick: seconds. seconds: to the end of the
    last frame.
    """

    ticks_N: np.ndarray
    tick: Fraction
    seconds: float

    def sample(self, fps: float, max_frames: int) -> tuple[list[int], list[float]]:
        """(positions in order of presentation, as of `sample_ticks`; seconds from the first frame to each)."""
        indices = sample_ticks(self.ticks_N, self.seconds, fps=fps, max_frames=max_frames)
        return indices, [float(int(self.ticks_N[index]) * self.tick) for index in indices]


def variable_ticks(pts: Sequence[int], tick: Fraction, rate: float) -> np.ndarray | None:
    """Ticks from the first frame to each, int64 (N,), increasing; None for a video of constant frame rate.

    pts: in ticks, in order of presentation. tick: seconds. rate: frames per second that the file tells, 0 for none.
    Constant: as even as the rounding of stamps leaves them, and at the rate that is told.
    """
    ticks_N = np.asarray(pts, dtype=np.int64) - pts[0]
    num_steps = len(pts) - 1
    if num_steps == 0:
        return None
    # both ends and the stamp between them may be rounded, by a half each or by up to one: a millisecond, then a tick
    rounding = 1 + ROUNDING_SECONDS / float(tick)
    span = int(ticks_N[-1])
    told = num_steps / rate / float(tick) if rate > 0 else math.inf
    if abs(span - told) > RATE_SHARE * span + rounding:
        return ticks_N
    even_N = np.arange(len(pts)) * (span / num_steps)
    return ticks_N if np.abs(ticks_N - even_N).max() > rounding else None


def sample_ticks(ticks_N: np.ndarray, seconds: float, *, fps: float, max_frames: int) -> list[int]:
    """Which frames of a video of variable frame rate to take: positions in order of presentation, increasing.

    ticks_N: as `variable_ticks` gives them. seconds: to the end of the last frame. As many as `sample_indices` takes of
    a video of constant rate that lasts as long: min(max_frames, floor(seconds * fps), N), at least one; frames that
    share a stamp count once unless all frames are taken.

    At even steps of time from the first to the last frame, the one on screen. A frame that stays longer than a step is
    taken once, and the steps that this saves go to the rest: counting at most one step of each frame's stay, S - 1
    steps make up the whole. At a constant rate, these are the frames of `sample_indices`.
    """
    assert len(ticks_N) > 0 and fps > 0 and max_frames > 0, (len(ticks_N), fps, max_frames)
    wanted = min(max_frames, len(ticks_N), max(1, math.floor(seconds * fps)))
    if wanted == len(ticks_N):
        return list(range(wanted))
    if wanted == 1:
        return [0]
    stays = np.diff(ticks_N)
    if wanted > np.count_nonzero(stays):
        # the last of those that share a stamp is the one on screen
        return [*np.flatnonzero(stays).tolist(), len(stays)]
    step, parts = _step(np.sort(stays[stays > 0]), wanted - 1)
    # in parts of a tick, in which all of it is whole numbers
    starts_N = np.concatenate([[0], np.cumsum(np.minimum(stays * parts, step))])
    return (np.searchsorted(starts_N, step * np.arange(wanted), side="right") - 1).tolist()


def _step(stays: np.ndarray, num_steps: int) -> tuple[int, int]:
    """(step, parts): a step is step / parts ticks, so that num_steps of it are the sum of min(stay, a step).

    stays: positive, increasing, more than num_steps.
    """
    sums = np.cumsum(stays)
    # with the longest `long` stays cut down to a step each, the rest must make up the other steps
    for long in range(num_steps):
        short = len(stays) - long
        step, parts = int(sums[short - 1]), num_steps - long
        if int(stays[short - 1]) * parts <= step:
            return step, parts
    raise AssertionError("the shortest stays make up the last step")
