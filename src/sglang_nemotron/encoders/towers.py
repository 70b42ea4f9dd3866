"""All that Omni has beside the decoder, built as one module: two towers and their projectors.

It must never know names in a checkpoint, prompts, or where embeddings go.
"""

from __future__ import annotations

from torch import nn

from sglang_nemotron.config.omni import OmniSpec
from sglang_nemotron.encoders.linears import PLAIN, Linears
from sglang_nemotron.encoders.project import Projector
from sglang_nemotron.encoders.sound import SoundEncoder
from sglang_nemotron.encoders.vision import VisionTower


class Towers(nn.Module):
    """`sound_encoder` and `sound_projection` are None for a checkpoint without a sound tower."""

    def __init__(self, spec: OmniSpec, *, linears: Linears = PLAIN) -> None:
        super().__init__()
        out_size = spec.decoder.hidden_size
        self.spec = spec
        self.vision_model = VisionTower(spec.vision, linears=linears)
        self.vision_projection = Projector(
            spec.merged_size, spec.projector_hidden_size, out_size, eps=spec.projector_eps, linears=linears
        )
        self.sound_encoder: SoundEncoder | None = None
        self.sound_projection: Projector | None = None
        if spec.sound is not None:
            self.sound_encoder = SoundEncoder(spec.sound, linears=linears)
            self.sound_projection = Projector(
                spec.sound.hidden_size,
                spec.sound.projection_hidden_size,
                out_size,
                eps=spec.projector_eps,
                bias=spec.sound.projection_bias,
                linears=linears,
            )
