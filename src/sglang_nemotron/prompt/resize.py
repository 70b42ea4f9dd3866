"""A picture's uint8 pixels come in; normalised float32 pixels of another size go out. For images and videos alike.

Antialiased bicubic, neither rounded nor clamped, over 255, less the mean, over the deviation: what the reference
processors get from torch's `interpolate`. Nothing here may know size rules, files or how many pictures a request has.

Shape letters: C colour channels (red, green, blue), H W pixels of the source, P Q pixels of the result (rows, columns),
O results of one side, T taps of each; B bands of results, R rows of a band or chunk, K sources in a band's window.
"""

from __future__ import annotations

import contextlib
import functools
import math
import mmap
from collections.abc import Sequence

import numpy as np
import torch

from sglang_nemotron.config_omni import ImageRule, VideoRule
from sglang_nemotron.prompt.cargo import CHANNELS

# taps on either side, in source pixels when enlarging; the coefficient is Pillow's and torch's antialiased one
CUBIC_REACH = 2.0
CUBIC_A = -0.5
# results that one matrix product makes. A band of R needs a window of about (R + 4) * scale sources, most of whose
# weights are zeros: long bands multiply more zeros, short ones pay more calls. Down, the wider the window the shorter
ROWS_OF_WIDE, ROWS_OF_NARROW, WIDE = 8, 16, 2500
COLUMNS = 32
# float32 bytes between the two passes: stays in a core's second cache, yet is tall enough for the second's products
CHUNK_BYTES = 3 << 20
# rows of packed pixels that are taken apart at a time
ROWS_APART = 8
# memory from here on is asked for in huge pages: malloc maps so much afresh every time, and small pages would make its
# first touch cost twice as much. What is smaller it mostly has at hand
HUGE_BYTES = 64 << 20


def new_pixels(*shape: int) -> torch.Tensor:
    """Uninitialised float32 memory of this shape, for results of a `Resizer`."""
    size = 4 * math.prod(shape)
    if size < HUGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape, dtype=torch.float32)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):
        # a kernel without huge pages says so; the memory is good all the same
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32).view(shape)


class Resizer:
    """Pictures -> normalised pixels of one target size. One per thread: it owns the scratch memory that it reuses.

    A resize is two passes of banded matrix products, channel by channel. They are hundreds, too small to share: give
    torch one thread and resize pictures beside each other.
    """

    def __init__(self, grid: tuple[int, int], rule: ImageRule | VideoRule) -> None:
        self._size_PQ = (grid[0] * rule.patch_size, grid[1] * rule.patch_size)
        self._norms = tuple((1.0 / (255.0 * std), -mean / std) for mean, std in zip(rule.mean, rule.std, strict=True))
        self._planar_CHW = np.empty((CHANNELS, 0, 0), dtype=np.uint8)
        self._passes: _Passes | None = None

    def into(self, rgb_HWC: np.ndarray | torch.Tensor, out_CPQ: torch.Tensor) -> None:
        """rgb_HWC: uint8, of any size and strides. out_CPQ: float32, contiguous, written whole.

        Quickest where each colour's rows lie in one piece (a view of planar memory); other pixels are first brought
        there, which costs half as much again.
        """
        source_CHW = (rgb_HWC.numpy() if isinstance(rgb_HWC, torch.Tensor) else rgb_HWC).transpose(2, 0, 1)
        if source_CHW.strides[2] != 1:
            if self._planar_CHW.shape != source_CHW.shape:
                self._planar_CHW = np.empty(source_CHW.shape, dtype=np.uint8)
            # a few rows at a time: what one colour brings to the cache, the others find there
            for start in range(0, source_CHW.shape[1], ROWS_APART):
                rows = slice(start, start + ROWS_APART)
                np.copyto(self._planar_CHW[:, rows], source_CHW[:, rows], casting="no")
            source_CHW = self._planar_CHW
        self.planes_into(source_CHW, out_CPQ)

    def planes_into(self, planes_CHW: Sequence[np.ndarray] | np.ndarray, out_CPQ: torch.Tensor) -> None:
        """planes_CHW: uint8 red, green and blue, each in memory of its own or not. out_CPQ: as of `into`."""
        assert len(planes_CHW) == CHANNELS and all(plane.dtype == np.uint8 for plane in planes_CHW)
        assert out_CPQ.shape == (CHANNELS, *self._size_PQ) and out_CPQ.is_contiguous(), out_CPQ.shape
        assert out_CPQ.dtype == torch.float32, out_CPQ.dtype
        height, width = planes_CHW[0].shape
        if self._passes is None or self._passes.source_HW != (height, width):
            self._passes = _Passes((height, width), self._size_PQ, self._norms)
        for channel, out_PQ in enumerate(out_CPQ):
            self._passes.run(planes_CHW[channel], channel, out_PQ)


class _Passes:
    """Everything about a resize but its pixels. Made once: a view costs as much as the product that it is made for."""

    def __init__(
        self, source_HW: tuple[int, int], size_PQ: tuple[int, int], norms: tuple[tuple[float, float], ...]
    ) -> None:
        self.source_HW, self._size_PQ, self._norms = source_HW, size_PQ, norms
        height, width = source_HW
        self._block = ROWS_OF_WIDE if width * height > WIDE * size_PQ[0] else ROWS_OF_NARROW
        # result rows that go through both passes at a time, whole bands of them
        self._depth = min(size_PQ[0], max(1, CHUNK_BYTES // (4 * width * self._block)) * self._block)
        self._across: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        if width != size_PQ[1]:
            self._tall_RW = torch.empty((self._depth, width), dtype=torch.float32)
        if height == size_PQ[0]:
            return
        self._firsts, weights_BRK = bands(height, size_PQ[0], self._block)
        # normalising is free: the scale rides in the weights, the shift is the weight of one more source, always 1
        self._window_KW = torch.ones((1 + weights_BRK.shape[2], width), dtype=torch.float32)
        self._taps_KW = self._window_KW[1:].numpy()
        self._down = [
            torch.cat([torch.full_like(weights_BRK[:, :, :1], shift), weights_BRK * scale], dim=2).unbind()
            for scale, shift in norms
        ]

    def run(self, plane_HW: np.ndarray, channel: int, out_PQ: torch.Tensor) -> None:
        """One channel."""
        keeps_width = self.source_HW[1] == self._size_PQ[1]
        for start in range(0, len(out_PQ), self._depth):
            made_RQ = out_PQ[start : start + self._depth]
            tall_RW = made_RQ if keeps_width else self._tall_RW[: len(made_RQ)]
            self._run_down(plane_HW, channel, start, tall_RW)
            if not keeps_width:
                factors = self._factors_across(tall_RW)
                for (source_RK, weights_KO), columns_RO in zip(factors, made_RQ.split(COLUMNS, dim=1), strict=True):
                    torch.mm(source_RK, weights_KO, out=columns_RO)

    def _run_down(self, plane_HW: np.ndarray, channel: int, start: int, tall_RW: torch.Tensor) -> None:
        """Result rows from `start` on, normalised, as wide as the source."""
        if self.source_HW[0] == self._size_PQ[0]:
            scale, shift = self._norms[channel]
            tall_RW.numpy()[:] = plane_HW[start : start + len(tall_RW)]
            tall_RW.mul_(scale).add_(shift)
            return
        num_taps, weights = len(self._taps_KW), self._down[channel]
        for band, rows_RW in enumerate(tall_RW.split(self._block), start // self._block):
            first = self._firsts[band]
            # numpy's copy has the least to do before it starts
            self._taps_KW[:] = plane_HW[first : first + num_taps]
            torch.mm(weights[band][: len(rows_RW)], self._window_KW, out=rows_RW)

    def _factors_across(self, tall_RW: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(source_RK, weights_KO) of each band of columns. For the memory between the passes, whole or cut short."""
        num_rows, width = tall_RW.shape
        if num_rows not in self._across:
            firsts, weights_BOK = bands(width, self._size_PQ[1], COLUMNS)
            left = self._size_PQ[1] - COLUMNS * (len(firsts) - 1)
            weights = [*weights_BOK[:-1], weights_BOK[-1, :left]]
            self._across[num_rows] = [
                (tall_RW[:, first : first + band_OK.shape[1]], band_OK.t())
                for first, band_OK in zip(firsts, weights, strict=True)
            ]
        return self._across[num_rows]


@functools.lru_cache(maxsize=32)
def bands(num_in: int, num_out: int, block: int) -> tuple[tuple[int, ...], torch.Tensor]:
    """The weights of one side in bands of `block` results: (first source of each band's window, weights_BRK float32).

    Results past num_out, in the last band, weigh nothing. Shared between calls: never written to.
    """
    first_O, weights_OT = taps(num_in, num_out)
    top_B = first_O[::block]
    bottom_B = first_O[np.minimum(np.arange(block - 1, num_out + block - 1, block), num_out - 1)] + weights_OT.shape[1]
    num_taps = min(int((bottom_B - top_B).max()), num_in)
    top_B = np.minimum(top_B, num_in - num_taps)
    weights_BRK = np.zeros((len(top_B), block, num_taps), dtype=np.float32)
    band_O, row_O = np.divmod(np.arange(num_out), block)
    tap_OT = (first_O - top_B[band_O])[:, None] + np.arange(weights_OT.shape[1])
    # taps beyond the last source weigh nothing
    result, tap = np.nonzero(tap_OT < num_taps)
    weights_BRK[band_O[result], row_O[result], tap_OT[result, tap]] = weights_OT[result, tap]
    return tuple(top_B.tolist()), torch.from_numpy(weights_BRK)


def taps(num_in: int, num_out: int) -> tuple[np.ndarray, np.ndarray]:
    """(first_O int64, weights_OT float32): result o is the sum over t of weights[o, t] * source[first[o] + t].

    The cubic of Keys (1981), stretched by the factor of reduction, over the sources there are, normalised. In float32
    throughout and in torch's order: the rounding of its centres moves the taps of a wide picture by more than the 1e-5
    that we keep to.
    """
    one, half = np.float32(1.0), np.float32(0.5)
    scale = np.float32(num_in) / np.float32(num_out)
    stretch = max(scale, one)
    reach = np.float32(CUBIC_REACH) * stretch
    centre_O = scale * (np.arange(num_out, dtype=np.float32) + half)
    first_O = np.maximum((centre_O - reach + half).astype(np.int64), 0)
    count_O = np.minimum((centre_O + reach + half).astype(np.int64), num_in) - first_O
    tap_T = np.arange(count_O.max())
    distance_OT = np.abs(((first_O[:, None] + tap_T).astype(np.float32) - centre_O[:, None] + half) * (one / stretch))
    weights_OT = np.where(tap_T < count_O[:, None], cubic(distance_OT), np.float32(0.0))
    return first_O, weights_OT / weights_OT.sum(axis=1, keepdims=True, dtype=np.float32)


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel at distances x >= 0, in the type of x."""
    near = ((CUBIC_A + 2.0) * x - (CUBIC_A + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * CUBIC_A
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0)).astype(x.dtype)
