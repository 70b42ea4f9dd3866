"""Pixel shuffle, projectors and EVS against transformers, and the whole way from pixels and mels to embeddings."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sglang_nemotron.encoders import project
from sglang_nemotron.encoders.project import (
    Projector,
    image_embeddings,
    interleave,
    num_retained,
    pixel_shuffle,
    retention_mask,
    sound_embeddings,
    tubelet_embeddings,
)
from support.encoder_rig import Largest, Tiny, born_nan, difference, on_two_ranks

TOLERANCE = 1e-5


def reference_mask(x_GNC: torch.Tensor, q: float) -> torch.Tensor:
    from transformers.models.nemotron_h_omni.modeling_nemotron_h_omni import compute_retention_mask

    num_tubelets, tokens, _ = x_GNC.shape
    grid = (num_tubelets, 1, tokens)
    flat = compute_retention_mask(video_embeds=x_GNC.flatten(0, 1), thw=grid, spatial_merge_size=1, q=q)
    return flat.view(num_tubelets, tokens)


# ---- pixel shuffle and projectors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(2, 2), (4, 6), (6, 4), (2, 20), (20, 2)])
def test_pixel_shuffle_equals_the_reference(tiny: Tiny, grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, *grid, 5)
    wanted = tiny.reference.pixel_shuffle(x, 0.5).flatten(1, 2)
    assert torch.equal(pixel_shuffle(x.flatten(1, 2), grid), wanted)
    assert torch.equal(pixel_shuffle(x[1].flatten(0, 1), grid), wanted[1])


def test_pixel_shuffle_by_hand() -> None:
    x = torch.arange(8.0)[:, None]
    assert pixel_shuffle(x, (2, 4)).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert pixel_shuffle(torch.arange(9.0)[:, None], (3, 3), 3).tolist() == [list(range(9))]
    with pytest.raises(AssertionError):
        pixel_shuffle(x[:6], (2, 3))


@pytest.mark.parametrize("max_rows", [1, 7, 4096])
def test_projectors_equal_the_reference(tiny: Tiny, max_rows: int) -> None:
    torch.manual_seed(1)
    with torch.inference_mode():
        x = torch.randn(20, 256)
        assert (
            difference(tiny.vision_projector(max_rows=max_rows)(x), tiny.reference.multi_modal_projector(x))
            <= TOLERANCE
        )
        x = torch.randn(20, 64)
        assert difference(tiny.sound_projector()(x), tiny.reference.embed_audio(x)) <= TOLERANCE


def test_projector_with_biases() -> None:
    from transformers.models.nemotron_h_omni import modeling_nemotron_h_omni as modeling

    from support.encoder_rig import scatter

    torch.manual_seed(2)
    theirs = modeling.NemotronH_Omni_Reasoning_V3MultiModalProjector(16, 24, 8, bias=True)
    scatter(theirs)
    ours = Projector(16, 24, 8, eps=1e-5, bias=True)
    renamed = {"layer_norm": "norm", "linear_1": "linear1", "linear_2": "linear2"}
    state = {f"{renamed[name.split('.')[0]]}.{name.split('.')[1]}": t for name, t in theirs.state_dict().items()}
    ours.load_state_dict(state)
    x = torch.randn(5, 16)
    assert difference(ours(x), theirs(x)) <= TOLERANCE
    assert ours.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_projector_on_two_ranks_and_in_bounded_memory(tiny: Tiny) -> None:
    torch.manual_seed(3)
    x = torch.randn(64, 256)
    with torch.inference_mode():
        wanted = tiny.reference.multi_modal_projector(x)
    for found in on_two_ranks(lambda linears: tiny.vision_projector(linears)(x)):
        assert difference(found, wanted) <= TOLERANCE
    with torch.inference_mode(), Largest() as seen:
        tiny.vision_projector(max_rows=8)(x)
    # the weights of linear1 (96 x 256) are the largest; all rows in the wide middle, or normed at once, would be too
    assert seen.numel <= 96 * 256


# ---- EVS: which tokens stay -----------------------------------------------------------------------------------------

RATES = [0.0, 0.1, 0.3, 0.5, 0.7, 0.75, 0.9, 0.99, 1 / 3]


@settings(max_examples=150, deadline=None)
@given(
    num_tubelets=st.integers(1, 9),
    tokens=st.integers(1, 13),
    q=st.floats(0, 1, exclude_max=True) | st.sampled_from(RATES),
    # few different vectors: ties within and across tubelets, tubelets that repeat exactly
    kinds=st.integers(1, 40),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 10**6),
)
@example(num_tubelets=5, tokens=7, q=0.7, kinds=1, dtype=torch.float32, seed=0)
@example(num_tubelets=3, tokens=3, q=0.999, kinds=40, dtype=torch.bfloat16, seed=0)
def test_mask_equals_the_reference(
    num_tubelets: int, tokens: int, q: float, kinds: int, dtype: torch.dtype, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(kinds, 6, generator=generator).to(dtype)
    x_GNC = vectors[torch.randint(kinds, (num_tubelets, tokens), generator=generator)]
    found = retention_mask(x_GNC, q)
    assert torch.equal(found, reference_mask(x_GNC, q))
    assert int(found.sum()) == num_retained(num_tubelets, tokens, q)
    assert bool(found[0].all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("q", RATES)
def test_mask_at_real_sizes(q: float, dtype: torch.dtype) -> None:
    """64 tubelets of 252 tokens that change little: thousands of ties in bf16."""
    torch.manual_seed(4)
    x_GNC = (torch.randn(1, 252, 64) + 0.05 * torch.randn(64, 252, 64).cumsum(0)).to(dtype)
    if dtype == torch.bfloat16:
        worth = 1 - torch.nn.functional.cosine_similarity(x_GNC[1:], x_GNC[:-1], dim=-1)
        assert worth.unique().numel() < worth.numel() / 20
    assert torch.equal(retention_mask(x_GNC, q), reference_mask(x_GNC, q))


def test_what_evs_keeps_by_hand() -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    # place 0 stands still; place 1 turns a right angle, then back, then stands still
    x_GNC = torch.stack([torch.stack([a, a]), torch.stack([a, b]), torch.stack([a, a]), torch.stack([a, a])])
    assert retention_mask(x_GNC, 0.5).tolist() == [[True, True], [False, True], [False, True], [False, False]]
    # of equals the earlier
    assert retention_mask(x_GNC, 0.37).tolist() == [[True, True], [True, True], [False, True], [False, False]]
    # odd counts are cut: int(8 * 0.4) = 3
    assert retention_mask(x_GNC, 0.6).tolist() == [[True, True], [False, True], [False, False], [False, False]]
    # the first tubelet is always whole
    assert retention_mask(x_GNC, 0.99).tolist() == [[True, True], [False, False], [False, False], [False, False]]


def test_rate_zero_is_exactly_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_given: object, **_options: object) -> torch.Tensor:
        raise AssertionError("EVS ran")

    monkeypatch.setattr(project.F, "cosine_similarity", never)
    x_GNC = torch.full((3, 4, 2), torch.nan)
    assert bool(retention_mask(x_GNC, 0).all())
    assert num_retained(3, 4, 0) == num_retained(3, 4, 0.0) == 12
    assert bool(retention_mask(x_GNC[:1], 0.7).all())


@pytest.mark.parametrize("q", [-0.1, 1, 1.5, float("nan")])
def test_rates_out_of_range(q: float) -> None:
    with pytest.raises(ValueError, match="is not supported; allowed: 0"):
        num_retained(2, 4, q)
    with pytest.raises(ValueError, match="is not supported; allowed: 0"):
        retention_mask(torch.randn(2, 4, 3), q)


def test_counts_are_those_of_the_prompt() -> None:
    from sglang_nemotron.media.video.sampling import num_kept

    for num_tubelets in range(1, 40):
        for tokens in (1, 7, 252, 256):
            for q in RATES:
                assert num_kept(num_tubelets, tokens, q) == num_retained(num_tubelets, tokens, q)


def _upcast(x: torch.Tensor, y: torch.Tensor, dim: int) -> torch.Tensor:
    return torch.cosine_similarity(x.float(), y.float(), dim)


def _unstable(self: torch.Tensor, *, descending: bool, stable: bool) -> torch.Tensor:
    # of equals the later
    return self.numel() - 1 - self.flip(0).sort(descending=descending, stable=True).indices


EVS_FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "fp32 cosine": lambda planted: planted.setattr(project.F, "cosine_similarity", _upcast),
    "unstable sort": lambda planted: planted.setattr(torch.Tensor, "argsort", _unstable),
    "rounded count": lambda planted: planted.setattr(
        project, "num_retained", lambda g, n, q: max(n, round(g * n * (1 - q)))
    ),
    "no floor": lambda planted: planted.setattr(project, "num_retained", lambda g, n, q: int(g * n * (1 - q))),
}


@pytest.mark.parametrize("fault", EVS_FAULTS)
def test_planted_faults_of_evs_are_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    x_GNC = (torch.randn(1, 63, 16) + 0.05 * torch.randn(8, 63, 16).cumsum(0)).bfloat16()
    wanted = [reference_mask(x_GNC, q) for q in RATES]
    assert all(torch.equal(retention_mask(x_GNC, q), mask) for q, mask in zip(RATES, wanted, strict=True))
    EVS_FAULTS[fault](monkeypatch)
    assert not all(torch.equal(retention_mask(x_GNC, q), mask) for q, mask in zip(RATES, wanted, strict=True))


# ---- EVS: the run that comes out ------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    num_tubelets=st.integers(1, 6),
    tokens=st.integers(1, 5),
    lengths=st.lists(st.integers(0, 4), min_size=7, max_size=7),
    q=st.sampled_from(RATES),
    seed=st.integers(0, 10**6),
)
def test_interleave(num_tubelets: int, tokens: int, lengths: list[int], q: float, seed: int) -> None:
    """Against one loop over rows: separators are numbered below zero, tokens from zero."""
    torch.manual_seed(seed)
    lengths = lengths[: num_tubelets + 1]
    separators = [
        torch.full((length, 2), -1.0 - i) + 0.01 * torch.arange(length)[:, None] for i, length in enumerate(lengths)
    ]
    x_GNC = torch.arange(num_tubelets * tokens).view(num_tubelets, tokens, 1).expand(-1, -1, 2).float()
    keep_GN = retention_mask(torch.randn(num_tubelets, tokens, 3), q)
    rows: list[torch.Tensor] = [*separators[0]]
    for tubelet in range(num_tubelets):
        rows += [x_GNC[tubelet, place] for place in range(tokens) if keep_GN[tubelet, place]]
        rows += [*separators[tubelet + 1]]
    with born_nan():
        found = interleave(separators, x_GNC, keep_GN)
    assert torch.equal(found, torch.stack(rows))
    assert found.shape[0] == sum(lengths) + num_retained(num_tubelets, tokens, q)


def test_interleave_checks_and_casts() -> None:
    x_GNC, keep_GN = torch.randn(2, 3, 4).bfloat16(), torch.ones(2, 3, dtype=torch.bool)
    text = torch.randn(1, 4)
    assert interleave([text, text, text], x_GNC, keep_GN).dtype == torch.bfloat16
    with pytest.raises(AssertionError):
        interleave([text, text], x_GNC, keep_GN)


# ---- the whole way --------------------------------------------------------------------------------------------------


def whole_image_path(tiny: Tiny, max_tokens: int = 16384) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    from transformers.models.nemotron_h_omni.image_processing_nemotron_h_omni import convert_image_to_patches

    torch.manual_seed(6)
    grids = [(4, 6), (2, 2), (12, 12), (2, 30), (6, 4), (14, 20)]
    pixels = [torch.randn(3, 4 * rows, 4 * cols) for rows, cols in grids]
    patches = torch.cat([convert_image_to_patches(image[None], 4)[0] for image in pixels])
    with torch.inference_mode():
        wanted = tiny.reference.get_image_features(patches, torch.tensor(grids)).pooler_output
        found = image_embeddings(tiny.tower(max_tokens=max_tokens), tiny.vision_projector(), pixels)
    return found, list(wanted)


@pytest.mark.parametrize("max_tokens", [1, 120, 16384])
def test_images_all_the_way(tiny: Tiny, max_tokens: int) -> None:
    found, wanted = whole_image_path(tiny, max_tokens)
    assert max(difference(a, b) for a, b in zip(found, wanted, strict=True)) <= TOLERANCE


def test_nothing_at_all(tiny: Tiny) -> None:
    assert image_embeddings(tiny.tower(), tiny.vision_projector(), []) == []
    assert sound_embeddings(tiny.encoder(), tiny.sound_projector(), [], []) == []


@pytest.mark.parametrize(("num_frames", "max_tokens"), [(2, 1), (8, 100), (8, 16384)])
def test_video_all_the_way(tiny: Tiny, num_frames: int, max_tokens: int) -> None:
    torch.manual_seed(7)
    frames = torch.randn(num_frames, 3, 16, 40)
    with torch.inference_mode():
        wanted = tiny.reference.get_video_features(frames).pooler_output
        found = tubelet_embeddings(tiny.tower(max_tokens=max_tokens), tiny.vision_projector(), frames)
    assert difference(found, wanted) <= TOLERANCE
    for q in RATES:
        assert torch.equal(retention_mask(found, q), reference_mask(wanted, q))


def test_odd_frames_as_the_reference_pads_them(tiny: Tiny) -> None:
    """The reference repeats the last frame itself; we are handed it repeated."""
    torch.manual_seed(8)
    frames = torch.randn(5, 3, 16, 24)
    with torch.inference_mode():
        wanted = tiny.reference.get_video_features(frames).pooler_output
        found = tubelet_embeddings(tiny.tower(), tiny.vision_projector(), torch.cat([frames, frames[-1:]]))
    assert difference(found, wanted) <= TOLERANCE


def test_sound_all_the_way(tiny: Tiny) -> None:
    """The reference's processor makes one frame more than it masks in; its features count that one, ours do not."""
    torch.manual_seed(9)
    frames = [80, 33, 57]
    mels = [torch.randn(length, 32) for length in frames]
    padded = torch.nn.functional.pad(torch.nn.utils.rnn.pad_sequence(mels, batch_first=True), (0, 0, 0, 1))
    mask = torch.arange(81)[None] < torch.tensor(frames)[:, None]
    with torch.inference_mode():
        features = tiny.reference.get_audio_features(padded, mask).pooler_output
        found = sound_embeddings(tiny.encoder(), tiny.sound_projector(), mels, frames)
    lengths = tiny.reference.audio_tower._get_subsampling_output_length(torch.tensor(frames) + 1).tolist()
    assert [a - b.shape[0] for a, b in zip(lengths, found, strict=True)] == [1, 0, 0]
    for ours, theirs in zip(found, features.split(lengths), strict=True):
        assert difference(ours, theirs[: ours.shape[0]]) <= TOLERANCE


def test_planted_faults_of_the_whole_way_are_seen(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def columns_first(x: torch.Tensor, grid: tuple[int, int], merge_size: int = 2) -> torch.Tensor:
        rows, cols = grid
        blocks = x.reshape(rows // 2, 2, cols // 2, 2, -1)
        return blocks.permute(0, 2, 3, 1, 4).reshape(rows * cols // 4, -1)

    def unsquared(self: Projector, x: torch.Tensor) -> torch.Tensor:
        return self.linear2(torch.relu(self.linear1(self.norm(x))))

    for target, name, fault in ((project, "pixel_shuffle", columns_first), (Projector, "_some", unsquared)):
        with monkeypatch.context() as planted:
            planted.setattr(target, name, fault)
            found, wanted = whole_image_path(tiny)
        assert max(difference(a, b) for a, b in zip(found, wanted, strict=True)) > 100 * TOLERANCE


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mask_on_cuda_equals_the_reference_there(dtype: torch.dtype) -> None:
    torch.manual_seed(10)
    x_GNC = (torch.randn(1, 252, 2688) + 0.05 * torch.randn(64, 252, 2688).cumsum(0)).to("cuda", dtype)
    for q in RATES:
        assert torch.equal(retention_mask(x_GNC, q), reference_mask(x_GNC, q))
