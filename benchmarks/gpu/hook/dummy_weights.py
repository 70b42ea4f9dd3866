"""A plugin for benchmarks: `--load-format dummy` weights at a realistic scale, so that routing spreads over experts.

SGLang's own dummy weights are near zero, all tokens then take the same few experts and MoE times read several times
too low. Both sides of a comparison use this plugin.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

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


def _timed(what: str, call: Callable[..., Any], size: Callable[..., int | None]) -> Callable[..., Any]:
    """`call`, with a line in the log: what, its size, seconds until the GPU is done. No size, no line."""

    def timed(*args: Any, **kwargs: Any) -> Any:
        of = size(*args, **kwargs)
        if of is None:
            return call(*args, **kwargs)
        torch.cuda.synchronize()
        began = time.monotonic()
        result = call(*args, **kwargs)
        torch.cuda.synchronize()
        print(f"BENCH {what} {of} {time.monotonic() - began:.4f}", flush=True)
        return result

    return timed


def _time_media(model: Any) -> None:
    """Encoders and prefills of a multimodal model, both sides alike; what synchronises is prefill alone."""
    for kind in ("image", "video", "audio"):
        name = f"get_{kind}_feature"
        setattr(model, name, _timed(f"encode {kind}", getattr(model, name), lambda items: len(items)))

    def extends(*args: Any, **kwargs: Any) -> int | None:
        batch = kwargs.get("forward_batch", args[2] if len(args) > 2 else None)
        return int(args[0].numel()) if batch is not None and batch.forward_mode.is_extend() else None

    model.forward = _timed("prefill", model.forward, extends)


def initialize(model: torch.nn.Module, *args: object, **kwargs: object) -> None:
    if hasattr(model, "get_video_feature"):
        _time_media(model)
    generator = torch.Generator(device="cuda").manual_seed(0)
    for name, tensor in model.state_dict().items():
        if torch.is_floating_point(tensor):
            _fill(name, tensor.data, generator)


def register() -> None:
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register("sglang.srt.model_loader.weight_utils.initialize_dummy_weights", initialize, HookType.REPLACE)
