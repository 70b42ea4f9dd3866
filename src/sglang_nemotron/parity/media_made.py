"""A photo and a recording of speech come in; files of other sizes, rates and kinds are made of them, always the same.

Pillow, PyAV and soundfile write. They are of the extra `omni`, and imported inside functions.

Shape suffixes: H W pixels, C colour channels, S samples.
"""

from __future__ import annotations

import io

import numpy as np

from sglang_nemotron.parity.media_files import RATE_HZ, samples

# by how much the view moves from one frame of a film to the next, in pixels
_PAN = 3
# a room's, beside which no band of a sound is silent: there mel is a quotient of two rounding errors
_NOISE = 0.01


def picture(photo: bytes, width: int, height: int, *, kind: str, mirrored: bool = False) -> bytes:
    """The photo in another size, as a file of a format that Pillow names."""
    from PIL import Image

    with Image.open(io.BytesIO(photo)) as whole:
        seen = whole.convert("RGB").resize((width, height))
    if mirrored:
        seen = seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    file = io.BytesIO()
    seen.save(file, kind)
    return file.getvalue()


def film(photo: bytes, width: int, height: int, *, num_frames: int, rate: int) -> bytes:
    """An MP4 without sound (MPEG-4, which every FFmpeg has): a view wanders over the photo while the light changes.

    Everything moves, so that no two tubelets are alike and pruning has a clear choice.
    """
    import av
    from PIL import Image

    with Image.open(io.BytesIO(photo)) as whole:
        wide = whole.convert("RGB").resize((width + _PAN * num_frames, height + num_frames))
    scene_HWC = np.asarray(wide, dtype=np.float32)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=rate, options={"qscale": "2"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(num_frames):
            light = 0.75 + 0.25 * np.sin(number / 5)
            seen_HWC = scene_HWC[number : number + height, _PAN * number : _PAN * number + width] * light
            frame = av.VideoFrame.from_ndarray(seen_HWC.astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def recording(speech: bytes, seconds: float, *, seed: int, rate: int, channels: int = 1, kind: str = "WAV") -> bytes:
    """The speech over and over, from another place on for every seed, in the noise of a room.

    rate: in Hz. kind: a format of libsndfile's. The speaker stands aside: a channel is quieter than the one before it.
    """
    import librosa
    import soundfile

    draw, count = np.random.default_rng(seed), round(seconds * RATE_HZ)
    spoken_S = samples(speech)
    talk_S = np.resize(np.roll(spoken_S, int(draw.integers(len(spoken_S)))), count)
    heard_S = (0.8 * talk_S + draw.normal(0, _NOISE, count)).clip(-1, 1).astype(np.float32)
    if rate != RATE_HZ:
        heard_S = librosa.resample(heard_S, orig_sr=RATE_HZ, target_sr=rate)
    file = io.BytesIO()
    soundfile.write(file, np.stack([heard_S * 0.8**channel for channel in range(channels)], axis=1), rate, format=kind)
    return file.getvalue()
