"""Raw pictures, frames and samples come in; what transformers' own Omni preprocessing makes of them goes out.

Nothing of our preprocessing is used here, so that a comparison with it means something. Must never know SGLang.

Shape suffixes: H W pixels, C colour channels, T frames, P patches, D numbers in a patch, S samples, N clips of a sound,
M mel frames, F mel bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

CLIP_SECONDS = 30
_RATE_HZ = 16_000
_HOP = 160
# a shorter tail of a sound is filled up with silence
_SHORTEST_CLIP = _RATE_HZ // 10
_MERGE = 2
_PATCH = 16


@dataclass(frozen=True, eq=False)
class Image:
    """patches_PD: float32, normalised, row by row. grid_HW: patches down and across."""

    patches_PD: torch.Tensor
    grid_HW: tuple[int, int]

    @property
    def num_tokens(self) -> int:
        return self.grid_HW[0] * self.grid_HW[1] // _MERGE**2


@dataclass(frozen=True, eq=False)
class Video:
    """frames_TCHW: float32, normalised. headings: one per tubelet. pruning_rate: q in [0, 1); 0 keeps every token."""

    frames_TCHW: torch.Tensor
    headings: tuple[str, ...]
    pruning_rate: float = 0.0

    @property
    def tokens_per_tubelet(self) -> int:
        height, width = self.frames_TCHW.shape[-2:]
        return height // _PATCH * (width // _PATCH) // _MERGE**2


@dataclass(frozen=True, eq=False)
class Sound:
    """mel_NMF: float32, padded to the longest clip. num_frames_N: valid frames of each clip."""

    mel_NMF: torch.Tensor
    num_frames_N: tuple[int, ...]

    @property
    def tokens_N(self) -> tuple[int, ...]:
        """Three halvings, rounded up, of what is valid: 375 for 30 s, as engines and training have it."""
        return tuple(-(-frames // 8) for frames in self.num_frames_N)


Item = Image | Video | Sound


def image(
    rgb_HWC: torch.Tensor, *, max_tokens: int = 16384, min_patches: int = 1024, max_patches: int = 13312
) -> Image:
    """A picture through transformers' image processor.

    Args:
        rgb_HWC: uint8.
        max_tokens: the context that the picture must fit into, as the processor's `max_model_len`.
        min_patches, max_patches: of the checkpoint's config.
    """
    from transformers.models.nemotron_h_omni.image_processing_nemotron_h_omni import (
        NemotronH_Omni_Reasoning_V3ImageProcessor,
    )

    limits: Any = {"max_model_len": max_tokens, "min_num_patches": min_patches, "max_num_patches": max_patches}
    processor: Any = NemotronH_Omni_Reasoning_V3ImageProcessor(**limits)
    made = processor(images=[rgb_HWC.permute(2, 0, 1)], return_tensors="pt")
    rows, columns = made["image_grid_hw"][0].tolist()
    return Image(made["pixel_values"].float(), (rows, columns))


def video(
    frames_THWC: torch.Tensor,
    frame_numbers: Sequence[int],
    *,
    source_fps: float,
    pruning_rate: float = 0.0,
    target_patches: int = 1024,
) -> Video:
    """Frames already sampled, through transformers' video processor.

    Args:
        frames_THWC: uint8, all of one size.
        frame_numbers: each frame's place in the file, from 0; with `source_fps` it gives the time in the headings.
        source_fps: of the file.
        pruning_rate: q of EVS.
        target_patches: of the checkpoint's config.
    """
    from transformers.models.nemotron_h_omni.video_processing_nemotron_h_omni import (
        NemotronH_Omni_Reasoning_V3VideoProcessor,
    )
    from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    assert len(frames_THWC) == len(frame_numbers) > 0, (len(frames_THWC), len(frame_numbers))
    # 5.19 has no default of these two
    norms: Any = {"norm_mean": OPENAI_CLIP_MEAN, "norm_std": OPENAI_CLIP_STD}
    processor: Any = NemotronH_Omni_Reasoning_V3VideoProcessor(video_target_num_patches=target_patches, **norms)
    made = processor._preprocess([frames_THWC.permute(0, 3, 1, 2)], return_tensors="pt")
    frames_TCHW = made["pixel_values_videos"]
    return Video(frames_TCHW, frame_headings(frame_numbers, source_fps), pruning_rate)


def frame_headings(frame_numbers: Sequence[int], source_fps: float) -> tuple[str, ...]:
    """The text before each tubelet of two frames; an odd last frame stands alone in its heading."""
    milliseconds = int(1000.0 / source_fps)
    parts = [
        f"rame {i + 1} sampled at {int(number) * milliseconds / 1000.0:.2f} seconds"
        for i, number in enumerate(frame_numbers)
    ]
    pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
    return tuple("F" + " and f".join(pair) + ": " for pair in pairs)


def sound(samples_S: torch.Tensor) -> Sound:
    """Mono float32 samples at 16 kHz through transformers' feature extractor, in clips of 30 s as it was trained."""
    from transformers.models.parakeet import ParakeetFeatureExtractor

    extractor: Any = ParakeetFeatureExtractor(feature_size=128, sampling_rate=_RATE_HZ)
    clips = list(samples_S.split(CLIP_SECONDS * _RATE_HZ)) or [samples_S]
    if len(clips[-1]) < _SHORTEST_CLIP:
        clips[-1] = torch.nn.functional.pad(clips[-1], (0, _SHORTEST_CLIP - len(clips[-1])))
    # one by one: the extractor's padding of a shorter clip must not matter
    mels = [extractor(clip.numpy(), sampling_rate=_RATE_HZ, return_tensors="pt") for clip in clips]
    frames = tuple(int(mel["attention_mask"].sum()) for mel in mels)
    assert frames == tuple(len(clip) // _HOP for clip in clips), frames
    mel_NMF = torch.zeros(len(mels), max(frames), 128)
    for row_MF, mel, count in zip(mel_NMF, mels, frames, strict=True):
        row_MF[:count] = mel["input_features"][0, :count]
    return Sound(mel_NMF, frames)
