"""Resized pixels against torch's own antialiased bicubic, planted faults, and what memory pixels may lie in."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from sglang_nemotron.config.omni import VideoRule
from sglang_nemotron.media.pixels import resize
from sglang_nemotron.media.pixels.resize import Resizer, new_pixels
from support.video_media import MEAN, STD

# (width, height) of the source and of the result: whole and broken bands, both ways, one way, none
SIZES = [
    ((100, 41), (53, 37)),
    ((100, 41), (200, 16)),
    ((100, 41), (41, 100)),
    ((100, 41), (1, 1)),
    ((100, 41), (100, 200)),
    ((100, 41), (33, 41)),
    ((100, 41), (100, 41)),
    ((1, 1), (64, 48)),
    ((1, 700), (32, 32)),
    ((1920, 1080), (672, 384)),
    ((1280, 720), (1280, 736)),
    ((7990, 3), (3328, 16)),
]


def rule(mean: tuple[float, float, float] = MEAN, std: tuple[float, float, float] = STD) -> VideoRule:
    """With patches of one pixel, so that a grid is a size."""
    return VideoRule(
        patch_size=1,
        merge_size=1,
        target_patches=1024,
        keep_aspect=True,
        temporal_patch_size=2,
        pruning_rate=0.0,
        mean=mean,
        std=std,
    )


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    """The hardest thing to resize, with an edge, which overshoots most: a clamp would show."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[: height // 2, : width // 2] = 255
    pixels[: height // 2, width // 2 : width // 2 + 9] = 0
    return pixels


def resized(pixels: np.ndarray | torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    out = torch.full((3, size[1], size[0]), float("nan"))
    Resizer(out.shape[1:], rule()).into(pixels, out)
    return out


def by_torch(pixels: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """What the reference processors call, and their normalisation."""
    source = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    made = torch.nn.functional.interpolate(source, size[::-1], mode="bicubic", antialias=True)[0]
    return (made / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def difference(size: tuple[int, int], to: tuple[int, int]) -> float:
    """The largest of packed pixels', with a byte between or none, and of planar ones'."""
    pixels = noise(*size)
    planar = np.ascontiguousarray(pixels.transpose(2, 0, 1)).transpose(1, 2, 0)
    apart = np.pad(pixels, ((0, 0), (0, 0), (0, 1)))[:, :, :3]
    expected = by_torch(pixels, to)
    return max((resized(source, to) - expected).abs().max().item() for source in (pixels, apart, planar))


@pytest.mark.parametrize(("size", "to"), SIZES)
def test_pixels_equal_torchs(size: tuple[int, int], to: tuple[int, int]) -> None:
    assert difference(size, to) <= 1e-5


def plain_taps(num_in: int, num_out: int, *, exact: bool = False, antialias: bool = True) -> tuple[np.ndarray, ...]:
    """As `taps`, by choice with centres that are not rounded to float32, or with a cubic that is never stretched."""
    kind = np.float64 if exact else np.float32
    scale = kind(num_in) / kind(num_out)
    stretch = max(scale, kind(1)) if antialias else kind(1)
    centre = scale * (np.arange(num_out, dtype=kind) + kind(0.5))
    reach = 2 * stretch
    first = np.maximum((centre - reach + kind(0.5)).astype(np.int64), 0)
    count = np.minimum((centre + reach + kind(0.5)).astype(np.int64), num_in) - first
    tap = np.arange(count.max())
    weights = resize.cubic(np.abs(((first[:, None] + tap).astype(kind) - centre[:, None] + kind(0.5)) / stretch))
    weights[tap >= count[:, None]] = 0
    return first, (weights / weights.sum(1, keepdims=True)).astype(np.float32)


@pytest.fixture
def fresh_bands() -> Iterator[None]:
    resize.bands.cache_clear()
    yield
    resize.bands.cache_clear()


@pytest.mark.usefixtures("fresh_bands")
@pytest.mark.parametrize("fault", ["none", "coefficient", "no antialias", "centres in float64", "a little too much"])
def test_the_comparison_can_fail(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true_taps = resize.taps
    if fault == "none":
        monkeypatch.setattr(resize, "taps", plain_taps)
    elif fault == "coefficient":
        monkeypatch.setattr(resize, "CUBIC_A", -0.75)
    elif fault == "no antialias":
        monkeypatch.setattr(resize, "taps", lambda num_in, num_out: plain_taps(num_in, num_out, antialias=False))
    elif fault == "centres in float64":
        monkeypatch.setattr(resize, "taps", lambda num_in, num_out: plain_taps(num_in, num_out, exact=True))
    else:

        def heavier(num_in: int, num_out: int) -> tuple[np.ndarray, np.ndarray]:
            first, weights = true_taps(num_in, num_out)
            return first, weights * np.float32(1.0001)

        monkeypatch.setattr(resize, "taps", heavier)
    worst = max(difference((7990, 3), (3328, 16)), difference((900, 600), (672, 384)))
    assert (worst > 1e-5) == (fault != "none")


def test_a_picture_of_the_target_size_is_not_resampled() -> None:
    pixels = noise(100, 41)
    plain = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    exact = (plain - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    assert (resized(pixels, (100, 41)) - exact).abs().max().item() <= 2e-6


@pytest.mark.parametrize("to", [(90, 64), (333, 64), (90, 222), (333, 222)])
def test_memory_changes_no_more_than_rounding(to: tuple[int, int]) -> None:
    """Equal bits where the colours lie apart, and equal bits where they are packed."""
    packed = noise(333, 222)
    planes = np.ascontiguousarray(packed.transpose(2, 0, 1))
    wide = np.zeros((222, 400, 3), dtype=np.uint8)
    wide[:, 7:340] = packed
    doubled = np.repeat(packed, 2, axis=1)
    side_by_side = [packed, torch.from_numpy(packed), wide[:, 7:340], np.ascontiguousarray(packed[::-1])[::-1]]
    apart = [
        planes.transpose(1, 2, 0),
        torch.from_numpy(planes).permute(1, 2, 0),
        doubled[:, ::2],
        np.ascontiguousarray(packed[::-1, ::-1])[::-1, ::-1],
        np.asfortranarray(packed),
    ]
    for group in (side_by_side, apart):
        assert all(np.array_equal(same, packed) for same in group)
        assert all(torch.equal(resized(same, to), resized(group[0], to)) for same in group)
    planar = resized(apart[0], to)
    assert (resized(packed, to) - planar).abs().max().item() <= 2e-6
    own = [np.pad(plane, ((0, 0), (0, 3 * number + 1)))[:, :333] for number, plane in enumerate(planes)]
    out = torch.full_like(planar, float("nan"))
    Resizer((to[1], to[0]), rule()).planes_into(own, out)
    assert torch.equal(out, planar)


def test_a_source_is_left_as_it_was() -> None:
    pixels = noise(100, 41)
    pixels.flags.writeable = False
    Resizer((16, 16), rule()).into(pixels, torch.empty(3, 16, 16))
    assert np.array_equal(pixels, noise(100, 41))


@pytest.mark.parametrize("to", [(640, 480), (400, 100), (120, 300), (400, 300)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrower_memory_gets_the_same_pixels_rounded(dtype: torch.dtype, to: tuple[int, int]) -> None:
    """Packed and planar; sides that are kept, and ones that are not."""
    packed = noise(400, 300)
    for pixels in (packed, np.ascontiguousarray(packed.transpose(2, 0, 1)).transpose(1, 2, 0)):
        out = torch.full((3, to[1], to[0]), float("nan"), dtype=dtype)
        Resizer((to[1], to[0]), rule()).into(pixels, out)
        assert torch.equal(out, resized(pixels, to).to(dtype))


def test_pictures_of_one_resizer_do_not_disturb_each_other() -> None:
    """Of several sizes, in turn, packed and planar."""
    shared = Resizer((64, 48), rule())
    for number, (width, height) in enumerate([(400, 300), (48, 96), (400, 300), (80, 64), (48, 64), (80, 384)]):
        pixels = noise(width, height, number)
        if number % 2:
            pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1)).transpose(1, 2, 0)
        out = torch.full((3, 64, 48), float("nan"))
        shared.into(pixels, out)
        assert torch.equal(out, resized(pixels, (48, 64)))


@pytest.mark.parametrize("to", [(210, 100), (333, 100), (210, 222), (333, 222)])
def test_rows_are_made_alone(to: tuple[int, int]) -> None:
    pixels = noise(333, 222)
    whole, parts = resized(pixels, to), torch.full((3, to[1], to[0]), float("nan"))
    resizer = Resizer((to[1], to[0]), rule())
    for rows in (range(37, 90), range(37), range(90, to[1])):
        resizer.into(pixels, parts, rows)
        missing = parts.isnan().any(dim=0).any(dim=1).nonzero().flatten().tolist()
        assert rows[0] not in missing and rows[-1] not in missing
    assert torch.equal(parts, whole)


@pytest.mark.parametrize("rows", [1, 24, 100, 1000])
@pytest.mark.parametrize("to", [(210, 100), (333, 100), (210, 222)])
def test_chunks_change_nothing(rows: int, to: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = resized(noise(333, 222), to)
    monkeypatch.setattr(resize, "CHUNK_BYTES", 333 * 3 * 4 * rows)
    assert torch.equal(resized(noise(333, 222), to), expected)


@pytest.mark.parametrize("huge", [False, True])
def test_new_memory_is_as_asked_and_goes_with_its_tensor(huge: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    true_mmap = resize.mmap.mmap

    class Watched(true_mmap):
        pass

    def watch(*args: int, **options: int) -> Watched:
        memory = Watched(*args, **options)
        made.append(weakref.ref(memory))
        return memory

    monkeypatch.setattr(resize.mmap, "mmap", watch)
    monkeypatch.setattr(resize, "HUGE_BYTES", 4 * 30 if huge else 4 * 30 + 1)
    pixels = new_pixels(2, 3, 5)
    assert pixels.shape == (2, 3, 5) and pixels.dtype == torch.float32 and pixels.is_contiguous()
    pixels[:] = 1.0
    assert len(made) == (huge and hasattr(resize.mmap, "MADV_HUGEPAGE"))
    view = pixels[1]
    del pixels
    gc.collect()
    assert view.sum() == 15 and all(memory() is not None for memory in made)
    del view
    gc.collect()
    assert all(memory() is None for memory in made)


def test_odd_arguments_are_not_believed() -> None:
    """Machine code would read or write beyond the end, or silently elsewhere."""
    out, resizer = torch.zeros(3, 16, 16), Resizer((16, 16), rule())
    resizer.into(noise(20, 20), out, range(0))
    assert not out.any()
    for rows in (range(-1, 4), range(17), range(0, 16, 2)):
        with pytest.raises(AssertionError):
            resizer.into(noise(20, 20), out, rows)
    with pytest.raises(AssertionError):
        resizer.into(noise(20, 20), torch.zeros(1, 16, 16))
    planes = [*noise(20, 20).transpose(2, 0, 1)]
    with pytest.raises(AssertionError):
        resizer.planes_into([planes[0], planes[1][:10], planes[2]], out)


def test_a_single_row_may_lie_anyhow() -> None:
    row = np.lib.stride_tricks.as_strided(noise(20, 1), (1, 20, 3), (0, 3, 1))
    assert torch.equal(resized(row, (16, 16)), resized(noise(20, 1), (16, 16)))
