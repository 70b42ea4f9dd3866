"""A plugin for benchmarks: `--load-format dummy` weights at a realistic scale, so that routing spreads over experts.

SGLang's own dummy weights are near zero, all tokens then take the same few experts and MoE times read several times
too low. Both sides of a comparison use this plugin.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

_ELEMENTS_AT_ONCE = 1 << 26
_LINEAR_STD = 0.02


def _parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    # bounds the temporaries of a fill
    yield from tensor.view(-1).split(_ELEMENTS_AT_ONCE)


def _fill(name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "A":  # -exp(A_log)
        tensor.copy_(-torch.empty_like(tensor, dtype=torch.float32).uniform_(1, 16, generator=generator))
    elif leaf == "dt_bias":  # inverse softplus of a log-uniform time step in [1e-3, 1e-1]
        low, high = math.log(1e-3), math.log(1e-1)
        step = torch.empty_like(tensor, dtype=torch.float32).uniform_(low, high, generator=generator).exp()
        tensor.copy_(step + torch.log(-torch.expm1(-step)))
    elif leaf == "D" or ("norm" in name and tensor.dim() == 1):
        tensor.fill_(1)
    elif "e_score_correction_bias" in name:
        tensor.zero_()
    elif "weight_scale" in leaf:
        tensor.fill_(2e-4)
    elif "input_scale" in leaf:
        tensor.fill_(2e-2)
    elif "scale" in leaf:
        tensor.fill_(1)
    elif "conv1d" in name:
        tensor.uniform_(-0.5, 0.5, generator=generator)
    elif leaf.endswith("bias"):
        tensor.zero_()
    else:
        for part in _parts(tensor):
            if part.element_size() == 1:  # float8 storage
                wide = torch.empty(part.numel(), device=part.device, dtype=torch.float16)
                part.copy_(wide.uniform_(-170, 170, generator=generator).to(part.dtype))
            else:
                part.normal_(0, _LINEAR_STD, generator=generator)


def initialize(model: torch.nn.Module, *args: object, **kwargs: object) -> None:
    generator = torch.Generator(device="cuda").manual_seed(0)
    for name, tensor in model.state_dict().items():
        if torch.is_floating_point(tensor):
            _fill(name, tensor.data, generator)


def register() -> None:
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register("sglang.srt.model_loader.weight_utils.initialize_dummy_weights", initialize, HookType.REPLACE)
