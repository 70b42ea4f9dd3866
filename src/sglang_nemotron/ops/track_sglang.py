"""Copying decode states aside on CUDA: one launch of SGLang's Triton routine for all layers."""

from __future__ import annotations

import torch

from sglang_nemotron.sglang_api.kernels import track_mamba_states_all_layers


def copy_states(
    conv_LSCW: torch.Tensor,
    ssm_LSHPN: torch.Tensor,
    *,
    src_B: torch.Tensor,
    dst_B: torch.Tensor,
    mask_B: torch.Tensor,
) -> None:
    """See `ops.copy_states`."""
    track_mamba_states_all_layers(conv_LSCW, ssm_LSHPN, src_B, mask_B, dst_B, src_B.shape[0], check_freed_slots=False)
