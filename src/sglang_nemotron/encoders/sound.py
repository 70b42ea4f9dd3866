"""The Parakeet sound encoder: mel frames of clips in, one feature per token out, for clips of any lengths.

Clips are padded to the longest of their pass and masked, so that a clip's result never depends on its neighbours. It
must never know samples, prompts or where features go.

Shapes: N clips of a pass; T mel frames, later tokens, of the longest; M mel bins; C channels (hidden size);
H heads of this rank; D head dim; E heads times head dim of this rank; R = 2T - 1 distances; K channels of subsampling.
Source: FastConformer (https://arxiv.org/abs/2305.05084), relative positions of Transformer-XL
(https://arxiv.org/abs/1901.02860, appendix B), transformers' ParakeetEncoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from sglang_nemotron.config.towers import SoundSpec
from sglang_nemotron.encoders.linears import PLAIN, Linears, apply, split_over

# tokens of one pass, padding included: bounds attention's scores by distance, 94 MB for 30 s clips in bf16
MAX_TOKENS = 8192
# mel frames of one pass through the convolutions, whose first output takes 197 MB for four 30 s clips in bf16
MAX_FRAMES = 12288


def num_sound_tokens(spec: SoundSpec, num_frames: int) -> int:
    """Tokens of a clip of `num_frames` mel frames: 375 of 3,000."""
    for _ in range(spec.num_subsamplings):
        num_frames = _halved(num_frames)
    return num_frames


def _halved(length: int) -> int:
    """Outputs of a convolution with stride 2, an odd kernel and half a kernel of padding at both ends."""
    return (length - 1) // 2 + 1


class SoundEncoder(nn.Module):
    """FastConformer. Parameters and buffers (BatchNorm's statistics) are named as in the checkpoint, below
    `sound_encoder.encoder.`; its `feature_extractor.*` is for the audio side and has no place here.

    linears: makes the attention and feed-forward layers; heads and ffn channels are split over its ranks where they
    divide, convolutions are not. max_tokens, max_frames: per pass, of the blocks and of the subsampling.
    """

    def __init__(
        self,
        spec: SoundSpec,
        *,
        linears: Linears = PLAIN,
        max_tokens: int = MAX_TOKENS,
        max_frames: int = MAX_FRAMES,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.max_tokens, self.max_frames = max_tokens, max_frames
        self.scale = math.sqrt(spec.hidden_size) if spec.scale_input else 1.0
        self.subsampling = Subsampling(spec)
        self.layers = nn.ModuleList(Block(spec, linears, f"layers.{i}") for i in range(spec.num_layers))

    def forward(self, mels: Sequence[torch.Tensor], num_frames: Sequence[int]) -> list[torch.Tensor]:
        """Clips [frames or more, mel bins], of which the first num_frames count -> [tokens, C] each, in order.

        What stands behind a clip's frames is never read. Clips may be on any device and in any float dtype.
        """
        for mel_TM, frames in zip(mels, num_frames, strict=True):
            if mel_TM.shape[-1] != self.spec.num_mels or not 0 < frames <= mel_TM.shape[0]:
                raise ValueError(
                    f"a clip of shape {tuple(mel_TM.shape)} has {frames} frames; allowed: 1 to {mel_TM.shape[0]} "
                    f"frames of {self.spec.num_mels} mel bins"
                )
        # like lengths together, so that little is padding
        order = sorted(range(len(mels)), key=lambda i: num_frames[i])
        tokens = [num_sound_tokens(self.spec, num_frames[i]) for i in order]
        features: dict[int, torch.Tensor] = {}
        for start, end in padded_passes(tokens, self.max_tokens):
            chosen = order[start:end]
            x_NTC = self._encode([mels[i][: num_frames[i]] for i in chosen], tokens[start:end])
            features.update((i, x_TC[:count]) for i, x_TC, count in zip(chosen, x_NTC, tokens[start:end], strict=True))
        return [features[i] for i in range(len(mels))]

    def _encode(self, mels: list[torch.Tensor], tokens: list[int]) -> torch.Tensor:
        """Clips of ascending length -> x_NTC; rows behind a clip's tokens are finite and mean nothing."""
        x_NTC = self._subsample(mels, tokens[-1]) * self.scale
        valid_NT = None
        if tokens[0] != tokens[-1]:
            counts_N = torch.tensor(tokens, device=x_NTC.device)
            valid_NT = torch.arange(tokens[-1], device=x_NTC.device) < counts_N[:, None]
        distances_RC = distance_embeddings(tokens[-1], x_NTC)
        for layer in self.layers:
            x_NTC = layer(x_NTC, distances_RC, valid_NT)
        return x_NTC

    def _subsample(self, mels: list[torch.Tensor], most_tokens: int) -> torch.Tensor:
        """In smaller groups, each padded to its own longest; zeros behind what a group has."""
        weight = self.subsampling.linear.weight
        x_NTC = torch.zeros(len(mels), most_tokens, self.spec.hidden_size, device=weight.device, dtype=weight.dtype)
        frames = [mel.shape[0] for mel in mels]
        for start, end in padded_passes(frames, self.max_frames):
            mel_NTM = x_NTC.new_zeros(end - start, frames[end - 1], self.spec.num_mels)
            for row, mel_TM in zip(mel_NTM, mels[start:end], strict=True):
                row[: mel_TM.shape[0]] = mel_TM
            part = self.subsampling(mel_NTM, frames[start:end])
            x_NTC[start:end, : part.shape[1]] = part
        return x_NTC


def padded_passes(lengths: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Ranges (start, end) of ascending lengths whose number times the longest is at most `most`, or one alone."""
    ranges, start = [], 0
    for i, length in enumerate(lengths):
        if i > start and (i + 1 - start) * length > most:
            ranges.append((start, i))
            start = i
    return [*ranges, (start, len(lengths))] if lengths else []


def distance_embeddings(num_tokens: int, like: torch.Tensor) -> torch.Tensor:
    """distances_RC for distances T-1 down to -(T-1), sines at even and cosines at odd channels, made in fp32."""
    channels = like.shape[-1]
    rates = torch.arange(0, channels, 2, device=like.device, dtype=torch.float32) / channels
    distances = torch.arange(num_tokens - 1, -num_tokens, -1, device=like.device, dtype=torch.float32)
    angles = distances[:, None] * (1.0 / 10000.0**rates)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).to(like.dtype)


class Subsampling(nn.Module):
    """log2(factor) convolutions of stride 2 over time and mel bins, then a linear layer: mel_NTM -> x_NTC."""

    def __init__(self, spec: SoundSpec) -> None:
        super().__init__()
        channels = spec.subsampling_channels
        layers: list[nn.Module] = [_halving(spec, 1, groups=1), nn.ReLU(inplace=True)]
        for _ in range(spec.num_subsamplings - 1):
            pointwise = nn.Conv2d(channels, channels, kernel_size=1)
            layers += [_halving(spec, channels, groups=channels), pointwise, nn.ReLU(inplace=True)]
        self.layers = nn.ModuleList(layers)
        self.linear = nn.Linear(channels * (spec.num_mels // spec.subsampling_factor), spec.hidden_size)

    def forward(self, mel_NTM: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        x_NKTM = mel_NTM[:, None]
        padded = min(lengths) != max(lengths)
        for layer in self.layers:
            x_NKTM = layer(x_NKTM)
            if not isinstance(layer, nn.Conv2d):
                continue
            if layer.stride != (1, 1):
                lengths = [_halved(length) for length in lengths]
            if padded:
                # the bias makes something of nothing, which the next layer would read as sound
                for clip, length in zip(x_NKTM, lengths, strict=True):
                    clip[:, length:] = 0
        return self.linear(x_NKTM.transpose(1, 2).flatten(2))


def _halving(spec: SoundSpec, in_channels: int, groups: int) -> nn.Conv2d:
    kernel = spec.subsampling_kernel
    return nn.Conv2d(
        in_channels,
        spec.subsampling_channels,
        kernel_size=kernel,
        stride=spec.subsampling_stride,
        padding=(kernel - 1) // 2,
        groups=groups,
    )


class Block(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward, each on top of its input; then a norm."""

    def __init__(self, spec: SoundSpec, linears: Linears, prefix: str) -> None:
        super().__init__()
        self.feed_forward1 = FeedForward(spec, linears, f"{prefix}.feed_forward1")
        self.self_attn = Attention(spec, linears, f"{prefix}.self_attn")
        self.conv = Convolution(spec)
        self.feed_forward2 = FeedForward(spec, linears, f"{prefix}.feed_forward2")
        self.norm_feed_forward1 = nn.LayerNorm(spec.hidden_size, eps=spec.norm_eps)
        self.norm_self_att = nn.LayerNorm(spec.hidden_size, eps=spec.norm_eps)
        self.norm_conv = nn.LayerNorm(spec.hidden_size, eps=spec.norm_eps)
        self.norm_feed_forward2 = nn.LayerNorm(spec.hidden_size, eps=spec.norm_eps)
        self.norm_out = nn.LayerNorm(spec.hidden_size, eps=spec.norm_eps)

    def forward(self, x_NTC: torch.Tensor, distances_RC: torch.Tensor, valid_NT: torch.Tensor | None) -> torch.Tensor:
        x_NTC = x_NTC + 0.5 * self.feed_forward1(self.norm_feed_forward1(x_NTC))
        x_NTC = x_NTC + self.self_attn(self.norm_self_att(x_NTC), distances_RC, valid_NT)
        x_NTC = x_NTC + self.conv(self.norm_conv(x_NTC), valid_NT)
        x_NTC = x_NTC + 0.5 * self.feed_forward2(self.norm_feed_forward2(x_NTC))
        return self.norm_out(x_NTC)


class FeedForward(nn.Module):
    def __init__(self, spec: SoundSpec, linears: Linears, prefix: str) -> None:
        super().__init__()
        linears = split_over(linears, spec.intermediate_size)
        size, bias = (spec.hidden_size, spec.intermediate_size), spec.attention_bias
        self.linear1 = linears.column(*size, bias=bias, prefix=f"{prefix}.linear1")
        self.linear2 = linears.row(*reversed(size), bias=bias, prefix=f"{prefix}.linear2")

    def forward(self, x_NTC: torch.Tensor) -> torch.Tensor:
        return apply(self.linear2, F.silu(apply(self.linear1, x_NTC)))


class Attention(nn.Module):
    """softmax(((q + u) k + (q + v) r) / sqrt(D)): r depends on the distance between query and key alone."""

    def __init__(self, spec: SoundSpec, linears: Linears, prefix: str) -> None:
        super().__init__()
        linears = split_over(linears, spec.num_heads)
        self.num_heads = spec.num_heads // linears.tp_size
        self.head_dim = spec.hidden_size // spec.num_heads
        self.first_head = linears.tp_rank * self.num_heads
        size, bias = spec.hidden_size, spec.attention_bias
        self.q_proj = linears.column(size, size, bias=bias, prefix=f"{prefix}.q_proj")
        self.k_proj = linears.column(size, size, bias=bias, prefix=f"{prefix}.k_proj")
        self.v_proj = linears.column(size, size, bias=bias, prefix=f"{prefix}.v_proj")
        self.o_proj = linears.row(size, size, bias=bias, prefix=f"{prefix}.o_proj")
        self.relative_k_proj = linears.column(size, size, bias=False, prefix=f"{prefix}.relative_k_proj")
        self.bias_u = nn.Parameter(torch.zeros(self.num_heads, self.head_dim))
        self.bias_v = nn.Parameter(torch.zeros(self.num_heads, self.head_dim))
        # SGLang writes weights through this attribute
        for bias_HD in (self.bias_u, self.bias_v):
            bias_HD.weight_loader = self._load_heads  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, x_NTC: torch.Tensor, distances_RC: torch.Tensor, valid_NT: torch.Tensor | None) -> torch.Tensor:
        q_NHTD, k_NHTD, v_NHTD = (self._heads(layer, x_NTC) for layer in (self.q_proj, self.k_proj, self.v_proj))
        r_HRD = self._heads(self.relative_k_proj, distances_RC[None])[0]
        by_distance_NHTR = (q_NHTD + self.bias_v[:, None]) @ r_HRD.transpose(-1, -2)
        bias_NHTT = by_key(by_distance_NHTR) * self.head_dim**-0.5
        if valid_NT is not None:
            bias_NHTT = bias_NHTT.masked_fill(~valid_NT[:, None, None], -torch.inf)
        out_NHTD = F.scaled_dot_product_attention(q_NHTD + self.bias_u[:, None], k_NHTD, v_NHTD, attn_mask=bias_NHTT)
        return apply(self.o_proj, out_NHTD.transpose(1, 2).flatten(2))

    def _heads(self, layer: nn.Module, x_NTC: torch.Tensor) -> torch.Tensor:
        return apply(layer, x_NTC).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _load_heads(self, parameter: nn.Parameter, loaded: torch.Tensor) -> None:
        parameter.data.copy_(loaded[self.first_head : self.first_head + self.num_heads])


def by_key(by_distance_NHTR: torch.Tensor) -> torch.Tensor:
    """Scores of each query by distance (T-1 down to -(T-1)) -> by key: entry [i, j] is that of distance i - j.

    A view: one step to the next query is one distance less than a whole row.
    """
    scores = by_distance_NHTR.contiguous()
    num, heads, length, distances = scores.shape
    strides = (heads * length * distances, length * distances, distances - 1, 1)
    return scores.as_strided((num, heads, length, length), strides, scores.storage_offset() + length - 1)


class Convolution(nn.Module):
    """Pointwise and gated, depthwise over time, BatchNorm with the stored statistics, pointwise."""

    def __init__(self, spec: SoundSpec) -> None:
        super().__init__()
        size, bias, kernel = spec.hidden_size, spec.conv_bias, spec.conv_kernel
        self.pointwise_conv1 = nn.Conv1d(size, 2 * size, 1, bias=bias)
        self.depthwise_conv = nn.Conv1d(size, size, kernel, padding=(kernel - 1) // 2, groups=size, bias=bias)
        self.norm = StoredBatchNorm(size, eps=spec.norm_eps)
        self.pointwise_conv2 = nn.Conv1d(size, size, 1, bias=bias)

    def forward(self, x_NTC: torch.Tensor, valid_NT: torch.Tensor | None) -> torch.Tensor:
        x_NCT = F.glu(self.pointwise_conv1(x_NTC.transpose(1, 2)), dim=1)
        if valid_NT is not None:
            # the taps of a clip's last tokens reach behind its end, where a clip alone has zeros
            x_NCT = x_NCT.masked_fill(~valid_NT[:, None], 0.0)
        x_NCT = F.silu(self.norm(self.depthwise_conv(x_NCT)))
        return self.pointwise_conv2(x_NCT).transpose(1, 2)


class StoredBatchNorm(nn.BatchNorm1d):
    """Never the batch's own statistics, whatever mode the module is in: a clip must not see its neighbours."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )
