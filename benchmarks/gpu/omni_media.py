"""Photos, clips and sounds for the Omni benchmark, each different from the last, so that no cache can answer.

Numbers in, `data:` URLs out. Made with Pillow, PyAV and NumPy, on the machine that is measured, before the clock runs.
"""

from __future__ import annotations

import base64
import io
from fractions import Fraction

import numpy as np

WIDTH, HEIGHT = 1920, 1080


def picture(seed: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Smooth colours with some grain, uint8 HWC: compresses about as a photo does."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (9, 16, 3)).astype(np.float32)
    y, x = np.linspace(0, 8, height), np.linspace(0, 15, width)
    y0, x0 = np.minimum(y.astype(int), 7), np.minimum(x.astype(int), 14)
    fy, fx = (y - y0)[:, None, None], (x - x0)[None, :, None]
    top = coarse[y0][:, x0] * (1 - fx) + coarse[y0][:, x0 + 1] * fx
    low = coarse[y0 + 1][:, x0] * (1 - fx) + coarse[y0 + 1][:, x0 + 1] * fx
    grain = rng.integers(-8, 9, (height, width, 1))
    return np.clip(top * (1 - fy) + low * fy + grain, 0, 255).astype(np.uint8)


def _url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def photo_url(seed: int) -> str:
    """A 1080p JPEG."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(picture(seed)).save(out, "JPEG", quality=90)
    return _url("image/jpeg", out.getvalue())


def video_url(seed: int, seconds: int = 64, fps: int = 4) -> str:
    """A 1080p H.264 clip; at two sampled frames a second, 64 seconds give 128 frames."""
    import av

    out = io.BytesIO()
    still = picture(seed)
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "30"})
        stream.width, stream.height, stream.pix_fmt, stream.time_base = WIDTH, HEIGHT, "yuv420p", Fraction(1, fps)
        for number in range(seconds * fps):
            frame = av.VideoFrame.from_ndarray(np.roll(still, number * 7, axis=1), format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return _url("video/mp4", out.getvalue())


def sound_base64(seed: int, seconds: int = 60) -> str:
    """A WAV of gliding tones and noise, 16 kHz mono."""
    import wave

    rng = np.random.default_rng(seed)
    time = np.arange(seconds * 16000) / 16000
    tone = 0.3 * np.sin(2 * np.pi * (200 + 40 * np.sin(time + seed)) * time) + 0.05 * rng.standard_normal(len(time))
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((np.clip(tone, -1, 1) * 32767).astype("<i2").tobytes())
    return base64.b64encode(out.getvalue()).decode()
