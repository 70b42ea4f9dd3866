"""Decoded frames of one video come in; which of them to take, their patch grid, their text and a measured `VideoClip`
go out. Files and containers are `video_file.py`'s; token ids and SGLang are never known here.

Shape letters: T sampled frames, C colour channels (red, green, blue), H W pixels of a frame as it came, h w pixels
after resizing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch

from sglang_nemotron.config_omni import VideoRule
from sglang_nemotron.prompt.cargo import CHANNELS, VideoClip

# output rows and columns that one matrix product makes: each needs a window of the input, and a longer block multiplies
# more zeros, a shorter one pays more calls; the best on a 1080p frame
BLOCK_DOWN = 8
BLOCK_ACROSS = 32


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
    """Seconds that the text states for each sampled frame; None where the frame rate is unknown.

    index * whole milliseconds per frame at the average rate: 29.97 fps counts 33 ms a frame. In a video of variable
    frame rate this differs from the time on screen, as it does in the reference: transformers' processor.
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


def _taps(num_in: int, num_out: int) -> tuple[np.ndarray, np.ndarray]:
    """First input sample (num_out,) and weights float32 (num_out, taps) of an antialiased bicubic resize of one side.

    The cubic with a = -0.5 of Keys (1981), stretched by the factor of reduction, over the samples inside the picture,
    normalised. In float32 throughout and in torch's order: its rounding of centres moves the taps of a wide picture by
    more than the 1e-5 that we keep to.
    """
    one, half = np.float32(1.0), np.float32(0.5)
    scale = np.float32(num_in) / np.float32(num_out)
    stretch = max(scale, one)
    support = np.float32(2.0) * stretch
    centre = scale * (np.arange(num_out, dtype=np.float32) + half)
    first = np.maximum((centre - support + half).astype(np.int64), 0)
    count = np.minimum((centre + support + half).astype(np.int64), num_in) - first
    tap = np.arange(count.max())
    distance = np.abs(((first[:, None] + tap).astype(np.float32) - centre[:, None] + half) * (one / stretch))
    near = (np.float32(1.5) * distance - np.float32(2.5)) * distance * distance + one
    far = (((distance - 5) * distance + 8) * distance - 4) * np.float32(-0.5)
    weights = np.where(distance < 1, near, np.where(distance < 2, far, np.float32(0.0)))
    weights[tap >= count[:, None]] = 0.0
    return first, weights / weights.sum(axis=1, keepdims=True, dtype=np.float32)


@functools.lru_cache(maxsize=32)
def _bands(num_in: int, num_out: int, block: int) -> tuple[tuple[int, int, int, int, torch.Tensor], ...]:
    """The weights of one side in blocks of outputs, each with the window of inputs that it needs.

    (first output, past the last, first input, past the last, weights float32 (outputs, inputs)) per block.
    """
    first, weights = _taps(num_in, num_out)
    bands = []
    for start in range(0, num_out, block):
        stop = min(start + block, num_out)
        low = int(first[start:stop].min())
        high = min(num_in, int(first[start:stop].max()) + weights.shape[1])
        band = np.zeros((stop - start, high - low), dtype=np.float32)
        for row in range(start, stop):
            own = weights[row, : high - first[row]]
            band[row - start, first[row] - low : first[row] - low + len(own)] = own
        bands.append((start, stop, low, high, torch.from_numpy(band)))
    return tuple(bands)


class Resizer:
    """Frames -> normalised pixels of one target size. One per thread: it owns the scratch memory that it reuses.

    Equal within 1e-5 to the reference (float32 antialiased bicubic of the uint8 frame, neither clamped nor rounded,
    over 255, less the mean, over the deviation), and several times faster: a resize is two banded matrix products.
    """

    def __init__(self, grid: tuple[int, int], rule: VideoRule) -> None:
        self._size = (grid[0] * rule.patch_size, grid[1] * rule.patch_size)
        std = torch.tensor(rule.std, dtype=torch.float32)
        self._scale_C11 = (1.0 / (255.0 * std)).view(CHANNELS, 1, 1)
        self._shift_C11 = (-torch.tensor(rule.mean, dtype=torch.float32) / std).view(CHANNELS, 1, 1)
        self._scratch: dict[str, torch.Tensor] = {}

    def into(self, rgb_HWC: np.ndarray, out_Chw: torch.Tensor) -> None:
        """rgb_HWC: uint8, any size; its rows may lie apart. out_Chw: float32, contiguous, written whole."""
        height, width, channels = rgb_HWC.shape
        assert rgb_HWC.dtype == np.uint8 and channels == CHANNELS, (rgb_HWC.shape, rgb_HWC.dtype)
        new_height, new_width = self._size
        assert out_Chw.shape == (CHANNELS, new_height, new_width) and out_Chw.is_contiguous(), out_Chw.shape
        whole = torch.from_numpy(rgb_HWC)
        planes = out_Chw if width == new_width else self._take("planes", (CHANNELS, new_height, width))
        if height == new_height:
            planes.copy_(whole.permute(2, 0, 1))
        else:
            self._shrink_rows(whole, planes)
        if width != new_width:
            lines, out = planes.view(-1, width), out_Chw.view(-1, new_width)
            for start, stop, first, last, weights in _bands(width, new_width, BLOCK_ACROSS):
                torch.mm(lines[:, first:last], weights.t(), out=out[:, start:stop])
        out_Chw.mul_(self._scale_C11).add_(self._shift_C11)

    def _shrink_rows(self, rgb_HWC: torch.Tensor, planes_ChW: torch.Tensor) -> None:
        """Band by band, so that the float32 rows of one band stay in the processor's cache."""
        height, width, _ = rgb_HWC.shape
        wide = width * CHANNELS
        bands = _bands(height, planes_ChW.shape[1], BLOCK_DOWN)
        rows = self._take("rows", (max(last - first for _, _, first, last, _ in bands), wide))
        shrunk = self._take("shrunk", (BLOCK_DOWN, wide))
        for start, stop, first, last, weights in bands:
            window, made = rows[: last - first], shrunk[: stop - start]
            window.copy_(rgb_HWC[first:last].view(last - first, wide))
            torch.mm(weights, window, out=made)
            planes_ChW[:, start:stop].copy_(made.view(stop - start, width, CHANNELS).permute(2, 0, 1))

    def _take(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        held = self._scratch.get(name)
        if held is None or held.shape != shape:
            held = self._scratch[name] = torch.empty(shape, dtype=torch.float32)
        return held


def new_frames(num_frames: int, grid: tuple[int, int], rule: VideoRule) -> torch.Tensor:
    """Memory for the frames of a clip, uninitialised: float32 (T, 3, h, w), T rounded up to whole tubelets."""
    whole = -(-num_frames // rule.temporal_patch_size) * rule.temporal_patch_size
    return torch.empty((whole, CHANNELS, grid[0] * rule.patch_size, grid[1] * rule.patch_size), dtype=torch.float32)


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

    The rest of the last tubelet is filled here with the last frame. seconds: as `timestamps` gives them.
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
