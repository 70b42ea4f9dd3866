"""The hybrid Mamba-state / KV pool: a layout in, the parameters SGLang builds its pools from and a bound view out.

SGLang's own pools and radix tree are used as they are. Everything that sizes them comes from `layout`, and the view
proves at the first step that what was allocated is what the layout said. Growing the pool touches this room alone.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from sglang_nemotron.config.decoder import DecoderSpec
from sglang_nemotron.config.layers import MambaSpec
from sglang_nemotron.sglang_api.args import Mamba2CacheParams, Mamba2StateDType, Mamba2StateShape
from sglang_nemotron.state.capacity import Pools
from sglang_nemotron.state.layout import StateLayout

logger = logging.getLogger(__name__)


def cache_params(spec: DecoderSpec, layout: StateLayout) -> Mamba2CacheParams:
    """What SGLang's hybrid pool needs to know: which layers own slots, the shapes of one slot, and dtypes."""
    mamba = spec.find(MambaSpec)
    # SGLang keeps a pool of no layers, too: its sizes are zero
    groups = max(mamba.num_groups if mamba else 0, layout.tp_size)
    state_size = mamba.state_size if mamba else 0
    inner = mamba.inner if mamba else 0
    shape = Mamba2StateShape(
        conv=[layout.conv_shape],
        temporal=layout.ssm_shape,
        intermediate_size=inner,
        conv_dim=inner + 2 * groups * state_size,
        ssm_state_size=state_size,
        num_heads=mamba.num_heads if mamba else 0,
        head_dim=mamba.head_dim if mamba else 0,
        state_size=state_size,
        conv_kernel=mamba.conv_width if mamba else 0,
        num_k_heads_per_tp=groups // layout.tp_size,
    )
    dtype = Mamba2StateDType(conv=getattr(torch, layout.conv_dtype), temporal=getattr(torch, layout.ssm_dtype))
    return Mamba2CacheParams(shape=shape, layers=list(layout.mamba_layers), dtype=dtype)


class PoolView:
    """The pools of this process as the decoder sees them: states by layer, checked against the layout once."""

    def __init__(self, req_to_token_pool: Any, layout: StateLayout, kv_pool: Any) -> None:
        """`kv_pool`: SGLang's pool of KV entries beside the states, or None where the backend shows none."""
        self._pool = req_to_token_pool
        states = req_to_token_pool.mamba_pool.mamba_cache
        self.conv_LSCW: torch.Tensor = states.conv[0]
        self.ssm_LSHPN: torch.Tensor = states.temporal
        slots = self.ssm_LSHPN.shape[1]
        pools = Pools(slots - 1, getattr(kv_pool, "size", 0), getattr(kv_pool, "page_size", 1))
        self._check_states(layout, pools)
        checked = _check_kv(kv_pool, layout, pools)
        logger.info(
            "state pools: conv %s, ssm %s, kv %s; %d slots (one is padding) take %.3f GiB; %d KV tokens and %d of "
            "padding take %.3f GiB%s; %s",
            self.conv_LSCW.dtype,
            self.ssm_LSHPN.dtype,
            getattr(kv_pool, "dtype", None),
            slots,
            pools.state_bytes(layout) / 2**30,
            pools.num_tokens,
            pools.page_size,
            pools.kv_bytes(layout) / 2**30,
            "" if checked else " (by arithmetic)",
            layout.describe(),
        )

    def slots_of(self, layer_id: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(conv_SCW, ssm_SHPN) of one Mamba layer; waits for a layer that is still coming from the host tier."""
        index = self._pool.mamba2_layer_index(layer_id)
        return self.conv_LSCW[index], self.ssm_LSHPN[index]

    def _check_states(self, layout: StateLayout, pools: Pools) -> None:
        conv, ssm = self.conv_LSCW, self.ssm_LSHPN
        assert tuple(conv.shape[2:]) == layout.conv_shape, (conv.shape, layout)
        assert tuple(ssm.shape[2:]) == layout.ssm_shape, (ssm.shape, layout)
        assert conv.shape[0] == ssm.shape[0] == len(layout.mamba_layers), (conv.shape, ssm.shape, layout)
        assert conv.nbytes + ssm.nbytes == pools.state_bytes(layout), (conv.nbytes, ssm.nbytes, pools, layout)


def _check_kv(kv_pool: Any, layout: StateLayout, pools: Pools) -> bool:
    """Whether the bytes of the KV pool could be compared; fails if they differ from the layout's."""
    full: Any = getattr(kv_pool, "full_kv_pool", None)
    plain = getattr(full, "kv_cache_layout", None) == "nhd" and not getattr(full, "is_quantized_kv_cache", False)
    # a pool that is sized again after CUDA graphs were captured reserves addresses, not memory
    if not plain or getattr(full, "post_capture_active", False):
        return False
    allocated = sum(buffer.nbytes for buffer in (*full.k_buffer, *full.v_buffer))
    assert allocated == pools.kv_bytes(layout), (allocated, pools, layout)
    return True
