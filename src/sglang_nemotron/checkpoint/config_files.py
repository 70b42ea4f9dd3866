"""The small files of a checkpoint: config.json in each spelling, generation_config.json, remote code.

A spec comes in, JSON-ready dicts and file texts go out; knows how published configs are spelled, nothing about weights.
"""

from __future__ import annotations

import math
from typing import Any

from sglang_nemotron.checkpoint.quant_layout import quantization_config
from sglang_nemotron.checkpoint.spec import CheckpointSpec
from sglang_nemotron.checkpoint.tower_config import (
    omni_generation_config,
    published_omni_config,
    transformers_omni_config,
)

# token ids that end an answer: </s> and <|im_end|>
EOS_IDS = (2, 11)

_LAYER_NAMES = {
    # as transformers 5.19 writes them
    "transformers": {"M": "linear_attention", "*": "full_attention", "E": "moe", "-": "mlp"},
    # as its earlier releases and some published configs write them
    "alt": {"M": "mamba", "*": "attention", "E": "moe", "-": "mlp"},
}

_AUTO_MAP = {
    "AutoConfig": "configuration_nemotron_h.NemotronHConfig",
    "AutoModel": "modeling_nemotron_h.NemotronHForCausalLM",
    "AutoModelForCausalLM": "modeling_nemotron_h.NemotronHForCausalLM",
}

# the published repository ships code of its own under these names. ours adds nothing to what transformers has, so that
# a server started with --trust-remote-code computes the same as one started without. subclasses rather than the classes
# themselves, because loading remote code marks the class it finds (register_for_auto_class), and a marked library class
# can no longer be saved
REMOTE_CODE = {
    "configuration_nemotron_h.py": '''"""Named by the auto_map: transformers' own config class under a name of ours."""

from transformers.models.nemotron_h import NemotronHConfig as LibraryConfig


class NemotronHConfig(LibraryConfig):
    """transformers' NemotronHConfig, unchanged."""
''',
    "modeling_nemotron_h.py": '''"""Named by the auto_map: transformers' own model class under a name of ours."""

from transformers.models.nemotron_h import NemotronHForCausalLM as LibraryModel


class NemotronHForCausalLM(LibraryModel):
    """transformers' NemotronHForCausalLM, unchanged."""
''',
}


def config_json(spec: CheckpointSpec) -> dict[str, Any]:
    """config.json in `spec.spelling`, keys sorted as published."""
    config = _text_config(spec)
    if spec.towers is not None:
        whole = transformers_omni_config if spec.spelling == "transformers" else published_omni_config
        config = whole(config, spec.towers, spec.dtype)
    if spec.quantization != "none" and spec.quant_config_in != "file":
        config["quantization_config"] = quantization_config(spec)
    return dict(sorted(config.items()))


def _text_config(spec: CheckpointSpec) -> dict[str, Any]:
    """config.json of the language model alone."""
    config = _common(spec)
    if spec.spelling == "transformers":
        config.update(_transformers_only(spec))
    else:
        config.update(_published_only(spec))
    if spec.spelling == "published":
        config["hybrid_override_pattern"] = spec.hybrid_override_pattern
    else:
        names = _LAYER_NAMES[spec.spelling]
        config["layers_block_type"] = [names[letter] for letter in spec.hybrid_override_pattern]
    config["mamba_n_groups" if spec.spelling == "alt" else "n_groups"] = spec.n_groups
    return dict(sorted(config.items()))


def remote_code_files(spec: CheckpointSpec) -> dict[str, str]:
    """File name -> text; empty for configs without auto_map: transformers' spelling, and Omni."""
    return {} if spec.spelling == "transformers" or spec.towers is not None else REMOTE_CODE


def generation_config_json(spec: CheckpointSpec) -> dict[str, Any]:
    """generation_config.json: an answer ends at </s> or <|im_end|>; temperature and top_p are the published advice."""
    if spec.towers is not None:
        return omni_generation_config()
    return {
        "_from_model_config": True,
        "bos_token_id": 1,
        "do_sample": True,
        "eos_token_id": list(EOS_IDS),
        "pad_token_id": 0,
        "temperature": 1.0,
        "top_p": 1.0,
        "transformers_version": "4.53.2",
    }


def _common(spec: CheckpointSpec) -> dict[str, Any]:
    same_name = (
        "chunk_size conv_kernel head_dim hidden_size intermediate_size mamba_head_dim mamba_num_heads "
        "mamba_ssm_cache_dtype max_position_embeddings moe_intermediate_size moe_shared_expert_intermediate_size "
        "n_group n_routed_experts norm_topk_prob num_attention_heads num_experts_per_tok num_key_value_heads "
        "routed_scaling_factor ssm_state_size tie_word_embeddings topk_group use_conv_bias vocab_size"
    )
    return {name: getattr(spec, name) for name in same_name.split()} | {
        "architectures": ["NemotronHForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "expand": 2,
        "hidden_dropout": 0.0,
        "initializer_range": 0.02,
        "layer_norm_epsilon": spec.norm_eps,
        "mamba_hidden_act": "silu",
        "mamba_proj_bias": False,
        "mlp_bias": False,
        "mlp_hidden_act": "relu2",
        "model_type": "nemotron_h",
        "n_shared_experts": 1,
        "num_logits_to_keep": 1,
        "pad_token_id": 0,
        "rescale_prenorm_residual": True,
        "residual_in_fp32": False,
        "sliding_window": None,
        "time_step_floor": 0.0001,
        "time_step_max": 0.1,
        "time_step_min": 0.001,
        "use_bias": False,
        "use_cache": True,
        "use_mamba_kernels": True,
    }


def _published_only(spec: CheckpointSpec) -> dict[str, Any]:
    config: dict[str, Any] = {
        "auto_map": dict(_AUTO_MAP),
        "norm_eps": spec.norm_eps,
        "num_hidden_layers": spec.num_hidden_layers,
        # dead fields: the architecture has no position embedding
        "partial_rotary_factor": 1.0,
        "rope_theta": 10000,
        "torch_dtype": spec.dtype,
        "transformers_version": "4.53.2",
    }
    if spec.time_step_limit is not None:
        config["time_step_limit"] = list(spec.time_step_limit)
    return config


def _transformers_only(spec: CheckpointSpec) -> dict[str, Any]:
    limit = spec.time_step_limit or (0.0, math.inf)
    return {
        "dtype": spec.dtype,
        "moe_latent_size": None,
        "moe_shared_expert_overlap": True,
        "mtp_layers_block_type": ["full_attention", "moe"],
        "num_nextn_predict_layers": 0,
        "output_router_logits": False,
        # this release spells an infinity as an object, since JSON has none
        "time_step_limit": [{"__float__": "Infinity"} if math.isinf(value) else value for value in limit],
        "transformers_version": "5.19.0",
    }
