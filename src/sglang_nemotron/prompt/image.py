"""An image's size and a patch budget come in, a grid and a token count go out; or uint8 pixels, and a Picture goes out.

The numbers are those of the reference processor (transformers' `NemotronH_Omni_Reasoning_V3ImageProcessor`): bicubic,
antialiased, in float32 without clamping. Nothing here may know files, prompts or other images of the request.

Shape letters: C colour channels (3: red, green, blue), H W pixels of the source, P Q pixels of the result (rows,
columns), B blocks of result rows, R result rows in a block, K source rows in a block's window, O results, T taps.
"""

from __future__ import annotations

import functools
import math

import torch

from sglang_nemotron.config_omni import ImageRule
from sglang_nemotron.prompt.cargo import CHANNELS, MediaError, Picture

# the reference leaves room for so many tokens of text when it turns the context length into a budget
TEXT_TOKENS = 4
# bicubic: taps on either side, in source pixels when enlarging; the coefficient is Pillow's and torch's antialiased one
CUBIC_REACH = 2.0
CUBIC_A = -0.5
# result rows per matrix product: the window has about R * scale + 4 rows, so small blocks waste few zeros and large
# ones few calls; of 8, 16, 32 and 64, 16 was quickest for a 1080p photo on one AVX-512 core
BLOCK_ROWS = 16


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


def picture(rgb_HWC: torch.Tensor, rule: ImageRule, budget: int, *, name: str = "image") -> Picture:
    """The image resized to its grid and normalised. rgb_HWC: uint8, upright, any strides (planar is quickest).

    Made of hundreds of products too small to share: quickest where the caller gives torch one thread, and images run
    beside each other in as many workers as there are cores. With more threads the barriers cost more than they bring.
    """
    assert rgb_HWC.dtype == torch.uint8 and rgb_HWC.ndim == 3 and rgb_HWC.shape[2] == CHANNELS, rgb_HWC.shape
    height, width, _ = rgb_HWC.shape
    rows, columns = grid = image_grid(width, height, budget, rule, name=name)
    pixels = resize_normalised(rgb_HWC, (rows * rule.patch_size, columns * rule.patch_size), rule.mean, rule.std)
    return Picture(pixels, grid, image_tokens(grid, rule))


def resize_normalised(
    rgb_HWC: torch.Tensor,
    size_PQ: tuple[int, int],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> torch.Tensor:
    """uint8 (H, W, 3), any strides -> float32 (3, P, Q): (resized / 255 - mean) / std, bicubic, antialiased, unclamped.

    Separable, each pass a row of small dense products of a block's weights with the block's window. Normalisation rides
    in the first pass as one more weight on a row of ones. Memory beside the result: one channel at (P, W) in float32.
    """
    height, width, _ = rgb_HWC.shape
    result_CPQ = torch.empty(CHANNELS, *size_PQ)
    narrow = size_PQ[1] == width
    for channel in range(CHANNELS):
        source_HW = rgb_HWC[:, :, channel]
        tall_PW = result_CPQ[channel] if narrow else torch.empty(size_PQ[0], width)
        scale, shift = 1.0 / (255.0 * std[channel]), -mean[channel] / std[channel]
        if size_PQ[0] == height:
            tall_PW.copy_(source_HW).mul_(scale).add_(shift)
        else:
            _resize_rows(source_HW, tall_PW, scale, shift)
        if not narrow:
            _resize_columns(tall_PW, result_CPQ[channel])
    return result_CPQ


def _resize_rows(source_HW: torch.Tensor, out_PW: torch.Tensor, scale: float, shift: float) -> None:
    """uint8 rows to float32 rows: out = scale * resized + shift."""
    starts, weights_BRK = _blocks(source_HW.shape[0], out_PW.shape[0])
    window = weights_BRK.shape[2]
    weights = torch.cat([weights_BRK * scale, weights_BRK.new_full((*weights_BRK.shape[:2], 1), shift)], dim=2)
    window_KW = torch.ones(window + 1, source_HW.shape[1])
    taps_KW = window_KW[:window]
    for block, start in enumerate(starts):
        taps_KW.copy_(source_HW[start : start + window])
        out_RW = out_PW[block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS]
        torch.mm(weights[block, : out_RW.shape[0]], window_KW, out=out_RW)


def _resize_columns(source_PW: torch.Tensor, out_PQ: torch.Tensor) -> None:
    """float32 columns to float32 columns."""
    starts, weights_BRK = _blocks(source_PW.shape[1], out_PQ.shape[1])
    window = weights_BRK.shape[2]
    for block, start in enumerate(starts):
        out_PR = out_PQ[:, block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS]
        weights_KR = weights_BRK[block, : out_PR.shape[1]].T
        torch.mm(source_PW[:, start : start + window], weights_KR, out=out_PR)


@functools.lru_cache(maxsize=32)
def _blocks(num_in: int, num_out: int) -> tuple[tuple[int, ...], torch.Tensor]:
    """(first source row of each block's window, weights_BRK float32); rows past num_out in the last block are zero.

    Shared between calls: never written to.
    """
    first, weights = resize_weights(num_in, num_out)
    num_blocks = -(-num_out // BLOCK_ROWS)
    top = first[::BLOCK_ROWS]
    bottom = torch.cat([first[BLOCK_ROWS - 1 :: BLOCK_ROWS], first[-1:]])[:num_blocks] + weights.shape[1]
    window = min(int((bottom - top).max()), num_in)
    starts = top.clamp(max=num_in - window)
    rows = torch.arange(num_out)
    blocks = rows // BLOCK_ROWS
    dense_BRK = torch.zeros(num_blocks, BLOCK_ROWS, window)
    # taps beyond the image carry weight zero, so where they are put does not matter
    taps_OT = first[:, None] - starts[blocks][:, None] + torch.arange(weights.shape[1])
    dense_BRK.index_put_(
        (blocks[:, None], (rows % BLOCK_ROWS)[:, None], taps_OT.clamp(max=window - 1)), weights, accumulate=True
    )
    return tuple(starts.tolist()), dense_BRK


def resize_weights(num_in: int, num_out: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(first_O int64, weights_OT float32): result o is the sum over t of weights[o, t] * source[first[o] + t].

    A cubic (Keys, a = -0.5) stretched by the scale when shrinking, cut at the borders and renormalised. Computed in
    float32 throughout, as the reference does: at thousands of pixels its rounding of the centres is visible at 1e-5.
    """
    scale = torch.tensor(num_in, dtype=torch.float32) / num_out
    stretch = torch.clamp(scale, min=1.0)
    reach = CUBIC_REACH * stretch
    centre_O = scale * (torch.arange(num_out, dtype=torch.float32) + 0.5)
    first_O = (centre_O - reach + 0.5).to(torch.int64).clamp(min=0)
    last_O = (centre_O + reach + 0.5).to(torch.int64).clamp(max=num_in)
    tap_T = torch.arange(int((last_O - first_O).max()))
    distance_OT = ((tap_T + first_O[:, None]).to(torch.float32) - centre_O[:, None] + 0.5) * (1.0 / stretch)
    weights_OT = _cubic(distance_OT.abs()).masked_fill_(tap_T >= (last_O - first_O)[:, None], 0.0)
    return first_O, weights_OT / weights_OT.sum(dim=1, keepdim=True)


def _cubic(x: torch.Tensor) -> torch.Tensor:
    """Keys' cubic convolution kernel at distances x >= 0."""
    near = ((CUBIC_A + 2.0) * x - (CUBIC_A + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * CUBIC_A
    return torch.where(x < 1.0, near, torch.where(x < 2.0, far, torch.zeros_like(x)))
