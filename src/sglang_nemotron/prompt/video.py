"""Decoded frames of one video come in; which of them to take, their patch grid, their text and a measured `VideoClip`
go out. Files and containers are `video_file.py`'s; token ids and SGLang are never known here.

Shape letters: T sampled frames, C colour channels (red, green, blue), H W pixels of a frame as it came, h w pixels
after resizing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from sglang_nemotron.config_omni import VideoRule
from sglang_nemotron.prompt.cargo import CHANNELS, VideoClip
from sglang_nemotron.prompt.resize import Memory, new_pixels
from sglang_nemotron.prompt.resize import Resizer as Resizer


def sample_indices(num_frames: int, source_fps: float | None, *, fps: float, max_frames: int) -> list[int]:
    """Which frames to take out of `num_frames`, as 0-based positions in order of presentation, increasing.

    min(max_frames, floor(seconds * fps), num_frames) of them, at least one, spread evenly over the whole video with
    its first and last frame (one alone: the first), where seconds = num_frames / source_fps. Without a known
    source_fps, as many as max_frames allows. Source: vLLM 0.33 `VideoBackend`, SGLang 0.5.23 `sample_video_frames`.
    """
    assert num_frames > 0 and fps > 0 and max_frames > 0, (num_frames, fps, max_frames)
    wanted = min(max_frames, num_frames)
    if source_fps:
        wanted = min(wanted, max(1, math.floor(num_frames / source_fps * fps)))
    if wanted == num_frames:
        return list(range(num_frames))
    return np.linspace(0, num_frames - 1, wanted, dtype=np.int64).tolist()


def video_grid(width: int, height: int, rule: VideoRule) -> tuple[int, int]:
    """(rows, columns) in patches of every frame of a video of this size in pixels.

    About `rule.target_patches` patches of the video's own aspect, both sides multiples of the merge size: both rounded
    up if the product stays within the target, else both down. Source: transformers' video processor of Nemotron-H Omni.
    """
    if width < 1 or height < 1:
        raise ValueError(f"a frame of {width}x{height} pixels has no area; give one of at least 1x1")
    merge = rule.merge_size
    if not rule.keep_aspect:
        side = max(merge, int(math.sqrt(rule.target_patches)) // merge * merge)
        return side, side
    aspect = width / height
    # python rounds halves to even, as the reference does
    rows = max(1, round(math.sqrt(rule.target_patches / aspect)))
    columns = max(1, round(math.sqrt(rule.target_patches * aspect)))
    up = [-(-side // merge) * merge for side in (rows, columns)]
    if up[0] * up[1] <= rule.target_patches:
        return up[0], up[1]
    return max(merge, rows // merge * merge), max(merge, columns // merge * merge)


def timestamps(indices: Sequence[int], source_fps: float | None) -> list[float] | None:
    """Seconds that the text states for each sampled frame at a constant rate; None where the frame rate is unknown.

    index * whole milliseconds per frame: 29.97 fps counts 33 ms a frame. Source: transformers' processor. For a
    variable rate, `video_times.py` has the frames' own.
    """
    if not source_fps:
        return None
    frame_ms = int(1000.0 / source_fps)
    return [index * frame_ms / 1000.0 for index in indices]


def headings(num_frames: int, seconds: Sequence[float] | None, frames_per_tubelet: int) -> tuple[str, ...]:
    """The text before each tubelet, which ends in ": ". A last tubelet that is short names only the frames it has.

    seconds: one per frame, or None to leave the times out. Source: transformers' processor of Nemotron-H Omni.
    """
    assert seconds is None or len(seconds) == num_frames, (num_frames, seconds)
    texts = []
    for start in range(0, num_frames, frames_per_tubelet):
        parts = []
        for frame in range(start, min(start + frames_per_tubelet, num_frames)):
            when = f" sampled at {seconds[frame]:.2f} seconds" if seconds is not None else ""
            parts.append(f"{'Frame' if frame == start else 'frame'} {frame + 1}{when}")
        texts.append(" and ".join(parts) + ": ")
    return tuple(texts)


def num_kept(num_tubelets: int, tokens_per_tubelet: int, pruning_rate: float) -> int:
    """Tokens of a whole video that are left after EVS at rate q: max(N, int(T N (1 - q))), so q = 0 keeps them all.

    In float64, like vLLM and SGLang count. Source: transformers' `compute_retention_mask`.
    """
    if not 0.0 <= pruning_rate < 1.0:
        raise ValueError(f"video_pruning_rate is {pruning_rate}; give a rate of at least 0 (off) and below 1")
    return max(tokens_per_tubelet, int(num_tubelets * tokens_per_tubelet * (1.0 - pruning_rate)))


def new_frames(num_frames: int, grid: tuple[int, int], rule: VideoRule, memory: Memory = new_pixels) -> torch.Tensor:
    """Memory for the frames of a clip, uninitialised: (T, 3, h, w), T rounded up to whole tubelets."""
    whole = -(-num_frames // rule.temporal_patch_size) * rule.temporal_patch_size
    return memory(whole, CHANNELS, grid[0] * rule.patch_size, grid[1] * rule.patch_size)


def video_clip(
    frames_TChw: torch.Tensor,
    *,
    num_frames: int,
    grid: tuple[int, int],
    seconds: Sequence[float] | None,
    rule: VideoRule,
    pruning_rate: float,
) -> VideoClip:
    """Packs resized frames. frames_TChw: from `new_frames`, of which the first `num_frames` are filled.

    The rest of the last tubelet is filled here with the last frame. seconds: as of `headings`.
    Raises ValueError for a pruning rate outside [0, 1).
    """
    frames_TChw[num_frames:] = frames_TChw[num_frames - 1]
    texts = headings(num_frames, seconds, rule.temporal_patch_size)
    tokens = grid[0] * grid[1] // rule.merge_size**2
    return VideoClip(
        frames_TCHW=frames_TChw,
        grid_HW=grid,
        headings=texts,
        tokens_per_tubelet=tokens,
        pruning_rate=pruning_rate,
        num_kept=num_kept(len(texts), tokens, pruning_rate),
    )
