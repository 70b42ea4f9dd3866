"""Copies states from slot to slot in every layer at once, so that a decode step can leave one for the prefix cache.

Shapes: L Mamba layers, S state slots, C conv channels, W conv window, H heads, P head dim, N state size, B rows.
"""

from __future__ import annotations

import torch

__all__ = ["copy_states"]


def copy_states(
    conv_LSCW: torch.Tensor,
    ssm_LSHPN: torch.Tensor,
    *,
    src_B: torch.Tensor,
    dst_B: torch.Tensor,
    mask_B: torch.Tensor,
) -> None:
    """Same contract as `track_reference.copy_states`: slot to slot in all layers, in place, for the masked rows."""
    # most steps track nothing
    if not any(mask_B.tolist()):
        return
    mask_B = mask_B.bool()
    src_n, dst_n = src_B[mask_B].long(), dst_B[mask_B].long()
    conv_LSCW.index_copy_(1, dst_n, conv_LSCW.index_select(1, src_n))
    ssm_LSHPN.index_copy_(1, dst_n, ssm_LSHPN.index_select(1, src_n))
