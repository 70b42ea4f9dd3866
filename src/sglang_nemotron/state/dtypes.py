"""Which dtype a server keeps parameters and KV entries in: a user's flag and a checkpoint's word in, plain names out.

Pure: this file must never know torch, SGLang, a device or an allocation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ALIASES = {"half": "float16", "float": "float32", "bf16": "bfloat16"}
_KV_DTYPES = {"fp8_e4m3": "float8_e4m3fn", "fp8_e5m2": "float8_e5m2"}


def dtype_of(wanted: Any, stored: Any) -> str:
    """The parameter dtype that `--dtype` means for a checkpoint of that dtype, as a plain name."""
    name = str(wanted).removeprefix("torch.")
    if name != "auto":
        return _ALIASES.get(name, name)
    stored = str(stored or "float32").removeprefix("torch.")
    # SGLang serves a float32 checkpoint in float16 unless told otherwise
    return "float16" if stored == "float32" else stored


def stored_kv_dtype(folder: Path | None, quantised: Mapping[str, Any]) -> str | None:
    """The dtype that a ModelOpt checkpoint wants its KV entries in ("FP8"), or None; `quantised` is in its config.

    folder: of its files, an id's snapshot; None where nothing of it is here yet.
    """
    said = quantised.get("kv_cache_quant_algo")
    scheme = quantised.get("kv_cache_scheme") or {}
    if said is None and (scheme.get("type"), scheme.get("num_bits")) == ("float", 8):
        said = "FP8"
    beside = folder / "hf_quant_config.json" if folder is not None else None
    if said is None and beside is not None and beside.is_file():
        said = json.loads(beside.read_text()).get("quantization", {}).get("kv_cache_quant_algo")
    return said


def kv_dtype_of(wanted: str | None, dtype: str, stored_kv: str | None) -> str:
    """What `--kv-cache-dtype` means for a model of `dtype`. Source: mem_cache/kv_cache_dtype.py,
    configure_kv_cache_dtype."""
    if wanted in (None, "auto"):
        return "float8_e4m3fn" if str(stored_kv).upper() == "FP8" else dtype
    return _KV_DTYPES.get(wanted, _ALIASES.get(wanted, wanted))
