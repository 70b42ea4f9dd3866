"""SGLang's tables by architecture: the Omni architecture is entered wherever the text architecture stands.

SGLang 0.5.23 lacks the published Omni name in three of them, and then runs its no_buffer state cache together with
the overlap schedule, which it refuses everywhere else. Each table is a frozenset read in one module, so it is rebound.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from sglang_nemotron.host.door import Door
from sglang_nemotron.host.names.args import arch_tables
from sglang_nemotron.host.wrapping import rebind

TEXT = "NemotronHForCausalLM"
# as published, and as transformers saves it
OMNI = ("NemotronH_Nano_Omni_Reasoning_V3", "NemotronH_Omni_Reasoning_V3")

# table -> what it decides
TABLES = {
    "_MAMBA_RADIX_CACHE_ARCHS": "strategy of the state cache, and whether overlap may run",
    "_MAMBA_EXTRA_BUFFER_ARCHS": "the strategy that allows overlap",
    "_FLASHINFER_ALLREDUCE_FUSION_ARCHS": "all-reduce fused with the norm after it",
}


def open_tables() -> None:
    """Adds the Omni names; may be repeated."""
    for name in TABLES:
        table: frozenset[str] = getattr(arch_tables, name)
        if not table.issuperset(OMNI):
            rebind(arch_tables, name, table | set(OMNI))


def tables_are_ours() -> str | None:
    """None if every table treats Omni as it treats text, and SGLang's own rule never mixes no_buffer with overlap."""
    for name in TABLES:
        missing = {TEXT, *OMNI} - getattr(arch_tables, name)
        if missing:
            return f"SGLang's {name} lacks {sorted(missing)}"
    for architecture in OMNI:
        for overlap in (True, False):
            wrong = _unsafe(architecture, overlap)
            if wrong is not None:
                return wrong
    return None


def _unsafe(architecture: str, overlap: bool) -> str | None:
    """What SGLang's rule makes of `--mamba-radix-cache-strategy auto`, if that is no_buffer with overlap."""
    view: Any = SimpleNamespace(
        disable_radix_cache=False,
        mamba_radix_cache_strategy="auto",
        disable_overlap_schedule=not overlap,
        page_size=None,
        linear_attn_backend="triton",
    )
    config = SimpleNamespace(architectures=[architecture], model_type="", layer_types=[])
    model_config_of = arch_tables.model_config_of
    rebind(arch_tables, "model_config_of", lambda _: SimpleNamespace(hf_config=config))
    try:
        decided = arch_tables._mamba_radix_cache_resolution(view)
    finally:
        rebind(arch_tables, "model_config_of", model_config_of)
    strategy = decided.get("mamba_radix_cache_strategy", "auto")
    runs_overlap = not decided.get("disable_overlap_schedule", not overlap)
    if decided.get("uses_mamba_radix_cache") and not (runs_overlap and strategy in ("auto", "no_buffer")):
        return None
    return f"SGLang would run {architecture} with {strategy} and overlap {'on' if runs_overlap else 'off'}: {decided}"


ARCHITECTURES = Door(
    "tables", "args", "Omni where SGLang lists text by architecture", opens=open_tables, proof=tables_are_ours
)
