"""Features of the towers in, embeddings of the decoder's size out: pixel shuffle, projectors, EVS.

It must never know a prompt: what text stands between a video's tubelets is handed in as embeddings.

Shapes: N patches or tokens of one image or tubelet; G tubelets; C channels; T rows of any kind; L rows of a run.
Source: the published checkpoint's `mlp1` and `sound_projection`; EVS: https://arxiv.org/abs/2510.14624.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from sglang_nemotron.encoders.linears import PLAIN, Linears, apply, split_over
from sglang_nemotron.encoders.sound import SoundEncoder
from sglang_nemotron.encoders.vision import VisionTower

# rows per pass: bounds the wide middle, 168 MB in bf16 for the published 20,480
MAX_ROWS = 4096


class Projector(nn.Module):
    """RMSNorm -> linear -> relu squared -> linear.

    Parameters are named as below the checkpoint's `sound_projection.`; in its `mlp1.` the same three layers are
    called 0 (norm), 1 (linear1) and 3 (linear2).
    """

    def __init__(
        self,
        in_size: int,
        hidden_size: int,
        out_size: int,
        *,
        eps: float,
        bias: bool = False,
        linears: Linears = PLAIN,
        max_rows: int = MAX_ROWS,
    ) -> None:
        super().__init__()
        linears = split_over(linears, hidden_size)
        self.max_rows = max_rows
        self.norm = RMSNorm(in_size, eps)
        self.linear1 = linears.column(in_size, hidden_size, bias=bias, prefix="linear1")
        self.linear2 = linears.row(hidden_size, out_size, bias=bias, prefix="linear2")

    def forward(self, x_TC: torch.Tensor) -> torch.Tensor:
        """[rows, in_size] -> [rows, out_size]."""
        parts = [self._some(rows) for rows in x_TC.split(self.max_rows)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _some(self, x_TC: torch.Tensor) -> torch.Tensor:
        return apply(self.linear2, F.relu(apply(self.linear1, self.norm(x_TC))).square())


class RMSNorm(nn.Module):
    """In fp32, the weight included; only the result is cast back."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x_TC: torch.Tensor) -> torch.Tensor:
        x = x_TC.float()
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return (self.weight.float() * x).to(x_TC.dtype)


def pixel_shuffle(x_NC: torch.Tensor, grid: tuple[int, int], merge_size: int = 2) -> torch.Tensor:
    """[..., rows * cols, C] -> [..., rows * cols / merge_size^2, C * merge_size^2] ("v2"), by rows.

    The channels of a merged patch are those of its patches, by rows. `grid` is (rows, cols), multiples of merge_size.
    """
    rows, cols = grid
    assert rows % merge_size == 0 and cols % merge_size == 0, (grid, merge_size)
    lead = x_NC.shape[:-2]
    blocks = x_NC.reshape(*lead, rows // merge_size, merge_size, cols // merge_size, merge_size, x_NC.shape[-1])
    return blocks.transpose(-4, -3).reshape(*lead, rows * cols // merge_size**2, merge_size**2 * x_NC.shape[-1])


def image_embeddings(
    tower: VisionTower, projector: Projector, pixels: Sequence[torch.Tensor], *, merge_size: int = 2
) -> list[torch.Tensor]:
    """[3, height, width] each -> [rows * cols / merge_size^2, decoder size] each, in the input's order."""
    embeddings: list[torch.Tensor] = []
    for features in tower.images(pixels):
        images = pixels[len(embeddings) : len(embeddings) + len(features)]
        merged = [
            pixel_shuffle(x_NC, tower.grid(image), merge_size) for x_NC, image in zip(features, images, strict=True)
        ]
        embeddings += projector(torch.cat(merged)).split([x.shape[0] for x in merged])
    return embeddings


def tubelet_embeddings(
    tower: VisionTower, projector: Projector, frames_TCHW: torch.Tensor, *, merge_size: int = 2
) -> torch.Tensor:
    """An even number of frames -> x_GNC: one row of tokens per tubelet, nothing pruned."""
    grid = tower.grid(frames_TCHW)
    parts = []
    for x_GNC in tower.video(frames_TCHW):
        merged = pixel_shuffle(x_GNC, grid, merge_size)
        parts.append(projector(merged.flatten(0, 1)).unflatten(0, merged.shape[:2]))
    return torch.cat(parts)


def sound_embeddings(
    encoder: SoundEncoder, projector: Projector, mels: Sequence[torch.Tensor], num_frames: Sequence[int]
) -> list[torch.Tensor]:
    """Clips as `SoundEncoder` takes them -> [tokens, decoder size] each, in the input's order."""
    features = encoder(mels, num_frames)
    return list(projector(torch.cat(features)).split([x.shape[0] for x in features])) if features else []


def num_retained(num_tubelets: int, tokens_per_tubelet: int, q: float) -> int:
    """Tokens that EVS keeps of a video at pruning rate q in [0, 1): never fewer than one tubelet's."""
    _check_rate(q)
    return max(tokens_per_tubelet, int(num_tubelets * tokens_per_tubelet * (1 - q)))


def retention_mask(x_GNC: torch.Tensor, q: float) -> torch.Tensor:
    """Which tokens EVS keeps: keep_GN, true for `num_retained` of them; all for q = 0.

    A token's worth is 1 - cos(it, the token of the same place one tubelet earlier), in the embeddings' own dtype;
    the first tubelet is worth most. Of equals the earlier is kept, as in the reference's `compute_retention_mask`.
    """
    num_tubelets, tokens_per_tubelet, _ = x_GNC.shape
    keep = num_retained(num_tubelets, tokens_per_tubelet, q)
    if keep == num_tubelets * tokens_per_tubelet:
        return torch.ones(num_tubelets, tokens_per_tubelet, dtype=torch.bool, device=x_GNC.device)
    worth_GN = 1 - F.cosine_similarity(x_GNC[1:], x_GNC[:-1], dim=-1)
    # above any 1 - cos, and exact in bf16
    first_1N = torch.full_like(worth_GN[:1], 255.0)
    order = torch.cat([first_1N, worth_GN]).flatten().argsort(descending=True, stable=True)
    mask = torch.zeros(num_tubelets * tokens_per_tubelet, dtype=torch.bool, device=x_GNC.device)
    mask[order[:keep]] = True
    return mask.view(num_tubelets, tokens_per_tubelet)


def interleave(separators: Sequence[torch.Tensor], x_GNC: torch.Tensor, keep_GN: torch.Tensor) -> torch.Tensor:
    """separators[0], kept tokens of tubelet 0, separators[1], ..., of the last tubelet, separators[G] -> x_LC.

    separators: embeddings [any number, C] of the text around tubelets, one more than there are tubelets.
    """
    num_tubelets = x_GNC.shape[0]
    assert len(separators) == num_tubelets + 1, (len(separators), num_tubelets)
    kept = x_GNC[keep_GN].split(keep_GN.sum(1).tolist())
    pieces = [separators[0]]
    for tokens, after in zip(kept, separators[1:], strict=True):
        pieces += [tokens, after]
    return torch.cat([piece.to(x_GNC.dtype) for piece in pieces])


def _check_rate(q: float) -> None:
    if not 0 <= q < 1:
        raise ValueError(f"video pruning rate {q!r} is not supported; allowed: 0 (off) up to but not including 1")
