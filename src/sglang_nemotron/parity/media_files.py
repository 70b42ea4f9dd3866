"""The bytes of a file come in; pixels, frames or samples go out as the plainest reading has them, for the reference.

Pillow, FFmpeg and librosa read, all at once. Nothing of our own decoders, sizes or features is used here, so that a
comparison with them means something. The libraries are of the extra `omni`, and imported inside functions.

Shape suffixes: H W pixels, C colour channels, T frames, S samples.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch

RATE_HZ = 16_000


def pixels(data: bytes) -> torch.Tensor:
    """A picture's pixels as Pillow has them: uint8 (H, W, C)."""
    from PIL import Image

    return torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGB")))


def frames(data: bytes) -> torch.Tensor:
    """Every frame of a video in the order in which it is shown: uint8 (T, H, W, C)."""
    import av

    with av.open(io.BytesIO(data), "r") as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(shown))


def samples(data: bytes) -> np.ndarray:
    """The sound of a file or a video: mono float32 (S,) at 16 kHz, resampled by librosa.

    FFmpeg decodes, all at once: two decoders of one lossy file differ by 1e-6, which is seen in the logprobs.
    """
    import av
    import librosa

    with av.open(io.BytesIO(data), "r") as container:
        stream: Any = container.streams.audio[0]
        floats = av.AudioResampler(format="fltp")
        heard = [part.to_ndarray() for frame in container.decode(audio=0) for part in floats.resample(frame)]
    return librosa.resample(np.concatenate(heard, axis=1).mean(axis=0), orig_sr=stream.rate, target_sr=RATE_HZ)
