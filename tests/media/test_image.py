"""Grids, budgets and pixels against the reference processor, and planted faults that these comparisons catch."""

from __future__ import annotations

import functools
import gc
import random
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from sglang_nemotron.config.omni import ImageRule
from sglang_nemotron.media.image.picture import PictureToBe, image_budget, image_grid, image_tokens, picture
from sglang_nemotron.media.pixels.resize import Resizer
from sglang_nemotron.prompt.errors import MediaError

GOLDEN_TOKENS = {
    (224, 224): 256,
    (64, 32): 276,
    (512, 512): 256,
    (640, 480): 300,
    (1000, 500): 512,
    (1024, 1024): 1024,
    (1280, 720): 920,
    (1920, 1080): 2040,
    (2048, 2048): 3306,
    (3840, 2160): 3311,
}
CONTEXTS = (100, 300, 1000, 2051, 3331, 3332, 3333, 8192, 16384, 262144)


def random_sizes(count: int, largest: int, seed: int) -> list[tuple[int, int]]:
    """(width, height): all over the square, near it, on the sides' multiples of 16, and as long and thin as can be."""
    pick = random.Random(seed)
    sizes = [(1, 1), (1, largest), (largest, 1), (largest, largest), (528, 528), (16, 16), (17, 31)]
    while len(sizes) < count:
        kind = len(sizes) % 4
        if kind == 0:
            size = (pick.randint(1, largest), pick.randint(1, largest))
        elif kind == 1:
            size = (int(largest ** pick.random()), int(largest ** pick.random()))
        elif kind == 2:
            size = (16 * pick.randint(1, largest // 16), 16 * pick.randint(1, largest // 16))
        else:
            size = (pick.randint(1, 40), pick.randint(1, largest))
        sizes.append(size if pick.random() < 0.5 else (size[1], size[0]))
    return sizes


def reference_grids(processor, sizes: list[tuple[int, int]]) -> list[tuple[int, int]]:  # noqa: ANN001
    """Of the processor's own preprocessing, on tensors that have a shape but no memory."""
    grids = []
    for width, height in sizes:
        shape_only = torch.empty(3, height, width, dtype=torch.uint8, device="meta")
        made = processor.preprocess([shape_only], input_data_format="channels_first", return_tensors=None)
        grids.append(tuple(made["image_grid_hw"][0].tolist()))
    return grids


def reference_pixels(processor, pil: Image.Image) -> torch.Tensor:  # noqa: ANN001
    """(3, H, W), put together again from the processor's rows of patches."""
    made = processor.preprocess([pil], return_tensors="pt")
    rows, columns = made["image_grid_hw"][0].tolist()
    patches = made["pixel_values"].reshape(rows, columns, 3, 16, 16)
    return patches.permute(2, 0, 3, 1, 4).reshape(3, rows * 16, columns * 16)


def random_pixels(width: int, height: int, seed: int) -> np.ndarray:
    """Noise, the hardest thing to resize, or a hard edge, which overshoots most."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return noise if seed % 3 else (noise > 127).astype(np.uint8) * 255


@pytest.mark.parametrize(("size", "tokens"), GOLDEN_TOKENS.items())
def test_golden_sizes(size: tuple[int, int], tokens: int, image_rule: ImageRule) -> None:
    grid = image_grid(*size, image_budget(16384, image_rule), image_rule)
    assert image_tokens(grid, image_rule) == tokens
    if size == (64, 32):
        assert grid == (24, 46)


def test_grids_of_5000_random_sizes(image_rule: ImageRule, reference: Callable) -> None:
    sizes = random_sizes(5000, 8192, seed=1)
    processors = {context: reference(context) for context in CONTEXTS}
    differing = {}
    for index, context in enumerate(CONTEXTS):
        share = sizes[index :: len(CONTEXTS)]
        budget = image_budget(context, image_rule)
        ours = [image_grid(*size, budget, image_rule) for size in share]
        for size, mine, theirs in zip(share, ours, reference_grids(processors[context], share), strict=True):
            if mine != theirs:
                differing[size, context] = (mine, theirs)
    assert not differing


@pytest.mark.parametrize(
    "fault",
    [
        # odd whole numbers must grow: plain rounding up does not
        lambda width, height, budget, rule: image_grid(width - (width % 32 == 16), height, budget, rule),
        lambda width, height, budget, rule: image_grid(width, height, budget + 1, rule),
        # width before height
        lambda width, height, budget, rule: image_grid(height, width, budget, rule)[::-1],
    ],
)
def test_grid_comparison_can_fail(fault: Callable, image_rule: ImageRule, reference: Callable) -> None:
    sizes = random_sizes(600, 8192, seed=2)
    budget = image_budget(2051, image_rule)
    planted = [fault(*size, budget, image_rule) for size in sizes]
    assert planted != reference_grids(reference(2051), sizes)


def test_pixels_of_200_random_images(image_rule: ImageRule, reference: Callable) -> None:
    """At the least budget, so that images are enlarged, shrunk and left alone at little cost."""
    sizes = [*random_sizes(194, 700, seed=3), (512, 512), (512, 300), (300, 512), (1920, 1080), (1500, 90), (640, 480)]
    worst = 0.0
    for number, (width, height) in enumerate(sizes):
        context = 260 if number % 5 else 700
        pixels = random_pixels(width, height, number)
        made = picture(torch.from_numpy(pixels), image_rule, image_budget(context, image_rule))
        theirs = reference_pixels(reference(context), Image.fromarray(pixels))
        assert made.feature.shape == theirs.shape
        worst = max(worst, (made.feature - theirs).abs().max().item())
    assert worst <= 1e-5


def test_pixels_of_long_and_large_images(image_rule: ImageRule, reference: Callable) -> None:
    """Where float32 centres lose most digits, at the published context length."""
    for width, height in [(1, 8000), (8000, 1), (6000, 40), (1920, 1080)]:
        pixels = random_pixels(width, height, 1)
        made = picture(torch.from_numpy(pixels), image_rule, image_budget(262144, image_rule))
        theirs = reference_pixels(reference(262144), Image.fromarray(pixels))
        assert (made.feature - theirs).abs().max().item() <= 1e-5


def torch_memory(*shape: int, dtype: torch.dtype | None = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(1920, 1080), (300, 200), (512, 512), (40, 900)])
def test_a_picture_begun_before_its_pixels_is_the_same(
    size: tuple[int, int], dtype: torch.dtype, image_rule: ImageRule
) -> None:
    pixels = random_pixels(*size, 0)
    whole = picture(pixels, image_rule, 13312)

    memory = functools.partial(torch_memory, dtype=dtype)
    with ThreadPoolExecutor(2) as pool:
        begun = PictureToBe(*size, image_rule, 13312, name="image 1", memory=memory, start=pool.submit)
        made = begun.of(pixels)
    assert (made.grid_HW, made.num_tokens) == (whole.grid_HW, whole.num_tokens)
    assert torch.equal(made.feature, whole.feature.to(dtype))


@pytest.mark.parametrize("size", [(1920, 1080), (900, 600), (700, 1200), (512, 512), (40, 900)])
def test_a_picture_of_two_threads_is_the_same(size: tuple[int, int], image_rule: ImageRule) -> None:
    memory_HW4 = np.zeros((size[1], size[0], 4), dtype=np.uint8)
    memory_HW4[:, :, :3] = pixels = random_pixels(*size, 1)
    with ThreadPoolExecutor(2) as pool:
        begun = PictureToBe(*size, image_rule, 13312, name="image 1", memory=torch_memory, start=pool.submit)
        made = begun.of(memory_HW4[:, :, :3]).feature
    assert torch.equal(made, picture(pixels, image_rule, 13312).feature)


def test_an_error_of_both_threads_keeps_nothing(monkeypatch: pytest.MonkeyPatch, image_rule: ImageRule) -> None:
    def fails(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Resizer, "into", fails)
    gc.disable()
    try:
        with ThreadPoolExecutor(2) as pool:
            pixels = random_pixels(900, 600, 1)
            made = PictureToBe(900, 600, image_rule, 13312, name="image 1", memory=torch_memory, start=pool.submit)
            begun, memory = weakref.ref(made), weakref.ref(pixels)
            with pytest.raises(MemoryError):
                made.of(pixels)
            del made, pixels
        assert begun() is None and memory() is None
    finally:
        gc.enable()


def test_memory_that_cannot_be_had_is_told_where_the_picture_is_made(image_rule: ImageRule) -> None:
    def none(*_: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        raise MemoryError

    with ThreadPoolExecutor(2) as pool:
        begun = PictureToBe(64, 64, image_rule, 13312, name="image 1", memory=none, start=pool.submit)
        with pytest.raises(MemoryError):
            begun.of(random_pixels(64, 64, 0))


@pytest.mark.parametrize("fault", ["clamped", "swapped mean"])
def test_pixel_comparison_can_fail(fault: str, image_rule: ImageRule, reference: Callable) -> None:
    pixels = random_pixels(900, 600, 1)
    rule = image_rule
    if fault == "swapped mean":
        rule = ImageRule(16, 2, 1024, 13312, image_rule.mean[::-1], image_rule.std)
    made = picture(torch.from_numpy(pixels), rule, image_budget(260, rule)).feature
    if fault == "clamped":
        mean, std = (torch.tensor(values)[:, None, None] for values in (rule.mean, rule.std))
        made = ((made * std + mean).clamp(0, 1) - mean) / std
    theirs = reference_pixels(reference(260), Image.fromarray(pixels))
    assert (made - theirs).abs().max().item() > 1e-5


def test_budget_follows_context_and_limit(image_rule: ImageRule) -> None:
    assert [image_budget(context, image_rule) for context in (1, 260, 261, 1000, 3332, 3333, 262144)] == [
        *(1024, 1024, 1028, 3984, 13312, 13312, 13312)
    ]
    assert image_budget(262144, image_rule, max_image_tokens=300) == 1200
    assert image_budget(1000, image_rule, max_image_tokens=3000) == 3984
    assert image_budget(262144, image_rule, max_image_tokens=256) == 1024
    uncapped = ImageRule(16, 2, 1024, 0, image_rule.mean, image_rule.std)
    assert image_budget(10004, uncapped) == 40000
    with pytest.raises(ValueError, match=r"max_image_tokens is 255; the least this checkpoint allows is 256"):
        image_budget(262144, image_rule, max_image_tokens=255)


def test_token_limit_bounds_a_photo(image_rule: ImageRule) -> None:
    budget = image_budget(262144, image_rule, max_image_tokens=500)
    assert 400 < image_tokens(image_grid(4032, 3024, budget, image_rule), image_rule) <= 500


def test_sizes_the_reference_cannot_resize(image_rule: ImageRule, reference: Callable) -> None:
    budget = image_budget(16384, image_rule)
    with pytest.raises(ZeroDivisionError):
        reference_grids(reference(16384), [(1_000_000, 1)])
    with pytest.raises(MediaError, match=r"image 3: 1000000 x 1 pixels are too long and thin .*13312"):
        image_grid(1_000_000, 1, budget, image_rule, name="image 3")
    with pytest.raises(MediaError, match="image 1: 0 x 5 pixels"):
        image_grid(0, 5, budget, image_rule, name="image 1")
    # long, but within what the reference resizes: it exceeds its own budget, and so do we
    assert [image_grid(200_000, 1, budget, image_rule)] == reference_grids(reference(16384), [(200_000, 1)])
