"""The layout of the server that these arguments start: SGLang's arguments and a decoder's spec in, `StateLayout` out.

Runs while arguments resolve, in the main process; touches no device. What SGLang decides later is decided here by the
same rules; `state/pool.py` checks in the scheduler that nothing else was allocated.
"""

from __future__ import annotations

from typing import Any

from sglang_nemotron.config.decoder import DecoderSpec
from sglang_nemotron.sglang_api.args import envs
from sglang_nemotron.state.dtypes import dtype_of, kv_dtype_of
from sglang_nemotron.state.layout import StateLayout, state_layout


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
        kv_dtype=kv_dtype_of(view.kv_cache_dtype, dtype, stored_kv),
    )
