"""What the demo's clip sounds like to this PyAV: a few counts of tokens depend on it."""

from __future__ import annotations

import io

import av

from sglang_nemotron.cli.demo_media import clip


def trailing_tokens() -> int:
    """1 where the silence that an AAC encoder adds at the end is left in, as PyAV 18 does, else 0.

    The clip lasts 4 s, which are 50 tokens; what is added is less than one token's 80 ms.
    """
    with av.open(io.BytesIO(clip())) as container:
        (stream,) = container.streams.audio
        num_samples = sum(frame.samples for frame in container.decode(stream))
        return int(num_samples > 4 * stream.rate)
