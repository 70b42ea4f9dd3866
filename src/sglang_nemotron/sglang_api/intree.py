"""SGLang's own Nemotron classes, for configs that share our architecture name but are another family.

Imported only when one of them is served.
"""

from __future__ import annotations

import importlib
from typing import Any

from sglang_nemotron.family import OMNI, TEXT

_MODULES = {TEXT: "sglang.srt.models.nemotron_h", **dict.fromkeys(OMNI, "sglang.srt.models.nano_nemotron_vl")}


def intree_model(name: str) -> Any:
    """The class SGLang itself would serve `name` with, whatever the registry says now."""
    return getattr(importlib.import_module(_MODULES[name]), name)


def intree_processor() -> Any:
    """The class of media processors that SGLang itself would use for such a config."""
    return importlib.import_module("sglang.srt.multimodal.processors.nano_nemotron_vl").NanoNemotronVLImageProcessor
