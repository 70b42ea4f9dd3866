"""The RADIO vision tower: normalised pixels in, one feature per patch out, for images of any sizes and for video.

Images are packed: linear layers see the patches of all images of a pass as one list of tokens, attention sees images
of equal length as one batch. It must never know prompts, tokens ids or where features go.

Shapes: T tokens of a pass, prefixes included; N patches of one image; G tubelets; B images of equal length L;
H heads of this rank; D head dim; C hidden size; E heads times head dim of this rank; F ffn size; P numbers in a patch.
Source: RADIO (https://arxiv.org/abs/2312.06709), transformers' RadioModel.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from sglang_nemotron import ops
from sglang_nemotron.config.towers import VisionSpec
from sglang_nemotron.encoders.linears import PLAIN, Linears, apply, split_over

# tokens of one pass: bounds its activations, of which the published tower's widest takes 168 MB in bf16
MAX_TOKENS = 16384
# position embeddings kept, in patches over all sizes (168 MB for the published tower in bf16)
MAX_CACHED_POSITIONS = 65536


class VisionTower(nn.Module):
    """RADIO ViT without LayerScale, summary and final norm. Parameters are named as in the checkpoint, below
    `vision_model.radio_model.model.`; after writing `patch_generator.pos_embed` other than through its
    `weight_loader`, call `patch_generator.forget_positions()`.

    linears: makes the attention and MLP layers; heads and ffn channels are split over its ranks where they divide.
    max_tokens: tokens per pass; an image that is longer has a pass of its own.
    """

    def __init__(self, spec: VisionSpec, *, linears: Linears = PLAIN, max_tokens: int = MAX_TOKENS) -> None:
        super().__init__()
        self.spec = spec
        self.max_tokens = max_tokens
        self.patch_generator = PatchGenerator(spec)
        self.blocks = nn.ModuleList(Block(spec, linears, f"blocks.{i}") for i in range(spec.num_layers))

    def grid(self, pixels_CHW: torch.Tensor) -> tuple[int, int]:
        """(rows, columns) in patches; ValueError if a side is no multiple of the patch size."""
        height, width = pixels_CHW.shape[-2:]
        size = self.spec.patch_size
        if height % size or width % size or not height or not width:
            raise ValueError(f"pixels are {height} x {width}; both sides must be multiples of {size}")
        return height // size, width // size

    def images(self, pixels: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
        """[3, height, width] each -> x_NC each, patches in row order; one list per pass, the input's order kept.

        Pixels are normalised already; they may be on any device and in any float dtype.
        """
        grids = [self.grid(image) for image in pixels]
        prefix = self.spec.num_prefix_tokens
        for start, end in passes([rows * cols + prefix for rows, cols in grids], self.max_tokens):
            chosen = range(start, end)
            # equal lengths side by side, so that attention can take them as a batch
            order = sorted(chosen, key=lambda i: grids[i][0] * grids[i][1])
            x_TC, lengths = self.patch_generator.embed_images([pixels[i] for i in order], [grids[i] for i in order])
            by_index = dict(zip(order, self._encode(x_TC, lengths), strict=True))
            yield [by_index[i] for i in chosen]

    def video(self, frames_TCHW: torch.Tensor) -> Iterator[torch.Tensor]:
        """Frames (an even number; [frames, 3, height, width]) -> x_GNC, some tubelets per pass, in order."""
        rows, cols = self.grid(frames_TCHW)
        per_tubelet = self.spec.temporal_patch_size
        if frames_TCHW.shape[0] == 0 or frames_TCHW.shape[0] % per_tubelet:
            raise ValueError(f"a video has {frames_TCHW.shape[0]} frames; allowed: a multiple of {per_tubelet}")
        length = rows * cols + self.spec.num_prefix_tokens
        lengths = [length] * (frames_TCHW.shape[0] // per_tubelet)
        for start, end in passes(lengths, self.max_tokens):
            frames = frames_TCHW[start * per_tubelet : end * per_tubelet]
            x_TC, lengths_of_pass = self.patch_generator.embed_tubelets(frames, (rows, cols))
            yield torch.stack(self._encode(x_TC, lengths_of_pass))

    def _encode(self, x_TC: torch.Tensor, lengths: list[int]) -> list[torch.Tensor]:
        """Token sequences back to back -> x_NC of each, without prefix tokens. `lengths` ascend."""
        for block in self.blocks:
            x_TC = block(x_TC, lengths)
        return [x[self.spec.num_prefix_tokens :] for x in x_TC.split(lengths)]


def passes(lengths: Sequence[int], max_tokens: int) -> Iterator[tuple[int, int]]:
    """Consecutive ranges (start, end) whose lengths sum to at most max_tokens; a longer one goes alone."""
    start = total = 0
    for i, length in enumerate(lengths):
        if i > start and total + length > max_tokens:
            yield start, i
            start, total = i, 0
        total += length
    if lengths:
        yield start, len(lengths)


class PatchGenerator(nn.Module):
    """Patches -> embeddings with positions, class and register tokens in front."""

    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embedder = nn.Linear(spec.patch_dim, spec.hidden_size, bias=False)
        self.video_embedder = nn.Linear(spec.temporal_patch_size * spec.patch_dim, spec.hidden_size, bias=False)
        self.pos_embed = nn.Parameter(torch.zeros(1, spec.position_grid**2, spec.hidden_size))
        self.cls_token = PrefixTokens(spec)
        self._positions: OrderedDict[tuple[int, int], torch.Tensor] = OrderedDict()
        # SGLang writes weights through this attribute; cached positions die with the old ones
        self.pos_embed.weight_loader = self._load_positions  # pyright: ignore[reportAttributeAccessIssue]

    def embed_images(
        self, pixels: Sequence[torch.Tensor], grids: Sequence[tuple[int, int]]
    ) -> tuple[torch.Tensor, list[int]]:
        """[3, height, width] each -> x_TC of all, and the length of each."""
        patches_TP = torch.cat([patchify(self._here(image)[None], self.spec.patch_size)[0] for image in pixels])
        features = self.embedder(patches_TP).split([rows * cols for rows, cols in grids])
        sequences = []
        for x_NC, grid in zip(features, grids, strict=True):
            sequences += [self.cls_token.token, x_NC + self.positions(grid)]
        return torch.cat(sequences), [x.shape[0] + self.spec.num_prefix_tokens for x in features]

    def embed_tubelets(self, frames_TCHW: torch.Tensor, grid: tuple[int, int]) -> tuple[torch.Tensor, list[int]]:
        """[2 tubelets, 3, height, width] -> x_TC of all tubelets, and the length of each."""
        frames = self._here(frames_TCHW)
        # the patches of both frames side by side, the earlier frame first
        stacked = frames.reshape(-1, self.spec.temporal_patch_size * frames.shape[1], *frames.shape[2:])
        x_GNC = self.video_embedder(patchify(stacked, self.spec.patch_size)) + self.positions(grid)
        prefix = self.cls_token.token.expand(x_GNC.shape[0], -1, -1)
        x_GLC = torch.cat([prefix, x_GNC], dim=1)
        return x_GLC.flatten(0, 1), [x_GLC.shape[1]] * x_GLC.shape[0]

    def positions(self, grid: tuple[int, int]) -> torch.Tensor:
        """x_NC of a grid (rows, columns): the stored grid resized to a square, bilinear in fp32, then cropped."""
        if grid in self._positions:
            self._positions.move_to_end(grid)
            return self._positions[grid]
        side = self.spec.position_grid
        stored = self.pos_embed.detach().float().view(side, side, -1)
        x_NC = resized_crop(stored, grid).flatten(0, 1).to(self.pos_embed.dtype)
        self._positions[grid] = x_NC
        while sum(x.shape[0] for x in self._positions.values()) > MAX_CACHED_POSITIONS and len(self._positions) > 1:
            self._positions.popitem(last=False)
        return x_NC

    def forget_positions(self) -> None:
        self._positions.clear()

    def _load_positions(self, parameter: nn.Parameter, loaded: torch.Tensor) -> None:
        if parameter.shape != loaded.shape:
            raise ValueError(
                f"pos_embed in the checkpoint is {tuple(loaded.shape)}; the config says {tuple(parameter.shape)}"
            )
        parameter.data.copy_(loaded)
        self.forget_positions()

    def _apply(self, fn, recurse: bool = True):
        # another device or dtype
        self.forget_positions()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args) -> None:
        self.forget_positions()
        super()._load_from_state_dict(*args)

    def _here(self, pixels: torch.Tensor) -> torch.Tensor:
        weight = self.embedder.weight
        return pixels.to(device=weight.device, dtype=weight.dtype)


class PrefixTokens(nn.Module):
    """Class tokens, then registers; a module only so that the checkpoint's name fits."""

    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(spec.num_prefix_tokens, spec.hidden_size))


def patchify(pixels_GCHW: torch.Tensor, size: int) -> torch.Tensor:
    """-> patches_GNP: patches by rows, the numbers of a patch by channel, then row, then column."""
    num, channels, height, width = pixels_GCHW.shape
    blocks = pixels_GCHW.reshape(num, channels, height // size, size, width // size, size)
    return blocks.permute(0, 2, 4, 1, 3, 5).reshape(num, -1, channels * size * size)


def resized_crop(grid_SSC: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """The top left (rows, columns) of the grid resized to the larger of the two, bilinear, half-pixel centres.

    Equal to `F.interpolate(align_corners=False)` and a crop, but the square is never made: a strip of 2 x 6,656
    patches would need 227 GB of it.
    """
    rows, cols = shape
    size = max(shape)
    top, left = (_sources(count, size, grid_SSC) for count in (rows, cols))
    # only the stored rows that the crop touches
    lines = grid_SSC[: int(top[1].max()) + 1]
    return _blend(_blend(lines, left, 1), top, 0)


def _sources(count: int, size: int, grid_SSC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For the first `count` of `size` outputs: the two inputs of each, and the weight of the second."""
    side = grid_SSC.shape[0]
    outputs = torch.arange(count, device=grid_SSC.device, dtype=torch.float32)
    at = ((outputs + 0.5) * (side / size) - 0.5).clamp(min=0)
    first = at.floor().long().clamp(max=side - 1)
    return first, (first + 1).clamp(max=side - 1), at - first


def _blend(x: torch.Tensor, sources: tuple[torch.Tensor, torch.Tensor, torch.Tensor], dim: int) -> torch.Tensor:
    first, second, weight = sources
    weight = weight.view(-1, 1, 1) if dim == 0 else weight.view(1, -1, 1)
    return x.index_select(dim, first) * (1 - weight) + x.index_select(dim, second) * weight


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, spec: VisionSpec, linears: Linears, prefix: str) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(spec.hidden_size, eps=spec.norm_eps)
        self.attn = Attention(spec, linears, f"{prefix}.attn")
        self.norm2 = nn.LayerNorm(spec.hidden_size, eps=spec.norm_eps)
        self.mlp = Mlp(spec, linears, f"{prefix}.mlp")

    def forward(self, x_TC: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        x_TC = x_TC + self.attn(self.norm1(x_TC), lengths)
        return x_TC + self.mlp(self.norm2(x_TC))


class Attention(nn.Module):
    """Full attention inside each sequence, none across; no mask is ever made."""

    def __init__(self, spec: VisionSpec, linears: Linears, prefix: str) -> None:
        super().__init__()
        linears = split_over(linears, spec.num_heads)
        self.num_heads = spec.num_heads // linears.tp_size
        self.head_dim = spec.hidden_size // spec.num_heads
        self.qkv = linears.qkv(spec.hidden_size, self.head_dim, spec.num_heads, bias=True, prefix=f"{prefix}.qkv")
        self.proj = linears.row(spec.hidden_size, spec.hidden_size, bias=True, prefix=f"{prefix}.proj")

    def forward(self, x_TC: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        qkv_T3HD = apply(self.qkv, x_TC).unflatten(-1, (3, self.num_heads, self.head_dim))
        out_THD = ops.full_attention(*qkv_T3HD.unbind(1), lengths=lengths)
        return apply(self.proj, out_THD.flatten(1))


class Mlp(nn.Module):
    def __init__(self, spec: VisionSpec, linears: Linears, prefix: str) -> None:
        super().__init__()
        linears = split_over(linears, spec.intermediate_size)
        self.fc1 = linears.column(spec.hidden_size, spec.intermediate_size, bias=True, prefix=f"{prefix}.fc1")
        self.fc2 = linears.row(spec.intermediate_size, spec.hidden_size, bias=True, prefix=f"{prefix}.fc2")

    def forward(self, x_TC: torch.Tensor) -> torch.Tensor:
        return apply(self.fc2, F.gelu(apply(self.fc1, x_TC)))
