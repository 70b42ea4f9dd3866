"""An image's size and a patch budget come in, a grid and a token count go out; or uint8 pixels, and a Picture goes out.

The numbers are those of the reference processor (transformers' `NemotronH_Omni_Reasoning_V3ImageProcessor`). Nothing
here may know files, prompts or other images of the request.

Shape letters: C colour channels (3: red, green, blue), H W pixels of the source, P Q pixels of the result (rows,
columns).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

import numpy as np
import torch

from sglang_nemotron.config.omni import ImageRule
from sglang_nemotron.media.features import CHANNELS, Picture
from sglang_nemotron.media.image.memory import PIXEL_BYTES
from sglang_nemotron.media.pixels.resize import Memory, Resizer, new_pixels
from sglang_nemotron.prompt.errors import MediaError

# result rows that a thread takes at a time
ROWS_AT_ONCE = 64
# the reference leaves room for so many tokens of text when it turns the context length into a budget
TEXT_TOKENS = 4


def image_budget(context_length: int, rule: ImageRule, max_image_tokens: int | None = None) -> int:
    """Most patches of one image, before its sides are made even (which may add a row or a column).

    context_length: tokens the server really serves. max_image_tokens: the request's or the server's own limit per
    image; below the checkpoint's minimum, to which small images are enlarged, it is a ValueError.
    Every image of a request gets the same budget; images that do not fit together are the caller's to refuse.
    Source: `_preprocess` of the reference; its term in the number of images matters only where they cannot fit anyway.
    """
    tokens_to_patches = rule.merge_size**2
    budget = (context_length - TEXT_TOKENS) * tokens_to_patches
    if rule.max_patches:
        budget = min(budget, rule.max_patches)
    if max_image_tokens is not None:
        least = -(-rule.min_patches // tokens_to_patches)
        if max_image_tokens < least:
            raise ValueError(f"max_image_tokens is {max_image_tokens}; the least this checkpoint allows is {least}")
        budget = min(budget, max_image_tokens * tokens_to_patches)
    return max(budget, rule.min_patches)


def image_grid(width: int, height: int, budget: int, rule: ImageRule, *, name: str = "image") -> tuple[int, int]:
    """(rows, columns) in patches to which an upright image of width x height pixels is resized. Needs no pixels.

    The grid keeps the aspect ratio, is even on both sides and as a rule within [rule.min_patches, budget]; a very long
    image may exceed the budget by up to the factor 2, as in the reference. Where the reference divides by zero (sides
    so unequal that the short one would vanish) a MediaError names the image. Source: `get_patch_grid_size`.
    """
    if width < 1 or height < 1:
        raise MediaError(name, f"{width} x {height} pixels", "at least 1 x 1")
    # python rounds halves to even, so whole numbers stay if even and grow by one if odd; others go up
    rows = round(height / rule.patch_size + 0.5)
    columns = round(width / rule.patch_size + 0.5)
    shrink = min(math.sqrt(budget / (rows * columns)), 1.0)
    rows, columns = math.floor(shrink * rows), math.floor(shrink * columns)
    if rows < 1 or columns < 1:
        raise MediaError(
            name,
            f"{width} x {height} pixels are too long and thin to be resized to {budget} patches",
            f"the long side may be about {budget} times the short one",
        )
    if rows * columns < rule.min_patches < budget:
        enlarge = math.sqrt(rule.min_patches / (rows * columns))
        rows, columns = math.ceil(enlarge * rows), math.ceil(enlarge * columns)
    # height first: the width's test must see the rounded height
    rows = _whole_tokens(rows, columns, budget, rule.merge_size)
    columns = _whole_tokens(columns, rows, budget, rule.merge_size)
    return rows, columns


def _whole_tokens(side: int, other: int, budget: int, merge_size: int) -> int:
    """The side as a multiple of merge_size: up if the grid stays within the budget, else down, at least one token."""
    up = -(-side // merge_size) * merge_size
    if up == side or up * other <= budget:
        return up
    return max(merge_size, up - merge_size)


def image_tokens(grid_HW: tuple[int, int], rule: ImageRule) -> int:
    """Tokens the language model sees, without the start and end tags around them."""
    rows, columns = grid_HW
    return rows * columns // rule.merge_size**2


def picture(rgb_HWC: np.ndarray | torch.Tensor, rule: ImageRule, budget: int, *, name: str = "image") -> Picture:
    """The image resized to its grid and normalised, in float32. rgb_HWC: uint8, upright, any strides."""
    height, width, _ = rgb_HWC.shape
    grid = image_grid(width, height, budget, rule, name=name)
    pixels_CPQ = new_pixels(*_pixels_shape(grid, rule))
    Resizer(grid, rule).into(rgb_HWC, pixels_CPQ)
    return Picture(pixels_CPQ, grid, image_tokens(grid, rule))


def _pixels_shape(grid: tuple[int, int], rule: ImageRule) -> tuple[int, int, int]:
    return CHANNELS, grid[0] * rule.patch_size, grid[1] * rule.patch_size


class PictureToBe:
    """As `picture`, begun when only the upright size is known, and made in two threads when the file is decoded.

    The first touch of the pixels' memory costs as much as the resize, and is done meanwhile. memory: makes what they
    are written to; theirs is its type. start: runs a job in another thread. Raises MediaError.
    """

    def __init__(
        self,
        width: int,
        height: int,
        rule: ImageRule,
        budget: int,
        *,
        name: str,
        memory: Memory,
        start: Callable[[Callable[[], Any]], Future[Any]],
    ) -> None:
        self._grid = image_grid(width, height, budget, rule, name=name)
        self._source_HW, self._rule, self._memory, self._start = (height, width), rule, memory, start
        self._lock = threading.Lock()
        self._num_taken, self._num_rows = 0, self._grid[0] * rule.patch_size
        self._ready = start(self._prepare)

    def of(self, rgb_HWC: np.ndarray) -> Picture:
        """rgb_HWC: uint8, of the size that was said; quickest where pixels are PIXEL_BYTES apart."""
        helper = self._start(lambda: self._make_beside(rgb_HWC))
        try:
            pixels_CPQ, resizer, _ = self._ready.result()
            self._make(rgb_HWC, pixels_CPQ, resizer)
            helper.result()
        finally:
            wait([helper])
            # an error in a future holds the future, and both the memory, until Python collects its garbage
            del helper, self._ready
        return Picture(pixels_CPQ, self._grid, image_tokens(self._grid, self._rule))

    def _prepare(self) -> tuple[torch.Tensor, Resizer, Resizer]:
        """The pixels' memory, and a resizer for each of two threads."""
        pixels_CPQ = self._memory(*_pixels_shape(self._grid, self._rule)).zero_()
        first, second = (Resizer(self._grid, self._rule).ready_for(*self._source_HW, PIXEL_BYTES) for _ in range(2))
        return pixels_CPQ, first, second

    def _make_beside(self, rgb_HWC: np.ndarray) -> None:
        pixels_CPQ, _, resizer = self._ready.result()
        self._make(rgb_HWC, pixels_CPQ, resizer)

    def _make(self, rgb_HWC: np.ndarray, pixels_CPQ: torch.Tensor, resizer: Resizer) -> None:
        """Makes rows that nobody else makes, until there are no more."""
        while rows := self._take():
            resizer.into(rgb_HWC, pixels_CPQ, rows)

    def _take(self) -> range:
        with self._lock:
            first = self._num_taken
            self._num_taken = min(first + ROWS_AT_ONCE, self._num_rows)
            return range(first, self._num_taken)
