"""Makes clip.mp4: a red ball that rolls over a green field, and a voice that says so; see README-clip.md."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

WIDTH, HEIGHT, RATE, SECONDS = 480, 270, 24, 4


def picture(number: int) -> Image.Image:
    """The ball crosses the picture once; a digit counts the seconds."""
    image = Image.new("RGB", (WIDTH, HEIGHT), (120, 190, 240))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 170, WIDTH, HEIGHT), fill=(60, 150, 60))
    across = 30 + (WIDTH - 60) * number // (RATE * SECONDS - 1)
    draw.ellipse((across - 28, 150, across + 28, 206), fill=(210, 30, 30))
    draw.text((12, 10), str(number // RATE), fill=(20, 20, 20), font_size=32)
    return image


def main(voice: str, out: str) -> None:
    with av.open(voice) as file:
        resampler = av.AudioResampler("fltp", "mono", 24000)
        parts = [part.to_ndarray() for frame in file.decode(audio=0) for part in resampler.resample(frame)]
    samples = np.zeros((1, 24000 * SECONDS), dtype=np.float32)
    spoken = np.concatenate(parts, axis=1)[:, : samples.shape[1]]
    samples[:, : spoken.shape[1]] = spoken
    with av.open(out, "w") as file:
        stream = file.add_stream("libx264", rate=RATE, options={"crf": "26", "preset": "slow", "g": "48"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        track = file.add_stream("aac", rate=24000, layout="mono")
        track.bit_rate = 48000
        for number in range(RATE * SECONDS):
            file.mux(stream.encode(av.VideoFrame.from_image(picture(number))))
        file.mux(stream.encode(None))
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = 24000, Fraction(1, 24000), 0
        file.mux(track.encode(frame))
        file.mux(track.encode(None))
    print(f"{out}: {Path(out).stat().st_size:,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
