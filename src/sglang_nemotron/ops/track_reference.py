"""Copies states from slot to slot in every layer, so that a decode step can leave one behind for the prefix cache.

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
    """For each row with `mask_B`, copy slot `src_B[b]` to slot `dst_B[b]` in all layers, both kinds of state, in place.

    Slots of rows without the mask are not looked at and may be negative. No destination is named twice, and none is
    another row's source.
    """
    for src, dst, wanted in zip(src_B.tolist(), dst_B.tolist(), mask_B.tolist(), strict=True):
        if wanted:
            conv_LSCW[:, dst] = conv_LSCW[:, src]
            ssm_LSHPN[:, dst] = ssm_LSHPN[:, src]
