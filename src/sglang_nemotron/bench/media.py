"""Pictures, recordings and clips of any size and length as message parts, each unlike the others.

Pillow, PyAV and soundfile of the extra `omni` write; they are imported inside functions.

Shape suffixes: H W pixels, C colour channels.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

from sglang_nemotron.bench.load import Load

# of a clip: more than a checkpoint samples of a second
_FRAME_RATE = 8
_RATE_HZ = 16_000


@dataclass(frozen=True)
class Sources:
    """Bytes of a photo (JPEG or PNG) and of a recording of speech."""

    photo: bytes
    speech: bytes

    def parts(self, load: Load, seed: int) -> list[dict[str, Any]]:
        """Message parts of one request, in OpenAI's form (clips in SGLang's), unlike those of other seeds."""
        from sglang_nemotron.parity import media_made

        made = []
        for number in range(load.images):
            data = _moved(self.photo, *load.image_size, seed + number)
            made.append(part("image", data, "jpeg"))
        for number in range(load.sounds):
            data = media_made.recording(self.speech, load.sound_s, seed=seed + number, rate=_RATE_HZ)
            made.append(part("audio", data, "wav"))
        for number in range(load.clips):
            view = _moved(self.photo, *load.clip_size, seed + number)
            frames = max(2, round(load.clip_s * _FRAME_RATE))
            made.append(
                part("video", media_made.film(view, *load.clip_size, num_frames=frames, rate=_FRAME_RATE), "mp4")
            )
        return made


def part(kind: str, data: bytes, form: str) -> dict[str, Any]:
    """A file as a message part. kind: image, audio or video; form: jpeg, wav, mp4, ..."""
    text = base64.b64encode(data).decode()
    if kind == "audio":
        return {"type": "input_audio", "input_audio": {"data": text, "format": form}}
    return {"type": f"{kind}_url", f"{kind}_url": {"url": f"data:{kind}/{form};base64,{text}"}}


def _moved(photo: bytes, width: int, height: int, seed: int) -> bytes:
    """The photo in this size, in other noise for every seed, as a JPEG."""
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(photo)) as whole:
        seen_HWC = np.asarray(whole.convert("RGB").resize((width, height)), dtype=np.int16)
    noise_HWC = np.random.default_rng(seed).integers(-12, 13, seen_HWC.shape, dtype=np.int16)
    file = io.BytesIO()
    Image.fromarray((seen_HWC + noise_HWC).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue()
