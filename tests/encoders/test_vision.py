"""Our RADIO tower against transformers' RadioModel: any sizes, any company, any pass, both ranks; and seen to fail."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sglang_nemotron.config.towers import VisionSpec
from sglang_nemotron.encoders import vision
from sglang_nemotron.encoders.vision import PatchGenerator, VisionTower, passes, resized_crop
from sglang_nemotron.ops import full_attention_torch
from support.encoder_rig import Largest, Tiny, born_nan, difference, on_two_ranks

TOLERANCE = 1e-5

# (rows, columns): square, wide, tall, larger and smaller than the stored 12 x 12, equal lengths of unequal shape
GRIDS = [(2, 2), (4, 6), (12, 12), (20, 8), (2, 30), (6, 4), (4, 6), (30, 2), (14, 14), (1, 1)]


def pictures(grids: list[tuple[int, int]] = GRIDS, seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 4 * rows, 4 * cols, generator=generator) for rows, cols in grids]


def reference_features(tiny: Tiny, pixels: list[torch.Tensor]) -> list[torch.Tensor]:
    """Each image alone, whole pixels in: the reference cuts the patches itself."""
    with torch.inference_mode():
        return [tiny.reference.vision_model(image[None]).features[0] for image in pixels]


def ours(tower: VisionTower, pixels: list[torch.Tensor]) -> list[torch.Tensor]:
    with torch.inference_mode():
        return [x for features in tower.images(pixels) for x in features]


@pytest.fixture(scope="module")
def wanted(tiny: Tiny) -> list[torch.Tensor]:
    return reference_features(tiny, pictures())


def worst(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    return max(difference(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("max_tokens", [1, 60, 250, 16384])
def test_images_equal_the_reference(tiny: Tiny, wanted: list[torch.Tensor], max_tokens: int) -> None:
    assert worst(ours(tiny.tower(max_tokens=max_tokens), pictures()), wanted) <= TOLERANCE


def test_packed_reference_agrees(tiny: Tiny) -> None:
    """transformers' own packed form, with the patches that its image processor cuts."""
    from transformers.models.nemotron_h_omni.image_processing_nemotron_h_omni import convert_image_to_patches

    patches = torch.cat([convert_image_to_patches(image[None], 4)[0] for image in pictures()])
    with torch.inference_mode():
        features = tiny.reference.vision_model(patches, image_grid_hw=torch.tensor(GRIDS)).features
    assert worst(ours(tiny.tower(), pictures()), list(features.split([r * c for r, c in GRIDS]))) <= TOLERANCE


@pytest.mark.parametrize("max_tokens", [1, 80, 16384])
@pytest.mark.parametrize("grid", [(4, 6), (12, 12), (2, 20)])
def test_video_equals_the_reference(tiny: Tiny, grid: tuple[int, int], max_tokens: int) -> None:
    torch.manual_seed(2)
    frames = torch.randn(6, 3, 4 * grid[0], 4 * grid[1])
    with torch.inference_mode():
        # two frames one above the other in the channels
        features = tiny.reference.vision_model(frames.view(3, 6, *frames.shape[2:])).features
        found = torch.cat(list(tiny.tower(max_tokens=max_tokens).video(frames)))
    assert difference(found, features) <= TOLERANCE


def test_order_and_company_change_nothing(tiny: Tiny, wanted: list[torch.Tensor]) -> None:
    order = [7, 2, 9, 0, 4, 6, 1, 3, 8, 5]
    found = ours(tiny.tower(), [pictures()[i] for i in order])
    assert worst(found, [wanted[i] for i in order]) <= TOLERANCE
    assert ours(tiny.tower(), []) == []


@settings(max_examples=30, deadline=None)
@given(
    grids=st.lists(st.tuples(st.integers(1, 16), st.integers(1, 16)), min_size=1, max_size=6),
    max_tokens=st.integers(1, 600),
)
def test_any_company_in_any_passes(tiny: Tiny, grids: list[tuple[int, int]], max_tokens: int) -> None:
    pixels = pictures(grids)
    assert worst(ours(tiny.tower(max_tokens=max_tokens), pixels), reference_features(tiny, pixels)) <= TOLERANCE


def test_bf16_is_as_near_as_the_reference(tiny: Tiny, wanted: list[torch.Tensor]) -> None:
    """Both round their own way; ours is not the further one from the fp32 truth by more than a little."""
    pixels = [image.bfloat16() for image in pictures()]
    truth = reference_features(tiny, [image.float() for image in pixels])
    tower = tiny.tower().bfloat16()
    found = ours(tower, pictures())
    assert all(x.dtype == torch.bfloat16 for x in found)
    model = type(tiny.reference.vision_model)(tiny.reference.vision_model.config)
    model.make_preprocessor_external()
    model.load_state_dict(tiny.reference.vision_model.state_dict())
    model = model.bfloat16().eval()
    with torch.inference_mode():
        theirs = [model(image[None]).features[0] for image in pixels]
    assert worst(found, truth) <= 0.04
    assert worst(found, truth) <= 1.25 * worst(theirs, truth)


# ---- tensor parallelism ---------------------------------------------------------------------------------------------


def test_two_ranks_equal_one(tiny: Tiny, wanted: list[torch.Tensor]) -> None:
    towers = []

    def run(linears) -> list[torch.Tensor]:
        towers.append(tiny.tower(linears, max_tokens=250))
        return ours(towers[-1], pictures())

    for found in on_two_ranks(run):
        assert worst(found, wanted) <= TOLERANCE
    for tower in towers:
        block = tower.blocks[0]
        assert block.attn.qkv.weight.shape == (96, 64)
        assert block.mlp.fc1.weight.shape == (64, 64)


def test_heads_that_do_not_divide_are_replicated() -> None:
    class Three:
        tp_rank, tp_size = 0, 3

        def column(self, in_size: int, out_size: int, *, bias: bool, prefix: str) -> nn.Module:
            return nn.Linear(in_size, out_size // 3, bias=bias)

        def row(self, in_size: int, out_size: int, *, bias: bool, prefix: str) -> nn.Module:
            return nn.Linear(in_size // 3, out_size, bias=bias)

        def qkv(self, hidden_size: int, head_dim: int, num_heads: int, *, bias: bool, prefix: str) -> nn.Module:
            raise AssertionError(prefix)

    spec = VisionSpec(32, 1, 4, 48, 4, 2, 4, 1e-6, 2)
    block = VisionTower(spec, linears=Three()).blocks[0]
    assert block.attn.qkv.weight.shape == (96, 32)
    assert block.attn.proj.weight.shape == (32, 32)
    assert block.mlp.fc1.weight.shape == (16, 32)


# ---- positions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(1, 1), (32, 32), (46, 28), (128, 128), (100, 128), (160, 82), (2, 200), (300, 4)])
def test_positions_equal_resize_and_crop(grid: tuple[int, int]) -> None:
    torch.manual_seed(3)
    stored = torch.randn(128, 128, 3)
    side = max(grid)
    square = F.interpolate(stored.permute(2, 0, 1)[None], (side, side), mode="bilinear", align_corners=False)[0]
    wanted = square[:, : grid[0], : grid[1]].permute(1, 2, 0)
    # the last bit of the weights: torch computes them in its own order
    torch.testing.assert_close(resized_crop(stored, grid), wanted, rtol=0, atol=2e-5)


def test_positions_of_a_strip_need_no_square() -> None:
    with Largest() as seen:
        assert resized_crop(torch.randn(128, 128, 4), (2, 6656)).shape == (2, 6656, 4)
    assert seen.numel <= 128 * 128 * 4


def test_positions_are_cached_by_size_and_bounded(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(stored: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        made.append(grid)
        return resized_crop(stored, grid)

    monkeypatch.setattr(vision, "resized_crop", counted)
    monkeypatch.setattr(vision, "MAX_CACHED_POSITIONS", 100)
    generator = tiny.tower().patch_generator
    for grid in [(2, 2), (2, 2), (6, 8), (2, 2), (5, 9), (6, 8), (2, 2), (20, 20), (20, 20), (2, 2)]:
        assert generator.positions(grid).shape == (grid[0] * grid[1], 64)
        kept = sum(x.shape[0] for x in generator._positions.values())
        assert kept <= 100 or len(generator._positions) == 1
    # 400 patches are more than the bound: they stay alone, until the next size comes
    assert made == [(2, 2), (6, 8), (5, 9), (20, 20), (2, 2)]


def test_new_weights_and_dtypes_forget_positions(tiny: Tiny) -> None:
    generator = tiny.tower().patch_generator
    before = generator.positions((4, 6)).clone()
    doubled = 2 * generator.pos_embed.detach()
    generator.pos_embed.weight_loader(generator.pos_embed, doubled)
    torch.testing.assert_close(generator.positions((4, 6)), 2 * before)
    generator.load_state_dict({**generator.state_dict(), "pos_embed": doubled / 2})
    torch.testing.assert_close(generator.positions((4, 6)), before)
    assert generator.bfloat16().positions((4, 6)).dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"\(1, 100, 64\).*\(1, 144, 64\)"):
        generator.pos_embed.weight_loader(generator.pos_embed, torch.zeros(1, 100, 64))


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_passes_are_bounded_and_attention_needs_no_square(tiny: Tiny) -> None:
    lengths: list[int] = []
    tower = tiny.tower(max_tokens=250)
    tower.blocks[0].register_forward_hook(lambda _m, inputs, _out: lengths.append(inputs[0].shape[0]))
    pixels = pictures([(8, 8)] * 40)
    with Largest() as seen:
        found = ours(tower, pixels)
    assert sum(lengths) == 40 * 74
    assert max(lengths) == 3 * 74
    # the widest of a pass is qkv; the square over a pass would be 222 x 222 x 4 heads
    assert seen.numel <= 222 * 192
    assert len(found) == 40


@pytest.mark.parametrize(
    ("lengths", "wanted"),
    [
        ([], []),
        ([5], [(0, 1)]),
        ([50], [(0, 1)]),
        ([4, 4, 2, 1], [(0, 3), (3, 4)]),
        ([50, 1, 50, 9, 1], [(0, 1), (1, 2), (2, 3), (3, 5)]),
    ],
)
def test_passes(lengths: list[int], wanted: list[tuple[int, int]]) -> None:
    assert list(passes(lengths, 10)) == wanted


# ---- bad input ------------------------------------------------------------------------------------------------------


def test_sides_must_be_whole_patches(tiny: Tiny) -> None:
    tower = tiny.tower()
    with pytest.raises(ValueError, match="8 x 10; both sides must be multiples of 4"):
        list(tower.images([torch.zeros(3, 8, 10)]))
    with pytest.raises(ValueError, match="3 frames; allowed: a multiple of 2"):
        list(tower.video(torch.zeros(3, 3, 8, 8)))
    with pytest.raises(ValueError, match="0 frames"):
        list(tower.video(torch.zeros(0, 3, 8, 8)))


# ---- the comparison can fail ----------------------------------------------------------------------------------------


def _by_pixel(pixels: torch.Tensor, size: int) -> torch.Tensor:
    num, channels, height, width = pixels.shape
    blocks = pixels.reshape(num, channels, height // size, size, width // size, size)
    return blocks.permute(0, 2, 4, 3, 5, 1).reshape(num, -1, channels * size * size)


def _stretched(stored: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(stored.permute(2, 0, 1)[None], grid, mode="bilinear")[0].permute(1, 2, 0)


def _nearest(stored: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    side = max(grid)
    return F.interpolate(stored.permute(2, 0, 1)[None], (side, side))[0].permute(1, 2, 0)[: grid[0], : grid[1]]


def _joined(lengths: list[int]):
    yield 0, sum(lengths), sum(lengths)


FAULTS: dict[str, tuple[ModuleType, str, Callable]] = {
    "channels last in a patch": (vision, "patchify", _by_pixel),
    "positions stretched": (vision, "resized_crop", _stretched),
    "positions nearest": (vision, "resized_crop", _nearest),
    "images see each other": (full_attention_torch, "_equal_runs", _joined),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_seen(
    tiny: Tiny, wanted: list[torch.Tensor], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*FAULTS[fault])
    assert worst(ours(tiny.tower(), pictures()), wanted) > 100 * TOLERANCE


@pytest.mark.parametrize("name", ["blocks.1.attn.qkv.bias", "blocks.2.norm2.weight", "patch_generator.cls_token.token"])
def test_one_weight_off_is_seen(tiny: Tiny, wanted: list[torch.Tensor], name: str) -> None:
    tower = tiny.tower()
    with torch.no_grad():
        tower.get_parameter(name).view(-1)[0] += 0.5
    assert worst(ours(tower, pictures()), wanted) > 10 * TOLERANCE


def test_frames_swapped_are_seen(tiny: Tiny) -> None:
    torch.manual_seed(4)
    frames = torch.randn(2, 3, 16, 24)
    with torch.inference_mode():
        features = tiny.reference.vision_model(frames.view(1, 6, 16, 24)).features
        assert difference(next(tiny.tower().video(frames.flip(0))), features) > 100 * TOLERANCE


def test_every_row_is_written(tiny: Tiny, wanted: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    tower = tiny.tower(max_tokens=250)
    with born_nan():
        assert worst(ours(tower, pictures()), wanted) <= TOLERANCE

    def first_only(lengths: list[int]):
        yield next(iter(whole(lengths)))

    whole = full_attention_torch._equal_runs
    monkeypatch.setattr(full_attention_torch, "_equal_runs", first_only)
    with born_nan():
        assert any(x.isnan().any() for x in ours(tower, pictures()))


# ---- CUDA -----------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, TOLERANCE), (torch.bfloat16, 0.04)])
def test_images_on_cuda(tiny: Tiny, wanted: list[torch.Tensor], dtype: torch.dtype, tolerance: float) -> None:
    assert not torch.backends.cuda.matmul.allow_tf32
    tower = tiny.tower(max_tokens=250).to("cuda", dtype)
    found = [x.cpu() for x in ours(tower, pictures())]
    assert worst(found, wanted) <= tolerance


def test_generator_is_the_only_home_of_positions() -> None:
    assert [name for name, _ in PatchGenerator(VisionSpec(32, 1, 4, 48, 4, 2, 4, 1e-6, 2)).named_parameters()] == [
        "pos_embed",
        "embedder.weight",
        "video_embedder.weight",
        "cls_token.token",
    ]
