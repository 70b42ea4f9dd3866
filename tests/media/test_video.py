"""Sampling, grids, headings, pixel values and token counts of a video, against transformers' processor."""

from __future__ import annotations

import math
import random
import sys
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers.models.nemotron_h_omni.modeling_nemotron_h_omni import compute_retention_mask
from transformers.models.nemotron_h_omni.processing_nemotron_h_omni import NemotronH_Omni_Reasoning_V3Processor
from transformers.models.nemotron_h_omni.video_processing_nemotron_h_omni import (
    NemotronH_Omni_Reasoning_V3VideoProcessor,
)
from transformers.video_utils import VideoMetadata

from sglang_nemotron.config.omni import VideoRule
from sglang_nemotron.media.pixels.resize import Resizer
from sglang_nemotron.media.video.sampling import (
    headings,
    new_frames,
    num_kept,
    sample_indices,
    timestamps,
    video_clip,
    video_grid,
)
from support.video_media import MEAN, RULE, STD

MAX_PIXEL_DIFFERENCE = 1e-5


def changed(**fields: object) -> VideoRule:
    return VideoRule(**{name: fields.get(name, getattr(RULE, name)) for name in VideoRule.__slots__})


def reference(**fields: object) -> NemotronH_Omni_Reasoning_V3VideoProcessor:
    return NemotronH_Omni_Reasoning_V3VideoProcessor(norm_mean=list(MEAN), norm_std=list(STD), **fields)


def test_grid_goldens() -> None:
    tokens = {size: math.prod(video_grid(*size, RULE)) // 4 for size in [(640, 640), (1920, 1080), (1000, 500)]}
    assert tokens == {(640, 640): 256, (1920, 1080): 252, (1000, 500): 242}


@pytest.mark.parametrize(("target", "keep_aspect"), [(1024, True), (576, True), (1024, False)])
def test_grid_equals_the_reference(target: int, keep_aspect: bool) -> None:
    theirs = reference(video_target_num_patches=target, video_maintain_aspect_ratio=keep_aspect)
    rule = changed(target_patches=target, keep_aspect=keep_aspect)
    generator = random.Random(7)
    for _ in range(5000):
        width, height = generator.randint(1, 8192), generator.randint(1, 8192)
        columns, rows = theirs._compute_target_patches(height, width)
        assert video_grid(width, height, rule) == (rows, columns), (width, height)


def test_a_frame_without_area_is_refused() -> None:
    with pytest.raises(ValueError, match="0x5"):
        video_grid(0, 5, RULE)


def random_size(generator: random.Random) -> tuple[int, int]:
    width = generator.choice([generator.randint(1, 64), generator.randint(64, 700), generator.randint(700, 2000)])
    return width, max(1, min(1500, round(width * math.exp(generator.uniform(-1.5, 1.5)))))


def pixel_differences(num_clips: int) -> list[float]:
    generator, noise = random.Random(3), np.random.default_rng(3)
    differences = []
    for _ in range(num_clips):
        width, height = random_size(generator)
        frames = noise.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
        # hard edges, where bicubic overshoots: a clamp would show
        frames[0, : height // 2] = 255
        frames[0, height // 2 :, : width // 2] = 0
        expected = reference()(videos=[torch.from_numpy(frames).permute(0, 3, 1, 2)], return_tensors="pt")
        grid = video_grid(width, height, RULE)
        made, resizer = new_frames(2, grid, RULE).fill_(float("nan")), Resizer(grid, RULE)
        for number in range(2):
            resizer.into(frames[number], made[number])
        differences.append(float((made - expected["pixel_values_videos"]).abs().max()))
    return differences


def test_pixels_equal_the_reference_on_50_clips() -> None:
    differences = pixel_differences(50)
    # NaN fails the comparison too
    assert all(difference <= MAX_PIXEL_DIFFERENCE for difference in differences), differences


def test_the_pixel_comparison_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean that is off by one part in ten thousand is noticed."""
    monkeypatch.setattr(sys.modules[__name__], "RULE", changed(mean=(MEAN[0] * 1.0001, *MEAN[1:])))
    assert max(pixel_differences(3)) > MAX_PIXEL_DIFFERENCE


@pytest.mark.parametrize(
    ("num_frames", "source_fps", "fps", "max_frames", "expected"),
    [
        (1, 30.0, 2.0, 128, [0]),
        (60, 30.0, 2.0, 128, [0, 19, 39, 59]),
        (10, 30.0, 2.0, 128, [0]),
        (10, 2.0, 2.0, 128, list(range(10))),
        (10, 1.0, 2.0, 128, list(range(10))),
        (1000, 25.0, 2.0, 4, [0, 333, 666, 999]),
        (100, None, 2.0, 3, [0, 49, 99]),
        (5, None, 2.0, 128, [0, 1, 2, 3, 4]),
    ],
)
def test_sampling(num_frames: int, source_fps: float | None, fps: float, max_frames: int, expected: list[int]) -> None:
    assert sample_indices(num_frames, source_fps, fps=fps, max_frames=max_frames) == expected


def test_sampling_equals_sglang_on_random_videos() -> None:
    from sglang.srt.utils.common import sample_video_frames

    generator = random.Random(11)

    class Source(SimpleNamespace):
        def __len__(self) -> int:
            return self.num_frames

    for _ in range(2000):
        rate = generator.choice([24.0, 25.0, 30.0, 60.0, 30000 / 1001, generator.uniform(0.5, 120)])
        source = Source(num_frames=generator.randint(1, 20000), avg_fps=rate)
        fps, most = generator.choice([1, 2, 4]), generator.choice([8, 128, 512])
        expected = sample_video_frames(source, desired_fps=fps, max_frames=most)
        ours = sample_indices(len(source), rate, fps=float(fps), max_frames=most)
        # at a rate below the wanted one in-tree may lose a frame to rounding where we take every frame
        if rate < fps:
            assert len(ours) - len(expected) in (0, 1), (len(source), rate)
        else:
            assert ours == expected, (len(source), rate, fps, most)


def their_text(num_frames: int, metadata: VideoMetadata | None) -> list[str]:
    processor = SimpleNamespace(
        image_start_token="<img>", image_token="<image>", image_end_token="</img>", video_temporal_patch_dim=2
    )
    text = NemotronH_Omni_Reasoning_V3Processor.replace_video_token(
        processor, {"num_tokens": [1]}, 0, num_frames=num_frames, video_metadata=metadata
    )
    return [line.removesuffix("<img><image></img>") for line in text.split("\n")]


@pytest.mark.parametrize("num_frames", [1, 2, 3, 8, 127])
@pytest.mark.parametrize("rate", [30, 25, Fraction(30000, 1001), 7.5, 2])
def test_headings_equal_the_reference(num_frames: int, rate: float) -> None:
    indices = [number * 17 for number in range(num_frames)]
    metadata = VideoMetadata(total_num_frames=9999, fps=float(rate), frames_indices=indices)
    ours = headings(num_frames, timestamps(indices, float(rate)), 2)
    assert list(ours) == their_text(num_frames, metadata)


def test_headings_without_a_known_rate_equal_the_reference() -> None:
    assert timestamps([0, 1, 2], None) is None
    assert list(headings(3, None, 2)) == their_text(3, None) == ["Frame 1 and frame 2: ", "Frame 3: "]


def test_the_published_form_of_a_heading() -> None:
    assert headings(2, [0.0, 0.5], 2) == ("Frame 1 sampled at 0.00 seconds and frame 2 sampled at 0.50 seconds: ",)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.7, 0.75, 0.99])
def test_kept_tokens_equal_the_reference_mask(rate: float) -> None:
    for num_tubelets, rows, columns in [(1, 2, 2), (2, 3, 5), (7, 4, 6), (64, 12, 21)]:
        embeddings = torch.randn(num_tubelets * rows * columns, 4)
        mask = compute_retention_mask(
            video_embeds=embeddings, thw=(num_tubelets, rows * 2, columns * 2), spatial_merge_size=2, q=rate
        )
        assert num_kept(num_tubelets, rows * columns, rate) == int(mask.sum()), (num_tubelets, rows, columns)


def test_pruning_off_keeps_all_and_the_first_tubelet_always_stays() -> None:
    assert num_kept(64, 252, 0.0) == 64 * 252
    assert num_kept(64, 252, 0.7) == 4838
    assert num_kept(3, 252, 0.9) == 252
    for rate in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="video_pruning_rate"):
            num_kept(2, 10, rate)


@pytest.mark.parametrize("num_frames", [1, 2, 5])
def test_a_clip_repeats_its_last_frame_to_fill_the_last_tubelet(num_frames: int) -> None:
    frames = new_frames(num_frames, (2, 2), RULE).fill_(float("nan"))
    for number in range(num_frames):
        frames[number] = number
    clip = video_clip(frames, num_frames=num_frames, grid=(2, 2), seconds=None, rule=RULE, pruning_rate=0.5)
    whole = num_frames + num_frames % 2
    assert clip.feature[:, 0, 0, 0].tolist() == [float(min(n, num_frames - 1)) for n in range(whole)]
    assert clip.num_tubelets == whole // 2 and clip.tokens_per_tubelet == 1
    assert clip.num_kept == max(1, whole // 4)
