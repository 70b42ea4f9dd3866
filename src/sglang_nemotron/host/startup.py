"""What runs in the main process once SGLang knows that it is about to serve one of our architectures.

Refuses what our classes do not serve, and checks the checkpoint's headers. A ValueError raised here
ends the server before any scheduler starts, as the last lines of its output.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_nemotron.config import decoder, hub
from sglang_nemotron.config.decoder import DecoderSpec, check_parallel
from sglang_nemotron.family import TEXT
from sglang_nemotron.host import ending, kernels, port, slots, start_watch
from sglang_nemotron.host.layouts import layout_of
from sglang_nemotron.ops.forms import check_overrides
from sglang_nemotron.sglang_api.args import NemotronHConfig, envs, model_config_of, platforms, resolving_view
from sglang_nemotron.state.dtypes import stored_kv_dtype

if TYPE_CHECKING:
    from sglang_nemotron.config.omni import OmniSpec

logger = logging.getLogger(__name__)

_INSTEAD = "drop it, or set SGLANG_NEMOTRON_DISABLE=1 to serve with SGLang's own class"
# load formats that read the safetensors files of a local folder
_SAFETENSORS_FORMATS = ("auto", "safetensors", "fastsafetensors")


@dataclass(frozen=True)
class Limit:
    """A flag that our classes do not serve: `given` returns the user's value, or None if all is well."""

    flag: str
    given: Callable[[Any], Any]
    why: str
    cpu_only: bool = False
    cuda_only: bool = False


def flag(name: str, why: str, *, unset: Any = None, cpu_only: bool = False, cuda_only: bool = False) -> Limit:
    """The limit of a flag by its field in SGLang's arguments; `unset` is its value where the user said nothing."""

    def given(view: Any) -> Any:
        value = getattr(view, name, None)
        return None if value in (None, False, unset) or value == [] else value

    return Limit("--" + name.replace("_", "-"), given, why, cpu_only, cuda_only)


_OVERLAP = "the decoder runs a batch as one; it has no form that interleaves two"
_SEQUENCE = "a Mamba layer needs every token of a sequence on one rank"
_STATES = "the Mamba states would be stored in a form that our kernels do not read"
_KERNEL = "our mixers call their own choice of kernels, so the flag would have no effect"
_SUMS = "sums of our kernels are cut by the size of the batch, so that a reply may differ by what runs beside it"
_ALL_EXPERTS = "the CPU form of the experts expects a shard of every expert on every rank"

# docs/support.md holds the same table for readers, with what was tried; tests compare the two
LIMITS: tuple[Limit, ...] = (
    flag("speculative_algorithm", "no draft model of this family is served, and states cannot be rolled back"),
    flag("enable_two_batch_overlap", _OVERLAP),
    flag("enable_single_batch_overlap", _OVERLAP),
    flag("enable_pdmux", _OVERLAP),
    flag("attn_cp_size", _SEQUENCE, unset=1),
    flag("dcp_size", _SEQUENCE, unset=1),
    flag("enable_prefill_cp", _SEQUENCE),
    flag("enable_int8_mamba_checkpoint", _STATES),
    flag("enable_unified_memory", _STATES),
    flag("enable_linear_replayssm", _STATES),
    flag("mamba_backend", _KERNEL, unset="triton"),
    flag("enable_deterministic_inference", _SUMS, cuda_only=True),
    flag("cuda_graph_backend_prefill", "a prefill's plan changes from step to step", unset="disabled"),
    flag("enable_nvidia_megakernel", _KERNEL),
    flag("kt_weight_path", "experts in host memory (KTransformers) are not wired to our experts"),
    flag("enable_paged_experts", "paged experts are not wired to our experts"),
    flag("enable_layernorm_sp", "norms split over the sequence are not wired to our stack"),
    flag("quantize_and_serve", "quantising while loading is not wired to our loader; quantise the checkpoint first"),
    flag("modelopt_quant", "quantising while loading is not wired to our loader; quantise the checkpoint first"),
    flag("attn_dp_size", "SGLang's torch_native attention cannot pad a batch over ranks", unset=1, cpu_only=True),
    flag("enable_hierarchical_cache", "the host tier of the cache is moved by CUDA kernels", cpu_only=True),
    flag("ep_size", _ALL_EXPERTS, unset=1, cpu_only=True),
    flag("moe_a2a_backend", _ALL_EXPERTS, unset="none", cpu_only=True),
    flag("enable_eplb", _ALL_EXPERTS, cpu_only=True),
    flag("ep_num_redundant_experts", _ALL_EXPERTS, unset=0, cpu_only=True),
    flag("enable_lora", "the LoRA layers of a batch are CUDA or Triton kernels", cpu_only=True),
)

# what SGLang does around any model and nobody has tried with ours: served, with a warning
UNTRIED: tuple[tuple[str, Any], ...] = (
    ("disaggregation_mode", "null"),
    ("attn_dp_size", 1),
    ("ep_size", 1),
    ("moe_a2a_backend", "none"),
    ("enable_hierarchical_cache", False),
    ("enable_lmcache", False),
    ("enable_flexkv", False),
    ("radix_cache_backend", None),
    ("enable_eplb", False),
    ("enable_lora", None),
    ("enable_torch_compile", False),
    ("cpu_offload_gb", 0),
    ("offload_group_size", -1),
    ("dwdp_size", 1),
    ("moe_dp_size", 1),
)


def resolve(server_args: Any, hf_config: Any, *, http_app: str) -> dict[str, Any]:
    """The fields that our architectures set while arguments resolve; ValueError for what we do not serve.

    `http_app` is the application that HTTP worker processes must import.
    """
    view = resolving_view(server_args)
    assert isinstance(hf_config, NemotronHConfig)
    spec = hf_config.nano_spec
    check_server(view, spec, http_app=http_app)
    check_groups(view, spec, hf_config)
    check_checkpoint(spec, view.model_path, view.load_format, revision=view.revision, cache=view.download_dir)
    kernels.declare(server_args, view)
    chosen = kernels.runner_of_experts(view, kernels.intree_defaults(server_args, hf_config, TEXT))
    return chosen | chosen_slots(server_args, spec, hf_config)


def _stored_kv(view: Any, quantised: dict[str, Any]) -> str | None:
    return stored_kv_dtype(hub.local_folder(view.model_path, view.revision, view.download_dir), quantised)


def chosen_slots(server_args: Any, spec: DecoderSpec, hf_config: Any) -> dict[str, Any]:
    """The fields that say how memory is spent on states, where the user left them open."""
    model_config = model_config_of(server_args)
    quantised = getattr(hf_config, "quantization_config", None) or {}
    view = resolving_view(server_args)
    layout = layout_of(
        view,
        spec,
        stored_dtype=str(model_config.dtype),
        stored_kv=None if on_our_cpu() else _stored_kv(view, quantised),
    )
    return slots.choose(
        view,
        layout,
        # the view shows SGLang's fallback where the user gave none
        ratio_given=server_args.mamba_full_memory_ratio is not None,
        context_tokens=model_config.context_len,
    )


def check_server(view: Any, spec: DecoderSpec, *, http_app: str, limits: tuple[Limit, ...] = LIMITS) -> None:
    """ValueError for flags, splits and a port that cannot be served; `limits`: of the decoder, or more."""
    check_flags(view, on_cpu=on_our_cpu(), limits=limits)
    # a program around the engine listens nowhere
    if ending.is_command():
        port.check_port(view.host, view.port)
    check_overrides(os.environ)
    start_watch.seconds_of(os.environ)
    _check_workers(view, http_app)
    check_parallel(spec, view.tp_size, ep_size=view.ep_size, pp_size=view.pp_size)


def check_groups(view: Any, spec: DecoderSpec, hf_config: Any) -> None:
    """ValueError for a split that NVFP4 experts do not allow; a CPU splits what it has dequantised."""
    quantised = getattr(hf_config, "quantization_config", None) or {}
    layers = quantised.get("quantized_layers") or {}
    found = {str(layer.get("quant_algo")) for name, layer in layers.items() if ".experts." in name}
    if not on_our_cpu() and "NVFP4" in found | {str(quantised.get("quant_algo"))}:
        decoder.check_groups(spec, view.tp_size, ep_size=view.ep_size)


def on_our_cpu() -> bool:
    """Whether this server runs on our CPU platform."""
    from sglang_nemotron.host.cpu import CpuPlatform

    return isinstance(platforms.current_platform, CpuPlatform)


def check_flags(view: Any, *, on_cpu: bool, limits: tuple[Limit, ...] = LIMITS) -> None:
    """ValueError for the first flag that our classes do not serve; a warning for what was never tried."""
    for limit in limits:
        value = limit.given(view)
        if value is None or (limit.cpu_only and not on_cpu) or (limit.cuda_only and on_cpu):
            continue
        where = " on a CPU" if limit.cpu_only else " on a GPU" if limit.cuda_only else ""
        said = limit.flag if value is True else f"{limit.flag} {value}"
        raise ValueError(f"{said} is not supported{where} by sglang-nemotron: {limit.why}; {_INSTEAD}")
    for name, unset in UNTRIED:
        value = getattr(view, name, None)
        if value not in (unset, None, False):
            said = "--" + name.replace("_", "-")
            logger.warning(
                "%s %s was never tried with sglang-nemotron's classes; docs/support.md lists what was", said, value
            )


def _check_workers(view: Any, http_app: str) -> None:
    named = envs.SGLANG_HTTP_SERVER_APP_PATH.get()
    if view.tokenizer_worker_num > 1 and named != http_app:
        raise ValueError(
            f"--tokenizer-worker-num {view.tokenizer_worker_num} starts workers with {named} "
            f"(SGLANG_HTTP_SERVER_APP_PATH), which load no plugins; unset the variable, or set it to {http_app}"
        )


def check_checkpoint(
    spec: DecoderSpec,
    model: str,
    load_format: str,
    *,
    omni: OmniSpec | None = None,
    revision: str | None = None,
    cache: str | None = None,
) -> None:
    """Names, shapes and completeness of a model's tensors, from file headers alone; ValueError lists faults.

    model: a folder, or an id of the hub, whose snapshot is in `cache` (None: the usual place) or is fetched later.
    omni: the whole model's spec, where `spec` is a decoder inside an Omni checkpoint.
    """
    # what else SGLang can load (an object store, dummy weights) is checked when the weights arrive
    if str(load_format) not in _SAFETENSORS_FORMATS or not (hub.is_id(model) or Path(model).is_dir()):
        return
    folder = hub.local_folder(model, revision, cache)
    if hub.is_id(model) and (missing := hub.unfetched(folder)):
        if hub.is_offline():
            remedy = f"unset it, or {hub.fetch_first(model, revision)}"
            raise ValueError(f"{model}: {missing}, and HF_HUB_OFFLINE is set\n  remedy: {remedy}")
        if wrong := hub.no_room(model, folder, revision, cache):
            raise ValueError(wrong)
        logger.info("checkpoint: %s; SGLang fetches them, and the tensors are checked while they load", missing)
        return
    assert folder is not None
    if not any(folder.glob("*.safetensors")) and any(folder.glob("*.bin")):
        return
    from sglang_nemotron.decoder.headers import read_headers
    from sglang_nemotron.host.headers import check_headers

    began = time.monotonic()
    again = f"\n  remedy: {hub.fetch_first(model, revision)}" if hub.is_id(model) else ""
    try:
        headers = read_headers(folder)
    except ValueError as error:
        raise ValueError(f"{error}{again}") from None
    try:
        check_headers(headers, spec, omni)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}{again}") from None
    logger.info(
        "checkpoint: %d tensors as the config says (headers read in %.2f s)", len(headers), time.monotonic() - began
    )
