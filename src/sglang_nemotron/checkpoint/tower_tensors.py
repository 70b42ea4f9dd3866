"""The inventory of an Omni checkpoint's media half: vision tower, sound encoder and projectors, in file order.

Knows the published weight names (and only those); never makes a value, and knows nothing of the language model.
"""

from __future__ import annotations

from collections.abc import Iterator

from sglang_nemotron.checkpoint.tensors import SourceTensor
from sglang_nemotron.checkpoint.tower_spec import (
    FRAMES_PER_TUBELET,
    NUM_CHANNELS,
    NUM_PREFIX_TOKENS,
    TowerSpec,
)

RADIO = "vision_model.radio_model"
SOUND = "sound_encoder.encoder"

# 16 kHz samples of a Fourier frame, and of the window inside it (config of the published feature extractor)
FFT_SIZE, WINDOW_SIZE = 512, 400


def tower_inventory(towers: TowerSpec, hidden_size: int, *, as_transformers: bool) -> Iterator[SourceTensor]:
    """Every tensor of towers and projectors.

    Args:
        towers: the sizes.
        hidden_size: of the language model, where the projectors end.
        as_transformers: what transformers' save_pretrained writes: layer scales of one and summary indices that the
            published checkpoint lacks, and neither the pixel normaliser nor the mel filters that it has.
    """
    yield from _vision(towers, as_transformers)
    yield from _vision_projector(towers, hidden_size)
    yield from _sound(towers, as_transformers)
    yield from _sound_projector(towers, hidden_size)


def _linear(module: str, num_out: int, num_in: int, gain: float) -> SourceTensor:
    return SourceTensor(f"{module}.weight", (num_out, num_in), "tower_linear", gain)


def _bias(module: str, size: int) -> SourceTensor:
    return SourceTensor(f"{module}.bias", (size,), "bias")


def _layer_norm(module: str, size: int) -> Iterator[SourceTensor]:
    yield SourceTensor(f"{module}.weight", (size,), "norm")
    yield _bias(module, size)


def _vision(towers: TowerSpec, as_transformers: bool) -> Iterator[SourceTensor]:
    width, patch = towers.vision_hidden_size, towers.patch_dim
    if as_transformers:
        yield SourceTensor(f"{RADIO}.summary_idxs", (2,), "summary_indices")
    else:
        yield SourceTensor(f"{RADIO}.input_conditioner.norm_mean", (NUM_CHANNELS, 1, 1), "pixel_mean")
        yield SourceTensor(f"{RADIO}.input_conditioner.norm_std", (NUM_CHANNELS, 1, 1), "pixel_std")
    patches = f"{RADIO}.model.patch_generator"
    yield _linear(f"{patches}.embedder", width, patch, 1.0)
    yield _linear(f"{patches}.video_embedder", width, FRAMES_PER_TUBELET * patch, 1.0)
    yield SourceTensor(f"{patches}.pos_embed", (1, towers.position_grid**2, width), "positions")
    yield SourceTensor(f"{patches}.cls_token.token", (NUM_PREFIX_TOKENS, width), "positions")
    for index in range(towers.vision_num_hidden_layers):
        yield from _vision_block(towers, f"{RADIO}.model.blocks.{index}", as_transformers)


def _vision_block(towers: TowerSpec, block: str, as_transformers: bool) -> Iterator[SourceTensor]:
    width, inner = towers.vision_hidden_size, towers.vision_intermediate_size
    yield from _layer_norm(f"{block}.norm1", width)
    yield _linear(f"{block}.attn.qkv", 3 * width, width, 1.5)
    yield _bias(f"{block}.attn.qkv", 3 * width)
    yield _linear(f"{block}.attn.proj", width, width, 1.0)
    yield _bias(f"{block}.attn.proj", width)
    yield from _layer_norm(f"{block}.norm2", width)
    yield _linear(f"{block}.mlp.fc1", inner, width, 1.5)
    yield _bias(f"{block}.mlp.fc1", inner)
    yield _linear(f"{block}.mlp.fc2", width, inner, 1.0)
    yield _bias(f"{block}.mlp.fc2", width)
    if as_transformers:
        yield SourceTensor(f"{block}.layer_scale1.lambda1", (width,), "ones")
        yield SourceTensor(f"{block}.layer_scale2.lambda1", (width,), "ones")


def _vision_projector(towers: TowerSpec, hidden_size: int) -> Iterator[SourceTensor]:
    yield SourceTensor("mlp1.0.weight", (towers.merged_size,), "norm")
    yield _linear("mlp1.1", towers.projector_hidden_size, towers.merged_size, 1.0)
    # relu2 of a unit normal has an rms of sqrt(1.5): an embedding comes out as large as a word's
    yield _linear("mlp1.3", hidden_size, towers.projector_hidden_size, 0.8)


def _sound(towers: TowerSpec, as_transformers: bool) -> Iterator[SourceTensor]:
    if not as_transformers:
        featurizer = f"{SOUND}.feature_extractor.featurizer"
        yield SourceTensor(f"{featurizer}.fb", (1, towers.num_mel_bins, FFT_SIZE // 2 + 1), "mel_filters")
        yield SourceTensor(f"{featurizer}.window", (WINDOW_SIZE,), "window")
    yield from _subsampling(towers, f"{SOUND}.subsampling")
    for index in range(towers.sound_num_hidden_layers):
        yield from _sound_block(towers, f"{SOUND}.layers.{index}")


def _subsampling(towers: TowerSpec, module: str) -> Iterator[SourceTensor]:
    """Three stages of stride 2; the first is one convolution, the others a depthwise and a pointwise one each."""
    channels = towers.sound_subsampling_conv_channels
    stages = [(0, (channels, 1, 3, 3), 1.4)]
    for depthwise, pointwise in ((2, 3), (5, 6)):
        stages += [(depthwise, (channels, 1, 3, 3), 1.0), (pointwise, (channels, channels, 1, 1), 1.4)]
    for number, shape, gain in stages:
        yield SourceTensor(f"{module}.layers.{number}.weight", shape, "tower_conv", gain)
        yield _bias(f"{module}.layers.{number}", channels)
    # three halvings leave an eighth of the mel bins
    yield _linear(f"{module}.linear", towers.sound_hidden_size, channels * (towers.num_mel_bins // 8), 1.0)
    yield _bias(f"{module}.linear", towers.sound_hidden_size)


def _sound_block(towers: TowerSpec, block: str) -> Iterator[SourceTensor]:
    width, heads = towers.sound_hidden_size, towers.sound_num_attention_heads
    for number in (1, 2):
        forward = f"{block}.feed_forward{number}"
        yield _linear(f"{forward}.linear1", towers.sound_intermediate_size, width, 1.5)
        yield _linear(f"{forward}.linear2", width, towers.sound_intermediate_size, 1.0)
    attention = f"{block}.self_attn"
    for leaf, gain in (("q_proj", 1.2), ("k_proj", 1.2), ("v_proj", 1.2), ("o_proj", 1.0), ("relative_k_proj", 1.0)):
        yield _linear(f"{attention}.{leaf}", width, width, gain)
    for leaf in ("bias_u", "bias_v"):
        yield SourceTensor(f"{attention}.{leaf}", (heads, width // heads), "bias")
    conv = f"{block}.conv"
    yield SourceTensor(f"{conv}.pointwise_conv1.weight", (2 * width, width, 1), "tower_conv", 1.5)
    yield SourceTensor(f"{conv}.depthwise_conv.weight", (width, 1, towers.sound_conv_kernel_size), "tower_conv", 1.0)
    yield from _layer_norm(f"{conv}.norm", width)
    yield SourceTensor(f"{conv}.norm.running_mean", (width,), "bias")
    yield SourceTensor(f"{conv}.norm.running_var", (width,), "running_var")
    yield SourceTensor(f"{conv}.norm.num_batches_tracked", (), "counter")
    yield SourceTensor(f"{conv}.pointwise_conv2.weight", (width, width, 1), "tower_conv", 1.5)
    for name in ("feed_forward1", "self_att", "conv", "feed_forward2", "out"):
        yield from _layer_norm(f"{block}.norm_{name}", width)


def _sound_projector(towers: TowerSpec, hidden_size: int) -> Iterator[SourceTensor]:
    module = "sound_projection"
    yield SourceTensor(f"{module}.norm.weight", (towers.sound_hidden_size,), "norm")
    yield _linear(f"{module}.linear1", towers.sound_projection_hidden_size, towers.sound_hidden_size, 1.0)
    yield _linear(f"{module}.linear2", hidden_size, towers.sound_projection_hidden_size, 0.8)
