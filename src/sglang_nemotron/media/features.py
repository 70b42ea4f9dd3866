"""What is asked of one media file, and what it becomes: a request to read it in, measured features out.

Records are born once in this room and never changed downstream; they cross processes by pickle, a tensor's place taken
by whatever stands for it meanwhile. Nothing here may know token ids, files or SGLang.

Shape letters: C colour channels (3: red, green, blue), H W pixels, T frames of a video or of a mel spectrogram,
N clips of a sound (30 s each), F mel bands.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import torch

from sglang_nemotron.prompt.options import MediaOptions

Kind = Literal["image", "video", "sound"]
CHANNELS = 3
# what pixels may be kept in
PIXELS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """One media item to read. name: in errors, "image 2". budget: most patches of an image; unused for others."""

    kind: Kind
    name: str
    options: MediaOptions
    budget: int = 0


@dataclass(frozen=True, eq=False)
class MediaFeatures:
    """One measured item. feature: its tensor, or whatever stands for one while it travels.

    identity: 32 bytes; equal for equal files under equal options alone.
    """

    kind: ClassVar[Kind]
    feature: Any
    identity: bytes = field(default=b"", kw_only=True)

    def __post_init__(self) -> None:
        # what stands for a tensor was one when the item was measured
        if isinstance(self.feature, torch.Tensor):
            self._check(self.feature)

    def _check(self, feature: torch.Tensor) -> None:
        """AssertionError for shapes, counts and types that contradict each other."""
        raise NotImplementedError

    @property
    def num_embeddings(self) -> int:
        """How many embeddings the item becomes, after pruning."""
        raise NotImplementedError

    def carrying(self, feature: Any) -> Self:
        return replace(self, feature=feature)

    def known_by(self, identity: bytes) -> Self:
        return replace(self, identity=identity)


def drop(measured: Iterable[MediaFeatures]) -> None:
    """Gives back at once what features hold beyond this process. An error keeps its frames, and them, for long."""
    for item in measured:
        release = getattr(item.feature, "release", None)
        if release is not None:
            release()


@dataclass(frozen=True, eq=False)
class Picture(MediaFeatures):
    """One image, ready for the vision tower.

    feature: (C, H, W), float32 or narrower, normalised, H = rows * patch size, W = columns * patch size.
    grid_HW: (rows, columns) in patches. num_tokens: tokens the language model sees, after the pixel shuffle.
    """

    kind = "image"
    grid_HW: tuple[int, int]
    num_tokens: int

    def _check(self, feature: torch.Tensor) -> None:
        _check_pixels(feature, 3, self.grid_HW)
        _check_tokens(self.num_tokens, self.grid_HW)

    @property
    def num_embeddings(self) -> int:
        return self.num_tokens


@dataclass(frozen=True, eq=False)
class VideoClip(MediaFeatures):
    """One video, sampled, ready for the vision tower.

    feature: (T, C, H, W), float32 or narrower, normalised; T is a multiple of the frames per tubelet, the last one
    repeated. grid_HW: (rows, columns) in patches of every frame. tokens_per_tubelet: before pruning, after the pixel
    shuffle. headings: the text before each tubelet, one per tubelet, in order. pruning_rate: q in [0, 1), 0 is off.
    num_kept: tokens of the whole clip left after pruning; the first tubelet is always kept whole.
    """

    kind = "video"
    grid_HW: tuple[int, int]
    headings: tuple[str, ...]
    tokens_per_tubelet: int
    pruning_rate: float
    num_kept: int

    def _check(self, feature: torch.Tensor) -> None:
        _check_pixels(feature, 4, self.grid_HW)
        _check_tokens(self.tokens_per_tubelet, self.grid_HW)
        num_frames, num_tubelets = feature.shape[0], len(self.headings)
        assert num_tubelets > 0 and num_frames > 0 and num_frames % num_tubelets == 0, (num_frames, num_tubelets)
        assert 0.0 <= self.pruning_rate < 1.0, self.pruning_rate
        assert self.tokens_per_tubelet <= self.num_kept <= self.num_tokens, (self.num_kept, self.num_tokens)
        assert self.pruning_rate > 0.0 or self.num_kept == self.num_tokens, (self.num_kept, self.num_tokens)

    @property
    def num_tubelets(self) -> int:
        return len(self.headings)

    @property
    def num_tokens(self) -> int:
        """Before pruning."""
        return self.tokens_per_tubelet * len(self.headings)

    @property
    def num_embeddings(self) -> int:
        return self.num_kept


@dataclass(frozen=True, eq=False)
class Sound(MediaFeatures):
    """One audio item, cut into clips, ready for the sound encoder.

    feature: (N, T, F), float32 log mel, normalised per clip, padded to the longest clip. num_frames_N: valid frames of
    each clip. tokens_N: tokens each clip becomes, after the encoder's subsampling.
    """

    kind = "sound"
    num_frames_N: tuple[int, ...]
    tokens_N: tuple[int, ...]

    def _check(self, feature: torch.Tensor) -> None:
        assert feature.ndim == 3 and feature.dtype == torch.float32 and feature.numel() > 0, (
            feature.shape,
            feature.dtype,
        )
        num_clips, num_frames, _ = feature.shape
        assert len(self.num_frames_N) == len(self.tokens_N) == num_clips, (self.num_frames_N, self.tokens_N, num_clips)
        assert all(0 < valid <= num_frames for valid in self.num_frames_N), (self.num_frames_N, num_frames)
        assert all(0 < tokens <= valid for tokens, valid in zip(self.tokens_N, self.num_frames_N, strict=True)), (
            self.tokens_N,
            self.num_frames_N,
        )

    @property
    def num_tokens(self) -> int:
        return sum(self.tokens_N)

    @property
    def num_embeddings(self) -> int:
        return self.num_tokens


def _check_pixels(pixels: torch.Tensor, ndim: int, grid_HW: tuple[int, int]) -> None:
    """ndim axes ending in (3, H, W), H and W the same whole number of pixels per patch."""
    assert pixels.ndim == ndim and pixels.dtype in PIXELS, (pixels.shape, pixels.dtype)
    *_, channels, height, width = pixels.shape
    rows, columns = grid_HW
    assert channels == CHANNELS and rows > 0 and columns > 0, (pixels.shape, grid_HW)
    assert height % rows == 0 and width % columns == 0 and height // rows == width // columns > 0, (
        pixels.shape,
        grid_HW,
    )


def _check_tokens(num_tokens: int, grid_HW: tuple[int, int]) -> None:
    """A token stands for the same whole number of patches everywhere."""
    rows, columns = grid_HW
    assert num_tokens > 0 and rows * columns % num_tokens == 0, (num_tokens, grid_HW)
