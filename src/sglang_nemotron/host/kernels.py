"""Which kernels a server of ours runs on where its user left the choice open, how an fp16 state is rounded, and how
ranks add up.

In: SGLang's arguments and what its own rules declare for the architecture; out: fields to set. Runs in the main process
before any scheduler; asks a device for its capability alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from sglang_nemotron.sglang_api.args import declare_resolution, get_platform, override_providers
from sglang_nemotron.state.rounding import ROUNDING

logger = logging.getLogger(__name__)

# SGLang's choice for cards before Blackwell: kernels that are compiled for half an hour at the first start
_COMPILED_FIRST = "flashinfer_cutlass"
# its own Triton kernels: experts lie as ours read them, and serve where ours do not
_OURS = "triton"
_STOCHASTIC = "enable_mamba_cache_stochastic_rounding"
_UNFUSED = "enforce_disable_flashinfer_allreduce_fusion"


def intree_defaults(server_args: Any, hf_config: Any, architecture: str) -> dict[str, Any]:
    """What SGLang's own rules of an architecture declare for this config."""
    chosen: dict[str, Any] = {}
    for provider in override_providers.get(architecture, ()):
        if is_intree(provider):
            chosen.update(provider(server_args, hf_config))
    return chosen


def is_intree(provider: Callable[..., Any]) -> bool:
    return provider.__module__.startswith("sglang.")


def runner_of_experts(view: Any, declared: dict[str, Any]) -> dict[str, Any]:
    """Our kernels for the experts instead of those that SGLang would compile first; the user's own flag wins."""
    if view.moe_runner_backend != "auto" or declared.get("moe_runner_backend") != _COMPILED_FIRST:
        return {}
    # experts on other ranks are dispatched to what SGLang chose for them
    if view.moe_a2a_backend != "none" or view.ep_size > 1:
        return {}
    quantised = declared.get("quantization") is not None
    # FP8 products need Ada's matrix units
    least = (8, 9) if quantised else (8, 0)
    return {"moe_runner_backend": _OURS} if least <= _capability() < (10, 0) else {}


def declare(server_args: Any, view: Any) -> None:
    """What no field that a model may return can say; it is resolved by name. ValueError as `take_over_rounding`."""
    take_over_rounding(server_args, view)
    leave_sums_unfused(server_args, view)


def take_over_rounding(server_args: Any, view: Any) -> None:
    """`--enable-mamba-cache-stochastic-rounding` means our decode step, which draws on every card from Ampere on.

    SGLang's own form needs Blackwell and refuses the flag elsewhere, so it is taken away from SGLang and handed to the
    scheduler through the environment. Raises ValueError without fp16 states on a CUDA device.
    """
    os.environ.pop(ROUNDING, None)
    if not getattr(view, _STOCHASTIC):
        return
    flag = "--" + _STOCHASTIC.replace("_", "-")
    if view.mamba_ssm_dtype != "float16":
        raise ValueError(
            f"{flag} rounds float16 states, and --mamba-ssm-dtype is {view.mamba_ssm_dtype or 'not given'}; "
            "add --mamba-ssm-dtype float16, or drop the flag"
        )
    if _capability() < (8, 0):
        raise ValueError(f"{flag} needs an NVIDIA GPU of compute capability 8.0 or later; drop the flag")
    os.environ[ROUNDING] = "stochastic"
    # no field that a model may declare, so it is resolved by name; SGLang's own check comes later and reads this
    declare_resolution(server_args, "sglang-nemotron", **{_STOCHASTIC: False})


def leave_sums_unfused(server_args: Any, view: Any) -> None:
    """Several ranks on one of our models start without FlashInfer's fused all-reduces, and the log says so.

    SGLang switches them on by itself for these architectures from Hopper on. Their first start compiles for minutes
    with nvcc, one rank while the others wait, and nobody has shown them with our models. The user's own backend wins.
    """
    if view.tp_size == 1 or getattr(view, _UNFUSED) or view.flashinfer_allreduce_fusion_backend is not None:
        return
    if _capability() < (9, 0):
        return
    logger.info(
        "FlashInfer's fused all-reduces stay off: their first start compiles for minutes; "
        "--flashinfer-allreduce-fusion-backend auto takes them"
    )
    declare_resolution(server_args, "sglang-nemotron", **{_UNFUSED: True})


def _capability() -> tuple[int, int]:
    """Compute capability of the NVIDIA GPU that will serve, (0, 0) elsewhere."""
    platform = get_platform()
    if not platform.is_cuda:
        return (0, 0)
    major, minor = platform.device_capability
    return (int(major), int(minor))
