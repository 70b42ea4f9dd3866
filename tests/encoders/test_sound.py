"""Our Parakeet encoder against transformers': alone, padded, in passes, on two ranks; and seen to fail."""

from __future__ import annotations

import itertools

import pytest
import torch

from sglang_nemotron.config.towers import SoundSpec
from sglang_nemotron.encoders import sound
from sglang_nemotron.encoders.sound import SoundEncoder, num_sound_tokens, padded_passes
from support.encoder_rig import Largest, Tiny, born_nan, difference, on_two_ranks

TOLERANCE = 1e-5

# frames: odd and even at every halving, shorter than a token, twins
FRAMES = [100, 37, 64, 1, 9, 100, 33, 8, 17, 65, 96, 120]


def clips(frames: list[int] = FRAMES, seed: int = 1, behind: float | None = None) -> list[torch.Tensor]:
    """[frames, 32] each; `behind` fills some more frames that do not count."""
    generator = torch.Generator().manual_seed(seed)
    mels = [torch.randn(length, 32, generator=generator) for length in frames]
    if behind is None:
        return mels
    return [torch.cat([mel, torch.full((3 + i, 32), behind)]) for i, mel in enumerate(mels)]


def reference_alone(tiny: Tiny, mels: list[torch.Tensor]) -> list[torch.Tensor]:
    with torch.inference_mode():
        return [tiny.reference.audio_tower(input_features=mel[None]).last_hidden_state[0] for mel in mels]


def reference_batch(model, mels: list[torch.Tensor]) -> list[torch.Tensor]:
    lengths = torch.tensor([mel.shape[0] for mel in mels])
    padded = torch.nn.utils.rnn.pad_sequence(mels, batch_first=True)
    mask = torch.arange(padded.shape[1])[None] < lengths[:, None]
    with torch.inference_mode():
        out = model(input_features=padded, attention_mask=mask)
    return [x[mask] for x, mask in zip(out.last_hidden_state, out.attention_mask.bool(), strict=True)]


def ours(encoder: SoundEncoder, mels: list[torch.Tensor], frames: list[int] | None = None) -> list[torch.Tensor]:
    with torch.inference_mode():
        return encoder(mels, frames or [mel.shape[0] for mel in mels])


def worst(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    return max(difference(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.fixture(scope="module")
def wanted(tiny: Tiny) -> list[torch.Tensor]:
    return reference_alone(tiny, clips())


def test_the_reference_in_a_batch_is_the_reference_alone(tiny: Tiny, wanted: list[torch.Tensor]) -> None:
    """So there is one result to be equal to, and no choice to make."""
    assert worst(reference_batch(tiny.reference.audio_tower, clips()), wanted) <= TOLERANCE


@pytest.mark.parametrize(("max_tokens", "max_frames"), [(1, 1), (20, 150), (8192, 130), (8192, 12288)])
def test_batch_equals_the_reference_alone(
    tiny: Tiny, wanted: list[torch.Tensor], max_tokens: int, max_frames: int
) -> None:
    encoder = tiny.encoder(max_tokens=max_tokens, max_frames=max_frames)
    assert worst(ours(encoder, clips()), wanted) <= TOLERANCE


def test_alone_equals_batch(tiny: Tiny) -> None:
    encoder = tiny.encoder()
    together = ours(encoder, clips())
    alone = [ours(encoder, [mel])[0] for mel in clips()]
    assert worst(together, alone) <= TOLERANCE
    assert ours(encoder, []) == []


@pytest.mark.parametrize("behind", [0.0, 1e4, torch.nan])
def test_what_stands_behind_the_frames_is_never_read(tiny: Tiny, wanted: list[torch.Tensor], behind: float) -> None:
    assert worst(ours(tiny.encoder(), clips(behind=behind), FRAMES), wanted) <= TOLERANCE


def test_training_mode_reads_the_stored_statistics(tiny: Tiny, wanted: list[torch.Tensor]) -> None:
    encoder = tiny.encoder().train()
    before = encoder.layers[0].conv.norm.running_mean.clone()
    assert worst(ours(encoder, clips()), wanted) <= TOLERANCE
    assert torch.equal(encoder.layers[0].conv.norm.running_mean, before)


def test_bf16_is_as_near_as_the_reference(tiny: Tiny) -> None:
    mels = [mel.bfloat16() for mel in clips()]
    truth = reference_alone(tiny, [mel.float() for mel in mels])
    found = ours(tiny.encoder().bfloat16(), mels)
    assert all(x.dtype == torch.bfloat16 for x in found)
    model = type(tiny.reference.audio_tower)(tiny.reference.audio_tower.config)
    model.load_state_dict(tiny.reference.audio_tower.state_dict())
    model = model.bfloat16().eval()
    with torch.inference_mode():
        theirs = [model(input_features=mel[None]).last_hidden_state[0] for mel in mels]
    assert worst(found, truth) <= 0.06
    assert worst(found, truth) <= 1.25 * worst(theirs, truth)


@pytest.mark.parametrize(("scale_input", "attention_bias", "conv_bias"), itertools.product([True, False], repeat=3))
def test_every_option(scale_input: bool, attention_bias: bool, conv_bias: bool) -> None:
    """Other kernels and sizes than the published ones, with the options that it has off."""
    from transformers import ParakeetEncoder, ParakeetEncoderConfig

    from support.encoder_rig import loaded, scatter

    torch.manual_seed(5)
    names = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 40, "num_hidden_layers": 2}
    config = ParakeetEncoderConfig(
        **names,
        conv_kernel_size=5,
        subsampling_factor=4,
        subsampling_conv_channels=8,
        num_mel_bins=16,
        scale_input=scale_input,
        attention_bias=attention_bias,
        convolution_bias=conv_bias,
    )
    reference = ParakeetEncoder(config).eval()
    scatter(reference)
    spec = SoundSpec(32, 2, 2, 40, 5, conv_bias, attention_bias, scale_input, 4, 8, 3, 2, 16, 16000, 24, False)
    encoder = loaded(SoundEncoder(spec), reference.state_dict())
    mels = [mel[:, :16] for mel in clips([50, 23, 40])]
    assert worst(ours(encoder, mels), reference_batch(reference, mels)) <= TOLERANCE


def test_two_ranks_equal_one(tiny: Tiny, wanted: list[torch.Tensor]) -> None:
    encoders = []

    def run(linears) -> list[torch.Tensor]:
        encoders.append(tiny.encoder(linears, max_tokens=20))
        return ours(encoders[-1], clips())

    for found in on_two_ranks(run):
        assert worst(found, wanted) <= TOLERANCE
    for encoder in encoders:
        assert encoder.layers[0].self_attn.bias_u.shape == (2, 16)
        assert encoder.layers[0].self_attn.relative_k_proj.weight.shape == (32, 64)
        assert encoder.layers[0].feed_forward2.linear2.weight.shape == (64, 48)


# ---- counts, passes, memory -----------------------------------------------------------------------------------------


def test_token_counts(tiny: Tiny) -> None:
    spec = tiny.spec.sound
    assert spec is not None and tiny.spec.audio is not None
    lengths = [*range(1, 300), 2999, 3000, 3001]
    by_reference = tiny.reference.audio_tower._get_subsampling_output_length(torch.tensor(lengths)).tolist()
    assert [num_sound_tokens(spec, n) for n in lengths] == by_reference
    assert num_sound_tokens(spec, 3000) == 375
    assert [x.shape[0] for x in ours(tiny.encoder(), clips())] == [num_sound_tokens(spec, n) for n in FRAMES]


def test_token_counts_are_those_of_the_prompt(tiny: Tiny) -> None:
    from sglang_nemotron.media.audio.mel import clip_tokens

    spec, rule = tiny.spec.sound, tiny.spec.audio
    assert spec is not None and rule is not None
    assert all(num_sound_tokens(spec, n) == clip_tokens(n, rule) for n in range(1, 3001))


def test_passes_are_bounded(tiny: Tiny) -> None:
    shapes: list[torch.Size] = []
    encoder = tiny.encoder(max_tokens=50, max_frames=250)
    encoder.layers[0].register_forward_hook(lambda _m, inputs, _out: shapes.append(inputs[0].shape))
    with Largest() as seen:
        ours(encoder, clips([100] * 30))
    assert {tuple(shape) for shape in shapes} == {(3, 13, 64)}
    assert len(shapes) == 10
    # two clips through the first convolution: 16 channels, 50 x 16
    assert seen.numel == 2 * 16 * 50 * 16


@pytest.mark.parametrize(
    ("lengths", "wanted"),
    [
        ([], []),
        ([70], [(0, 1)]),
        ([1, 2, 3, 4], [(0, 3), (3, 4)]),
        ([1, 1, 1, 10, 70, 80], [(0, 3), (3, 4), (4, 5), (5, 6)]),
    ],
)
def test_padded_passes(lengths: list[int], wanted: list[tuple[int, int]]) -> None:
    assert padded_passes(lengths, 10) == wanted


@pytest.mark.parametrize(("shape", "frames"), [((5, 32), 0), ((5, 32), 6), ((5, 31), 5)])
def test_clips_must_hold_their_frames(tiny: Tiny, shape: tuple[int, int], frames: int) -> None:
    with pytest.raises(ValueError, match=rf"{frames} frames; allowed: 1 to 5 frames of 32 mel bins"):
        tiny.encoder()([torch.zeros(shape)], [frames])


# ---- the comparison can fail ----------------------------------------------------------------------------------------


def test_planted_faults_are_seen(tiny: Tiny, wanted: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> float:
        return worst(ours(tiny.encoder(), clips()), wanted)

    with monkeypatch.context() as planted:
        planted.setattr(sound, "by_key", lambda scores: scores[..., : scores.shape[-2]])
        assert found() > 100 * TOLERANCE
    with monkeypatch.context() as planted:
        whole = sound.distance_embeddings
        planted.setattr(sound, "distance_embeddings", lambda *given: whole(*given).flip(0))
        assert found() > 100 * TOLERANCE
    with monkeypatch.context() as planted:
        # nothing masked between the convolutions
        planted.setattr(sound.Subsampling, "forward", _unmasked)
        assert found() > 100 * TOLERANCE
    with monkeypatch.context() as planted:
        planted.setattr(sound.Convolution, "forward", _spilling(sound.Convolution.forward))
        assert found() > 100 * TOLERANCE
    with monkeypatch.context() as planted:
        planted.setattr(sound.Attention, "forward", _spilling(sound.Attention.forward))
        assert found() > 100 * TOLERANCE
    assert found() <= TOLERANCE


def _unmasked(self: sound.Subsampling, mel: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    x = mel[:, None]
    for layer in self.layers:
        x = layer(x)
    return self.linear(x.transpose(1, 2).flatten(2))


def _spilling(forward):
    def without_mask(self, *args):
        return forward(self, *args[:-1], None)

    return without_mask


@pytest.mark.parametrize(
    "name", ["layers.1.self_attn.bias_v", "layers.2.conv.norm.running_var", "subsampling.layers.2.bias"]
)
def test_one_weight_off_is_seen(tiny: Tiny, wanted: list[torch.Tensor], name: str) -> None:
    encoder = tiny.encoder()
    with torch.no_grad():
        encoder.state_dict()[name].view(-1)[0] += 0.5
    assert worst(ours(encoder, clips()), wanted) > 10 * TOLERANCE


def test_every_row_is_written(tiny: Tiny, wanted: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = tiny.encoder(max_tokens=20, max_frames=150)
    with born_nan():
        assert worst(ours(encoder, clips()), wanted) <= TOLERANCE
    # the padded buffers are zeros on purpose: had they been left as they come, it would show
    monkeypatch.setattr(torch.Tensor, "new_zeros", lambda self, *size: self.new_empty(*size))
    with born_nan():
        assert any(x.isnan().any() for x in ours(encoder, clips()))


# ---- CUDA -----------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, TOLERANCE), (torch.bfloat16, 0.06)])
def test_clips_on_cuda(tiny: Tiny, wanted: list[torch.Tensor], dtype: torch.dtype, tolerance: float) -> None:
    encoder = tiny.encoder(max_tokens=20, max_frames=150).to("cuda", dtype)
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        found = [x.cpu() for x in ours(encoder, clips())]
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
    assert worst(found, wanted) <= tolerance
