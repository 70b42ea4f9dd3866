"""What the main process does for an Omni checkpoint before any scheduler starts, beside what it does for text.

Refuses what the towers do not serve and a missing `[omni]` extra, checks the whole checkpoint, gives Omni the
defaults that SGLang gives text, and sizes the cache of embeddings. A ValueError ends the server with its text.
"""

from __future__ import annotations

import logging
import os
from types import SimpleNamespace
from typing import Any

from sglang_nemotron.config.omni import OmniSpec, omni_spec_of
from sglang_nemotron.family import OMNI
from sglang_nemotron.host import kernels, startup
from sglang_nemotron.host.startup import LIMITS, Limit, flag
from sglang_nemotron.media import libraries
from sglang_nemotron.sglang_api.args import envs, get_device_memory_capacity, override_providers, resolving_view
from sglang_nemotron.state.capacity import cache_megabytes

logger = logging.getLogger(__name__)

_APART = "towers and decoder run in one process here"
_TOWERS_CHOOSE = (
    "the towers choose their attention by device and dtype, and the log says which (op full_attention); "
    "SGLANG_NEMOTRON_OPS=full_attention=torch or =sglang chooses for them"
)
_REPLICAS = "the towers are split or repeated over all ranks of tensor parallelism, which then see the same media"


# docs/support.md holds the same table for readers
OMNI_LIMITS: tuple[Limit, ...] = (
    flag("attn_dp_size", _REPLICAS, unset=1),
    flag("mm_enable_dp_encoder", _REPLICAS),
    flag("encoder_only", _APART),
    flag("language_only", _APART),
    flag("enable_adaptive_dispatch_to_encoder", _APART),
    flag(
        "language_model_only", "the towers are always built; a server without media needs no flag, and the text model"
    ),
    flag("enable_prefix_mm_cache", _APART),
    flag("enable_mm_global_cache", _APART),
    flag("mm_attention_backend", _TOWERS_CHOOSE),
    flag("enable_lora", "adapters of a decoder inside another model are not wired"),
)

_BYTES = {"float32": 4, "float": 4}
# the name whose rules SGLang applies to a decoder inside a multimodal config
_INTREE_OMNI = OMNI[1]


def resolve(server_args: Any, hf_config: Any, *, http_app: str) -> dict[str, Any]:
    """The fields that Omni sets while arguments resolve; ValueError for what we do not serve."""
    view = resolving_view(server_args)
    spec = omni_spec_of(hf_config)
    startup.check_server(view, spec.decoder, http_app=http_app, limits=(*OMNI_LIMITS, *LIMITS))
    startup.check_groups(view, spec.decoder, hf_config)
    startup.check_checkpoint(
        spec.decoder,
        view.model_path,
        view.load_format,
        omni=spec,
        revision=view.revision,
        cache=view.download_dir,
    )
    _size_cache(server_args, view, spec)
    kernels.declare(server_args, view)
    return defaults_of_text(server_args, hf_config) | startup.chosen_slots(server_args, spec.decoder, hf_config)


def check_libraries() -> None:
    """ValueError that says what to install, if a library that reads media is missing."""
    missing = libraries.missing()
    if missing:
        raise ValueError(
            f"Nemotron 3 Nano Omni reads images, video and sound with {', '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not installed; run: {libraries.INSTALL}"
        )


def defaults_of_text(server_args: Any, hf_config: Any) -> dict[str, Any]:
    """MoE backend, quantisation and attention backend by SGLang's own rules for this decoder.

    SGLang applies them to the name that transformers saves, and not to the published one. They look at the text
    config only where the architecture is the former, so that name is shown to them.
    """
    shown = SimpleNamespace(
        architectures=[_INTREE_OMNI], quantization_config=getattr(hf_config, "quantization_config", None) or {}
    )
    declared = kernels.intree_defaults(server_args, shown, _INTREE_OMNI)
    ours = kernels.runner_of_experts(resolving_view(server_args), declared)
    if any(kernels.is_intree(provider) for provider in override_providers.get(hf_config.architectures[0], ())):
        return ours
    return declared | ours


def _size_cache(server_args: Any, view: Any, spec: OmniSpec) -> None:
    """Through the variable that SGLang reads in the scheduler; whoever set it has decided."""
    if envs.SGLANG_VLM_CACHE_SIZE_MB.is_set():
        return
    from sglang_nemotron.sglang_api.args import model_config_of

    model_config = model_config_of(server_args)
    device = _device_megabytes(view)
    token_bytes = spec.decoder.hidden_size * _BYTES.get(str(model_config.dtype).removeprefix("torch."), 2)
    megabytes = cache_megabytes(model_config.context_len, token_bytes, device)
    os.environ[envs.SGLANG_VLM_CACHE_SIZE_MB.name] = str(megabytes)
    logger.info("cache of media embeddings: %d MB (SGLANG_VLM_CACHE_SIZE_MB sets it)", megabytes)


def _device_megabytes(view: Any) -> float:
    if startup.on_our_cpu():
        from sglang_nemotron.host.cpu import host_memory

        # the host's other tenants keep what they have
        return host_memory()[0] / 2**20
    return get_device_memory_capacity(view.device) or 0.0
