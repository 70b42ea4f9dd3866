"""Which layer is stored in which number format, and how hf_quant_config.json and config.json say so.

Follows the published Nano files where they are known; knows module names and JSON, no tensor values.
"""

from __future__ import annotations

from typing import Any, Literal

from sglang_nemotron.checkpoint.spec import NVFP4_GROUP, CheckpointSpec
from sglang_nemotron.checkpoint.tensors import OMNI_PREFIX, inventory

Algo = Literal["FP8", "NVFP4"]

# modules of an Omni checkpoint that hold no quantised layer
_TOWER_MODULES = ("vision_model*", "mlp1*", "sound_encoder*", "sound_projection*")

_PRODUCER = {"name": "modelopt", "version": "0.29.0"}

# stand-ins for calibration: the largest input magnitude expected at each kind of layer, at this generator's scales
INPUT_AMAX = {"in_proj": 8.0, "up_proj": 8.0, "out_proj": 16.0, "down_proj": 32.0, "o_proj": 16.0}
# the same for the keys and values that go into an FP8 cache
KV_AMAX = 12.0


def layer_algorithms(spec: CheckpointSpec) -> dict[str, Algo]:
    """Module name -> number format, for every quantised linear layer, in file order.

    `fp8` and `nvfp4` quantise every Mamba, expert and dense projection except attention and the Mamba layer that feeds
    each attention layer. `mixed` stores routed experts in NVFP4 and Mamba, shared-expert, dense and attention output
    projections in FP8. In an Omni checkpoint `fp8` stores everything in FP8 that `mixed` quantises. Towers and
    projectors are never quantised. (Sources: the published NVFP4 hf_quant_config.json; the layer counts of the
    published mixed checkpoint, 5888 NVFP4 and 98 FP8; for Omni's FP8, of which no list is known, its published size,
    32.8 GiB, which leaves room for queries, keys and values in BF16 and for nothing else.)
    """
    if spec.quantization == "none":
        return {}
    whole = spec.quantization == "mixed" or (spec.quantization == "fp8" and spec.towers is not None)
    kept = set() if whole else _mamba_before_attention(spec)
    algorithms: dict[str, Algo] = {}
    for tensor in inventory(spec):
        module = tensor.module
        if tensor.role != "linear" or module.rpartition(".mixer.")[0] in kept:
            continue
        leaf = module.rpartition(".")[2]
        if leaf in ("q_proj", "k_proj", "v_proj"):
            continue
        if spec.quantization == "mixed":
            algorithms[module] = "NVFP4" if ".experts." in module else "FP8"
        elif whole or leaf != "o_proj":
            algorithms[module] = "FP8" if spec.quantization == "fp8" else "NVFP4"
    return algorithms


def excluded_modules(spec: CheckpointSpec) -> list[str]:
    """The linear layers and convolutions that stay unquantised, as the published files list them (gates never are)."""
    quantised = layer_algorithms(spec)
    linears = [t.module for t in inventory(spec) if t.role == "linear" and t.module not in quantised]
    convolutions = [t.module for t in inventory(spec) if t.role == "conv"]
    prefix, towers = ("", ()) if spec.towers is None else (OMNI_PREFIX, _TOWER_MODULES)
    return [f"{prefix}lm_head", *linears, *convolutions, *towers]


def hf_quant_config(spec: CheckpointSpec) -> dict[str, Any]:
    """The content of hf_quant_config.json (ModelOpt's own file)."""
    section: dict[str, Any] = {"quant_algo": _quant_algo(spec), "kv_cache_quant_algo": "FP8"}
    if spec.quantization == "nvfp4":
        section["group_size"] = NVFP4_GROUP
    if spec.quantization == "mixed":
        section["quantized_layers"] = _quantized_layers(spec)
    section["exclude_modules"] = excluded_modules(spec)
    return {"producer": dict(_PRODUCER), "quantization": section}


def quantization_config(spec: CheckpointSpec) -> dict[str, Any]:
    """The content of config.json's `quantization_config` (the form that newer exports carry)."""
    section: dict[str, Any] = {
        "quant_method": "modelopt",
        "quant_algo": _quant_algo(spec),
        "ignore": excluded_modules(spec),
        "kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"},
        "producer": dict(_PRODUCER),
    }
    if spec.quantization == "mixed":
        section["quantized_layers"] = _quantized_layers(spec)
    else:
        form: dict[str, Any] = {"dynamic": False, "num_bits": 8, "type": "float"}
        if spec.quantization == "nvfp4":
            form = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": NVFP4_GROUP}
        section["config_groups"] = {
            "group_0": {"input_activations": form, "weights": dict(form), "targets": ["Linear"]}
        }
    return section


def _quant_algo(spec: CheckpointSpec) -> str:
    return {"fp8": "FP8", "nvfp4": "NVFP4", "mixed": "MIXED_PRECISION"}[spec.quantization]


def _quantized_layers(spec: CheckpointSpec) -> dict[str, dict[str, Any]]:
    return {
        module: {"quant_algo": algo, "group_size": NVFP4_GROUP} if algo == "NVFP4" else {"quant_algo": algo}
        for module, algo in layer_algorithms(spec).items()
    }


def _mamba_before_attention(spec: CheckpointSpec) -> set[str]:
    """Names of the Mamba layers that come last before an attention layer."""
    kept, last_mamba = set(), None
    prefix = "" if spec.towers is None else OMNI_PREFIX
    for index, letter in enumerate(spec.hybrid_override_pattern):
        if letter == "M":
            last_mamba = index
        elif letter == "*" and last_mamba is not None:
            kept.add(f"{prefix}backbone.layers.{last_mamba}")
    return kept
