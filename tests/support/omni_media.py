"""Media of the Omni tests: files as a client would send them are made here.

Shape suffixes: H W pixels, C colour channels, S samples.
"""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from sglang_nemotron.parity.media_files import RATE_HZ, samples

SPEECH = Path(__file__).parents[1] / "data" / "media" / "speech.mp3"


def photo(width: int, height: int, *, seed: int, kind: str = "PNG") -> bytes:
    """A picture of soft colours, edges and fine grain, different for every seed. kind: a format of Pillow's."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(_scene(width, height, seed)).save(file, kind)
    return file.getvalue()


def film(width: int, height: int, *, seed: int, num_frames: int = 72, rate: int = 24, voice: bool = False) -> bytes:
    """An MP4 (H.264): a scene that the camera pans over while its light changes. voice: with speech (AAC, mono).

    The same bytes every time, which x264's tree of macroblocks does not give with weighted prediction.
    """
    import av

    wide = _scene(width + 2 * num_frames, height, seed).astype(np.float32)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=rate, options={"preset": "veryfast", "crf": "20", "x264-params": "mbtree=0"}
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        track = container.add_stream("aac", rate=RATE_HZ, layout="mono") if voice else None
        for number in range(num_frames):
            light = 0.8 + 0.2 * np.sin(number / 9 + seed)
            seen = wide[:, 2 * number : 2 * number + width] * light
            frame = av.VideoFrame.from_ndarray(seen.astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if track is not None:
            heard = av.AudioFrame.from_ndarray(_talk(num_frames / rate, seed)[None], format="fltp", layout="mono")
            heard.sample_rate = RATE_HZ
            container.mux(track.encode(heard))
            container.mux(track.encode(None))
    return file.getvalue()


def recording(seconds: float, *, seed: int, rate: int = RATE_HZ, channels: int = 1, kind: str = "WAV") -> bytes:
    """The spoken sentence over and over, with the noise of a room. kind: a format of libsndfile's."""
    import librosa
    import soundfile

    talk_S = _talk(seconds, seed)
    if rate != RATE_HZ:
        talk_S = librosa.resample(talk_S, orig_sr=RATE_HZ, target_sr=rate)
    # the speaker stands aside: each channel is a little quieter than the one before
    talk_SC = np.stack([talk_S * 0.8**channel for channel in range(channels)], axis=1)
    file = io.BytesIO()
    soundfile.write(file, talk_SC, rate, format=kind)
    return file.getvalue()


def _scene(width: int, height: int, seed: int) -> np.ndarray:
    """uint8 (H, W, C)."""
    draw = np.random.default_rng(seed)
    soft = torch.from_numpy(draw.uniform(0, 1, (1, 3, 5, 7)).astype(np.float32))
    rgb_CHW = torch.nn.functional.interpolate(soft, (height, width), mode="bicubic")[0].clamp(0, 1).numpy()
    y, x = np.mgrid[0:height, 0:width]
    for _ in range(6):
        across, down = draw.uniform(0, width), draw.uniform(0, height)
        inside = np.hypot(x - across, y - down) < draw.uniform(0.05, 0.2) * min(width, height)
        rgb_CHW[:, inside] = draw.uniform(0, 1, (3, 1))
    rgb_CHW = rgb_CHW + draw.normal(0, 0.02, rgb_CHW.shape)
    return (rgb_CHW.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0).copy()


@lru_cache(maxsize=1)
def _sentence() -> np.ndarray:
    return samples(SPEECH.read_bytes())


def _talk(seconds: float, seed: int) -> np.ndarray:
    """float32 (S,) at 16 kHz, no two seeds alike; no band of its spectrum is silent."""
    draw, count = np.random.default_rng(seed), round(seconds * RATE_HZ)
    sentence = np.roll(_sentence(), int(draw.integers(len(_sentence()))))
    noise = draw.normal(0, 0.01, count)
    return (0.8 * np.resize(sentence, count) + noise).clip(-1, 1).astype(np.float32)
