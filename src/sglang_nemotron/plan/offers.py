"""What the launch table says of a GPU, a checkpoint and a count, so that `plan` and `command` say the same.

A plan's GPU and model come in, a refusal or flags of the table go out. Knows no memory.
"""

from __future__ import annotations

from sglang_nemotron.launch import choose
from sglang_nemotron.launch.choose import Chosen
from sglang_nemotron.launch.kinds import Refusal
from sglang_nemotron.plan.gpus import Gpu
from sglang_nemotron.plan.models import Model

# GPUs here -> the table's, which offers one A100; others have the same name, or are in no row
_HARDWARE = {"a100-40": "a100", "a100-80": "a100"}
# number formats here -> the table's variants; of a published checkpoint the variant itself is known
_VARIANTS = {"none": "bf16", "fp8": "fp8", "nvfp4": "nvfp4", "mixed": "nvfp4"}
_FLAGS = ("--attention-backend", "--reasoning-parser", "--tool-call-parser")


def refusal_of_format(gpu: Gpu, model: Model, count: int) -> Refusal | None:
    """Why such a GPU serves no checkpoint in this format, or no so many of them one checkpoint, whatever its size."""
    return choose.refusal_of(_answers(gpu, model, count))


def refusal_of_published(gpu: Gpu, model: Model, count: int) -> Refusal | None:
    """Why a published checkpoint is not offered there, although it may fit; None for any other checkpoint."""
    if model.variant is None:
        return None
    return choose.refusal_of(_answers(gpu, model, count) | _kind(model))


def flags(gpu: Gpu, model: Model, count: int) -> list[Chosen]:
    """The table's flags that do not depend on memory, both parsers on."""
    values = _answers(gpu, model, count) | _kind(model) | {"reasoning-parser": "on", "tool-call-parser": "on"}
    return [chosen for name in _FLAGS if (chosen := choose.flag_of(name, values)) is not None]


def _answers(gpu: Gpu, model: Model, count: int) -> dict[str, str]:
    variant = model.variant or _VARIANTS[model.quantization]
    return {"hardware": _HARDWARE.get(gpu.name, gpu.name), "variant": variant, "tp": str(count)}


def _kind(model: Model) -> dict[str, str]:
    return {"model": "nano" if model.omni is None else "omni"}
