"""How a server rounds fp16 states: to the nearest, or at random with a seed that moves on with every decode step.

The main process decides and says so in the environment, the scheduler's model reads it once.
"""

from __future__ import annotations

import os

import torch

from sglang_nemotron.ops import StochasticRounding

__all__ = ["ROUNDING", "StateRounding", "state_rounding"]

# set by the main process for --enable-mamba-cache-stochastic-rounding, see host/kernels.py
ROUNDING = "SGLANG_NEMOTRON_STATE_ROUNDING"


class StateRounding:
    """One model's draws: the same steps of a server that was started anew draw the same."""

    def __init__(self, device: torch.device, rank: int, num_ranks: int) -> None:
        self._seed_1 = torch.zeros(1, dtype=torch.int64, device=device)
        self._rank, self._num_ranks = rank, num_ranks

    def next_step(self) -> None:
        """Draw anew from here on; on the device, so that a captured graph does it at each replay."""
        self._seed_1.add_(1)

    def of_layer(self, layer_id: int) -> StochasticRounding:
        # layers and ranks do not share draws
        return StochasticRounding(self._seed_1, layer_id * self._num_ranks + self._rank)


def state_rounding(ssm_SHPN: torch.Tensor, *, rank: int, num_ranks: int) -> StateRounding | None:
    """What this server was asked for, None where states are rounded to the nearest."""
    if os.environ.get(ROUNDING) != "stochastic" or ssm_SHPN.dtype != torch.float16:
        return None
    return StateRounding(ssm_SHPN.device, rank, num_ranks)
