"""What leaves this room: a measured picture, video clip or sound, and the error that says which item was bad.

Each is born once in `prompt/` and never changed downstream. Nothing here may know token ids, files or SGLang.

Shape letters: C colour channels (3: red, green, blue), H W pixels, T frames of a video or of a mel spectrogram,
N clips of a sound (30 s each), F mel bands.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

CHANNELS = 3
# what pixels may be kept in
PIXELS = (torch.float32, torch.bfloat16, torch.float16)


class MediaError(ValueError):
    """A file of the request that cannot be served: the user's to correct, a 400 at the HTTP door.

    item: which one, counted from 1 as the user sent them ("image 2"). problem: what is wrong with it, with its value.
    limit: what would be accepted, empty if there is no number to tell. Survives pickling between processes.
    """

    def __init__(self, item: str, problem: str, limit: str = "") -> None:
        super().__init__(item, problem, limit)
        self.item = item
        self.problem = problem
        self.limit = limit

    def __str__(self) -> str:
        return f"{self.item}: {self.problem}" + (f" ({self.limit})" if self.limit else "")


@dataclass(frozen=True, eq=False)
class Picture:
    """One image, ready for the vision tower.

    pixels_CHW: float32 or narrower, normalised, H = rows * patch size, W = columns * patch size.
    grid_HW: (rows, columns) in patches. num_tokens: tokens the language model sees, after the pixel shuffle.
    """

    pixels_CHW: torch.Tensor
    grid_HW: tuple[int, int]
    num_tokens: int

    def __post_init__(self) -> None:
        _check_pixels(self.pixels_CHW, 3, self.grid_HW)
        _check_tokens(self.num_tokens, self.grid_HW)


@dataclass(frozen=True, eq=False)
class VideoClip:
    """One video, sampled, ready for the vision tower.

    frames_TCHW: float32 or narrower, normalised; T is a multiple of the frames per tubelet, the last one repeated.
    grid_HW: (rows, columns) in patches of every frame. tokens_per_tubelet: before pruning, after the pixel shuffle.
    headings: the text before each tubelet, one per tubelet, in order.
    pruning_rate: q in [0, 1), 0 is off. num_kept: tokens of the whole clip left after pruning; the first tubelet is
    always kept whole.
    """

    frames_TCHW: torch.Tensor
    grid_HW: tuple[int, int]
    headings: tuple[str, ...]
    tokens_per_tubelet: int
    pruning_rate: float
    num_kept: int

    def __post_init__(self) -> None:
        _check_pixels(self.frames_TCHW, 4, self.grid_HW)
        _check_tokens(self.tokens_per_tubelet, self.grid_HW)
        num_frames, num_tubelets = self.frames_TCHW.shape[0], len(self.headings)
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


@dataclass(frozen=True, eq=False)
class Sound:
    """One audio item, cut into clips, ready for the sound encoder.

    mel_NTF: float32 log mel, normalised per clip, padded to the longest clip. num_frames_N: valid frames of each clip.
    tokens_N: tokens each clip becomes, after the encoder's subsampling.
    """

    mel_NTF: torch.Tensor
    num_frames_N: tuple[int, ...]
    tokens_N: tuple[int, ...]

    def __post_init__(self) -> None:
        mel = self.mel_NTF
        assert mel.ndim == 3 and mel.dtype == torch.float32 and mel.numel() > 0, (mel.shape, mel.dtype)
        num_clips, num_frames, _ = mel.shape
        assert len(self.num_frames_N) == len(self.tokens_N) == num_clips, (self.num_frames_N, self.tokens_N, num_clips)
        assert all(0 < valid <= num_frames for valid in self.num_frames_N), (self.num_frames_N, num_frames)
        assert all(0 < tokens <= valid for tokens, valid in zip(self.tokens_N, self.num_frames_N, strict=True)), (
            self.tokens_N,
            self.num_frames_N,
        )

    @property
    def num_tokens(self) -> int:
        return sum(self.tokens_N)


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
