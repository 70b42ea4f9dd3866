"""A picture's uint8 pixels come in; normalised pixels of another size go out. For images and videos alike.

Antialiased bicubic, neither rounded nor clamped, over 255, less the mean, over the deviation: what the reference
processors get from torch's `interpolate`. In float32, written in the type of the memory that it goes to. Nothing here
may know size rules, files or how many pictures a request has.

Shape letters: C colour channels (red, green, blue), H W pixels of the source, P Q pixels of the result (rows, columns),
O results of one side, T taps of each; B bands of results, R rows of a chunk, K sources in a band's window,
X columns of a row, W of the source; S bytes of a whole picture, gaps between its rows included.
"""

from __future__ import annotations

import contextlib
import functools
import math
import mmap
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from sglang_nemotron.config.omni import ImageRule, VideoRule
from sglang_nemotron.media.features import CHANNELS, PIXELS
from sglang_nemotron.media.pixels import PACKED

# taps on either side, in source pixels when enlarging; the coefficient is Pillow's and torch's antialiased one
CUBIC_REACH = 2.0
CUBIC_A = -0.5
# float32 bytes between the two passes: stays in a core's second cache
CHUNK_BYTES = 1 << 20
# memory from here on is asked for in huge pages: malloc maps so much afresh every time, and small pages would make its
# first touch cost twice as much. What is smaller it mostly has at hand
HUGE_BYTES = 64 << 20


class Memory(Protocol):
    """Makes uninitialised memory of a shape; its type is the maker's choice unless told."""

    def __call__(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor: ...


def new_pixels(*shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Uninitialised float32 memory of this shape, for results of a `Resizer`."""
    assert dtype in (None, torch.float32), dtype
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

    A resize is two compiled passes, down the columns, then along the rows. Each runs on one thread without the
    interpreter's lock: resize pictures beside each other.
    """

    def __init__(self, grid: tuple[int, int], rule: ImageRule | VideoRule) -> None:
        self._size_PQ = (grid[0] * rule.patch_size, grid[1] * rule.patch_size)
        self._norms = tuple((1.0 / (255.0 * std), -mean / std) for mean, std in zip(rule.mean, rule.std, strict=True))
        self._passes: _Passes | None = None

    def into(self, rgb_HWC: np.ndarray | torch.Tensor, out_CPQ: torch.Tensor, rows: range | None = None) -> None:
        """rgb_HWC: uint8, of any size and strides. out_CPQ: float32 or narrower, contiguous. rows: that are written.

        Quickest where a row's pixels lie in one piece, three or four bytes apart, or each colour's rows do.
        """
        source_HWC = rgb_HWC.numpy() if isinstance(rgb_HWC, torch.Tensor) else rgb_HWC
        height, width, colours = source_HWC.shape
        assert colours == CHANNELS and source_HWC.dtype == np.uint8, (source_HWC.shape, source_HWC.dtype)
        _, apart, within = source_HWC.strides
        rows = range(out_CPQ.shape[1]) if rows is None else rows
        if within == 1 and apart in PACKED and source_HWC.strides[0] >= apart * width:
            self.ready_for(height, width, apart)._run(source_HWC, 0, rows, out_CPQ)
        else:
            self.planes_into(source_HWC.transpose(2, 0, 1), out_CPQ, rows)

    def planes_into(
        self, planes_CHW: Sequence[np.ndarray] | np.ndarray, out_CPQ: torch.Tensor, rows: range | None = None
    ) -> None:
        """planes_CHW: uint8 red, green and blue, each in memory of its own or not. Else as `into`."""
        assert len(planes_CHW) == CHANNELS and all(plane.dtype == np.uint8 for plane in planes_CHW)
        height, width = planes_CHW[0].shape
        self.ready_for(height, width, 1)
        for channel, plane_HW in enumerate(planes_CHW):
            only = out_CPQ[channel : channel + 1]
            self._run(plane_HW[:, :, None], channel, range(out_CPQ.shape[1]) if rows is None else rows, only)

    def ready_for(self, height: int, width: int, pixel_bytes: int) -> Resizer:
        """Does what pictures of this size need beforehand. pixel_bytes: from one to the next; 1 of a plane."""
        if self._passes is None or self._passes.made_for != (height, width, pixel_bytes):
            self._passes = _Passes((height, width), pixel_bytes, self._size_PQ, self._norms)
        return self

    def _run(self, source_HWC: np.ndarray, channel: int, rows: range, out: torch.Tensor) -> None:
        # machine code checks nothing
        assert self._passes is not None and source_HWC.shape[:2] == self._passes.made_for[:2], source_HWC.shape
        assert out.shape == (source_HWC.shape[2], *self._size_PQ) and out.is_contiguous(), out.shape
        assert rows.step == 1 and rows.start >= 0 and rows.stop <= out.shape[1], rows
        assert out.dtype in PIXELS, out.dtype
        self._passes.run(source_HWC, channel, rows, out)


class _Passes:
    """Everything about a resize but its pixels, made once for pictures of one size.

    pixel_bytes: as of `Resizer.ready_for`. norms: (scale, shift) by colour.
    """

    def __init__(
        self,
        source_HW: tuple[int, int],
        pixel_bytes: int,
        size_PQ: tuple[int, int],
        norms: tuple[tuple[float, float], ...],
    ) -> None:
        # compiled on import, which takes seconds and a library that text alone does not need
        from sglang_nemotron.media.pixels import columns
        from sglang_nemotron.media.pixels import rows as resize_rows

        self._columns, self._rows = columns, resize_rows
        (height, width), self._norms = source_HW, norms
        self.made_for, self._pixel_bytes = (height, width, pixel_bytes), pixel_bytes
        self._keeps_height, self._keeps_width = height == size_PQ[0], width == size_PQ[1]
        num_colours = CHANNELS if pixel_bytes > 1 else 1
        # result rows that go through both passes at a time
        tile, row_bytes = columns.ROWS, 4 * num_colours * width
        self._depth = tile * max(1, min(-(-size_PQ[0] // tile), CHUNK_BYTES // (row_bytes * tile)))
        # where the memory they go to is narrower
        self._wide_CRQ: torch.Tensor | None = None
        if not self._keeps_width:
            self._tall_CRW = np.empty((num_colours, self._depth, width), dtype=np.float32)
            self._first_B, self._weights_BKO = bands(width, size_PQ[1], columns.COLUMNS)
            self._spare_RO = np.empty((tile, columns.COLUMNS), dtype=np.float32)
        if not self._keeps_height:
            self._first_P, weights_PT = taps(height, size_PQ[0])
            self._weights_PT = resize_rows.whole_sweeps(weights_PT)
            # the last pass normalises, at no cost
            self._norms_down_CN = np.array(norms if self._keeps_width else [(1.0, 0.0)] * CHANNELS, dtype=np.float32)

    def run(self, source_HWC: np.ndarray, channel: int, rows: range, out: torch.Tensor) -> None:
        """source_HWC: uint8; out: (C, P, Q), of which `rows` are written. channel: which colour a plane has."""
        source = None if self._keeps_height else _flat(source_HWC)
        for start in range(rows.start, rows.stop, self._depth):
            made_rows = slice(start, min(start + self._depth, rows.stop))
            out_CRQ = out[:, made_rows]
            made_CRQ = out_CRQ if out.dtype == torch.float32 else self._wide(out)[:, : out_CRQ.shape[1]]
            made = made_CRQ.numpy()
            tall_CRW = made if self._keeps_width else self._tall_CRW[:, : made.shape[1]]
            if source is None:
                tall_CRW[:] = source_HWC[made_rows].transpose(2, 0, 1)
            else:
                self._run_down(source, channel, made_rows, tall_CRW)
            if not self._keeps_width:
                self._run_across(channel, made)
            elif source is None:
                for made_RQ, (scale, shift) in zip(made_CRQ, self._norms[channel:], strict=False):
                    made_RQ.mul_(scale).add_(shift)
            if made_CRQ is not out_CRQ:
                out_CRQ.copy_(made_CRQ)

    def _wide(self, out: torch.Tensor) -> torch.Tensor:
        """Float32 memory for results of a chunk: they are narrowed while they are still in the cache."""
        if self._wide_CRQ is None:
            self._wide_CRQ = torch.empty((out.shape[0], self._depth, out.shape[2]), dtype=torch.float32)
        return self._wide_CRQ

    def _run_down(self, source: tuple[np.ndarray, int], channel: int, rows: slice, tall_CRW: np.ndarray) -> None:
        """Those result rows, as wide as the source. source: as `_flat` gives it."""
        taken = *source, self._first_P[rows], self._weights_PT[rows]
        if len(tall_CRW) == 1:
            self._rows.sum_rows(*taken, *self._norms_down_CN[channel], tall_CRW[0])
        else:
            self._rows.sum_pixels[self._pixel_bytes](*taken, self._norms_down_CN, *tall_CRW)

    def _run_across(self, channel: int, made_CRQ: np.ndarray) -> None:
        """Of `_tall_CRW`, whose further rows do not matter."""
        for colour, made_RQ in enumerate(made_CRQ):
            scale, shift = self._norms[channel + colour]
            self._columns.sum_columns(
                self._tall_CRW[colour], self._first_B, self._weights_BKO, scale, shift, self._spare_RO, made_RQ
            )


def _flat(pixels_HWC: np.ndarray) -> tuple[np.ndarray, int]:
    """(bytes_S, bytes from one row to the next) of uint8 pixels; a copy unless rows lie in order, each in one piece."""
    height, width, colours = pixels_HWC.shape
    step, apart, within = pixels_HWC.strides
    if height == 1:
        # means nothing, and may be anything
        step = max(step, width * apart)
    if within != 1 or step < width * apart or (colours == 1 and apart != 1):
        pixels_HWC = np.ascontiguousarray(pixels_HWC)
        step, apart, within = pixels_HWC.strides
    size = (height - 1) * step + (width - 1) * apart + colours
    return np.lib.stride_tricks.as_strided(pixels_HWC, (size,), (1,), writeable=False), step


@functools.lru_cache(maxsize=32)
def bands(num_in: int, num_out: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """The weights of one side in bands of `block` results: (first source of each band's window, weights_BKO float32).

    Results past num_out, in the last band, weigh nothing. Shared between calls: never written to.
    """
    first_O, weights_OT = taps(num_in, num_out)
    top_B = first_O[::block]
    bottom_B = first_O[np.minimum(np.arange(block - 1, num_out + block - 1, block), num_out - 1)] + weights_OT.shape[1]
    num_sources = min(int((bottom_B - top_B).max()), num_in)
    top_B = np.minimum(top_B, num_in - num_sources)
    weights_BKO = np.zeros((len(top_B), num_sources, block), dtype=np.float32)
    band_O, place_O = np.divmod(np.arange(num_out), block)
    source_OT = (first_O - top_B[band_O])[:, None] + np.arange(weights_OT.shape[1])
    # taps beyond the last source weigh nothing
    result, tap = np.nonzero(source_OT < num_sources)
    weights_BKO[band_O[result], source_OT[result, tap], place_O[result]] = weights_OT[result, tap]
    return top_B, weights_BKO


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
