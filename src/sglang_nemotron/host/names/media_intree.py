"""SGLang's own processor of this family, for checkpoints that are not ours; imported only when one is served."""

from __future__ import annotations

from sglang.srt.multimodal.processors.nano_nemotron_vl import NanoNemotronVLImageProcessor

__all__ = ["NanoNemotronVLImageProcessor"]
