"""The layout of the server that these arguments start: SGLang's arguments and a decoder's spec in, `StateLayout` out.

Runs while arguments resolve, in the main process; touches no device. What SGLang decides later is decided here by the
same rules; `state/pool.py` checks in the scheduler that nothing else was allocated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sglang_nemotron.config.decoder import DecoderSpec
from sglang_nemotron.sglang_api.args import envs
from sglang_nemotron.state.layout import StateLayout, state_layout

_ALIASES = {"half": "float16", "float": "float32", "bf16": "bfloat16"}
_KV_DTYPES = {"fp8_e4m3": "float8_e4m3fn", "fp8_e5m2": "float8_e5m2"}


def layout_of(view: Any, spec: DecoderSpec, *, stored_dtype: str | None, stored_kv: str | None = None) -> StateLayout:
    """What one rank of this server keeps.

    stored_dtype: of the checkpoint, as its config says. stored_kv: the checkpoint's own wish for KV entries, as
    ModelOpt spells it ("FP8"), where the server honours it. Raises ValueError as `state_layout` does.
    """
    dtype = dtype_of(view.dtype, stored_dtype)
    conv = envs.SGLANG_MAMBA_CONV_DTYPE.get() if envs.SGLANG_MAMBA_CONV_DTYPE.is_set() else dtype
    ssm = view.mamba_ssm_dtype or envs.SGLANG_MAMBA_SSM_DTYPE.get() or spec.ssm_dtype
    return state_layout(
        spec,
        tp_size=view.tp_size,
        conv_dtype=conv,
        ssm_dtype=ssm,
        kv_dtype=_kv_dtype(view.kv_cache_dtype, dtype, stored_kv),
    )


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


def _kv_dtype(wanted: str | None, dtype: str, stored_kv: str | None) -> str:
    """Source: mem_cache/kv_cache_dtype.py, configure_kv_cache_dtype."""
    if wanted in (None, "auto"):
        return "float8_e4m3fn" if str(stored_kv).upper() == "FP8" else dtype
    return _KV_DTYPES.get(wanted, _ALIASES.get(wanted, wanted))
