"""SGLang's Triton and sgl-kernel routines that our ops call on CUDA until kernels of our own replace them."""

from __future__ import annotations

from sglang.kernels.ops.attention.fla.layernorm_gated import rms_norm_gated
from sglang.kernels.ops.attention.flash_attention import flash_attn_varlen_func
from sglang.kernels.ops.mamba.causal_conv1d_triton import causal_conv1d_fn, causal_conv1d_update
from sglang.kernels.ops.mamba.mamba_state_scatter_triton import track_mamba_states_all_layers
from sglang.kernels.ops.mamba.triton_ops import mamba_chunk_scan_combined, selective_state_update

__all__ = [
    "causal_conv1d_fn",
    "causal_conv1d_update",
    "flash_attn_varlen_func",
    "mamba_chunk_scan_combined",
    "rms_norm_gated",
    "selective_state_update",
    "track_mamba_states_all_layers",
]
