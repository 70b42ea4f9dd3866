"""SGLang's own Nemotron classes, for configs that share our architecture name but are another family."""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = {
    "NemotronHForCausalLM": "sglang.srt.models.nemotron_h",
    "NemotronH_Nano_Omni_Reasoning_V3": "sglang.srt.models.nano_nemotron_vl",
    "NemotronH_Omni_Reasoning_V3": "sglang.srt.models.nano_nemotron_vl",
}


def intree_model(name: str) -> Any:
    """The class SGLang itself would serve `name` with, whatever the registry says now."""
    return getattr(importlib.import_module(_MODULES[name]), name)
