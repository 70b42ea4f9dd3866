"""What we take for granted of SGLang, and how the installed one differs: capabilities are probed, never versions.

Names are those of this room, signatures those of what rows wrap and of what this package calls, fields those of the
table below. No server, no GPU and no checkpoint: `doctor` and tests/host/test_contract.py take seconds.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sglang_nemotron.sglang_api.wrapping import Wrap

# where this package takes its names of SGLang from
_NAMES = "sglang_nemotron.sglang_api."
_METADATA = "sglang.srt.layers.attention.mamba.mamba2_metadata"
_BACKEND = "sglang.srt.layers.attention.hybrid_linear_attn_backend"
_BATCH = "sglang.srt.managers.schedule_batch"
_MANAGER = "sglang.srt.managers.tokenizer_manager"
_CHAT = "sglang.srt.entrypoints.openai.serving_chat"

# module: class -> what we read or set on its objects, and where
FIELDS: dict[str, tuple[str, ...]] = {
    # state/plan.py: a step's indices
    f"{_METADATA}:Mamba2Metadata": (
        *("is_target_verify", "num_prefills", "num_decodes", "num_prefill_tokens", "mamba_cache_indices"),
        *("mixed_metadata", "query_start_loc", "has_mamba_track_mask", "conv_states_mask_indices"),
        *("track_conv_indices", "track_ssm_final_src", "track_ssm_final_dst", "track_ssm_h_src", "track_ssm_h_dst"),
        *("track_ssm_seq_idx", "track_ssm_end_locs", "track_ssm_recompute_dst", "mamba_track_indices"),
    ),
    f"{_METADATA}:Mamba2Metadata.MixedMetadata": (
        *("extend_seq_lens_cpu", "has_initial_states", "chunk_size", "seq_idx", "chunk_indices", "chunk_offsets"),
    ),
    "sglang.srt.model_executor.forward_batch_info:ForwardBatch": (
        *("extend_prefix_lens_cpu", "extend_prefix_lens", "batch_size", "mamba_prefill_track_mask_cpu"),
        *("mamba_track_seqlens_cpu", "mamba_track_mask", "mamba_track_seqlens"),
        # models/
        *("forward_mode", "contains_mm_inputs"),
    ),
    "sglang.srt.model_executor.forward_batch_info:ForwardMode": ("is_idle", "is_decode"),
    # models/nemotron_h.py and state/pool.py: SGLang's hybrid backend and its pools
    f"{_BACKEND}:HybridLinearAttnBackend": ("linear_attn_backend", "token_to_kv_pool"),
    f"{_BACKEND}:MambaAttnBackendBase": ("req_to_token_pool", "forward_metadata"),
    "sglang.srt.mem_cache.memory_pool:HybridReqToTokenPool": ("mamba_pool", "mamba2_layer_index"),
    "sglang.srt.mem_cache.memory_pool:MambaPool": ("mamba_cache",),
    "sglang.srt.mem_cache.memory_pool:MambaPool.State": ("conv", "temporal"),
    # what answers HTTP
    f"{_MANAGER}:TokenizerManager": (
        *("mm_processor", "model_config", "context_len", "num_reserved_tokens", "tokenizer", "generate_request"),
    ),
    f"{_CHAT}:OpenAIServingChat": (
        *("tokenizer_manager", "template_manager", "reasoning_parser", "tool_call_parser", "_effective_tools"),
    ),
    "sglang.srt.managers.io_struct:GenerateReqInput": (
        *("text", "input_ids", "sampling_params", "image_data", "video_data", "audio_data", "mm_processor_kwargs"),
        *("use_audio_in_video", "video_config", "images_config", "contains_mm_input", "top_logprobs_num"),
        *("custom_logit_processor", "max_thinking_tokens"),
    ),
    "sglang.srt.multimodal.processors.base_processor:BaseMultimodalProcessor": (
        *("transport_mode", "skip_tokenizer_init", "_tokenizer", "_tokenizer_auto_adds_specials", "hf_config"),
    ),
    # what goes to the scheduler
    f"{_BATCH}:MultimodalDataItem": (
        *("modality", "feature", "offsets", "model_specific_data", "set_identity", "padding_sequence"),
    ),
    "sglang.srt.managers.mm_utils:ShmPointerMMData": (
        *("_shm_handle", "tensor", "_materialization_error", "shape", "dtype", "precomputed_hash", "shm_name"),
    ),
    # thinking budgets
    f"{_BATCH}:Req": (
        *("sampling_params", "grammar", "finished", "to_finish", "set_finish_with_abort"),
        "origin_input_ids_unpadded",
    ),
    "sglang.srt.sampling.sampling_params:SamplingParams": ("custom_params",),
    "sglang.srt.constrained.grammar_manager:GrammarManager": ("scheduler", "grammar_backend"),
    "sglang.srt.constrained.reasoner_grammar_backend:ReasonerGrammarObject": ("tokens_in_think", "tokens_after_end"),
}


def differences(wraps: Iterable[Wrap] = (), fields: dict[str, tuple[str, ...]] | None = None) -> list[str]:
    """How the installed SGLang differs from what we take for granted; a line each, none if all is well."""
    found = [f"{name}: {problem}" for name, problem in _missing_names()]
    for wrap in wraps:
        found += _wrong_signature(wrap)
    for place, wanted in (FIELDS if fields is None else fields).items():
        found += _missing_fields(place, wanted)
    return [*found, *_wrong_calls()]


def taken_names() -> Iterator[tuple[str, str]]:
    """(module, name) of everything that this room takes from SGLang."""
    for file in sorted(Path(__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("sglang."):
                yield from ((node.module or "", alias.name) for alias in node.names)


def _missing_names() -> Iterator[tuple[str, str]]:
    for module, name in taken_names():
        try:
            found = importlib.import_module(module)
        except ImportError as error:
            yield module, f"cannot be imported: {error}"
            continue
        if not hasattr(found, name) and not _is_submodule(f"{module}.{name}"):
            yield module, f"has no {name}"


def _is_submodule(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def _wrong_signature(wrap: Wrap) -> list[str]:
    place = wrap.places()[0]
    method = getattr(place, wrap.name, None)
    if method is None:
        return [f"{wrap.label} is gone"]
    parameters = [name for name in inspect.signature(inspect.unwrap(method)).parameters if name != "self"]
    wanted = list(wrap.takes)
    if parameters[: len(wanted)] != wanted:
        return [f"{wrap.label} takes {parameters}, not {wanted}"]
    return []


def _missing_fields(place: str, wanted: tuple[str, ...]) -> list[str]:
    module, _, path = place.partition(":")
    try:
        owner = functools.reduce(getattr, path.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        return [f"{place}: {error}"]
    return [f"{place} has no {name}" for name in wanted if not _has(owner, name)]


def _has(owner: Any, name: str) -> bool:
    """Declared in the class, or set on itself by a method of it or of a base."""
    if hasattr(owner, name):
        return True
    bases = [base for base in owner.__mro__ if base.__module__.startswith("sglang.")]
    return any(
        name in vars(base).get("__annotations__", {}) or name in _own_attributes(base.__module__)[base.__qualname__]
        for base in bases
    )


@functools.cache
def _own_attributes(module: str) -> dict[str, set[str]]:
    """The attributes of `self` in the source of each class of a module."""
    source = inspect.getsource(importlib.import_module(module))
    found: dict[str, set[str]] = {}

    def collect(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                found[prefix + child.name] = {
                    each.attr
                    for each in ast.walk(child)
                    if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name) and each.value.id == "self"
                }
                collect(child, f"{prefix}{child.name}.")

    collect(ast.parse(source), "")
    return found


def _wrong_calls() -> Iterator[str]:
    """Calls of this package's whose arguments the installed function does not take."""
    package = Path(__file__).parents[1]
    for file in sorted(package.rglob("*.py")):
        tree = ast.parse(file.read_text())
        taken = {
            alias.asname or alias.name: f"{node.module}:{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(_NAMES)
            for alias in node.names
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in taken:
                problem = _wrong_call(node, taken[node.func.id])
                if problem is not None:
                    yield f"{file.relative_to(package)}:{node.lineno} calls {node.func.id}: {problem}"


def _wrong_call(call: ast.Call, place: str) -> str | None:
    module, _, name = place.partition(":")
    called = getattr(importlib.import_module(module), name, None)
    unpacked = any(isinstance(arg, ast.Starred) for arg in call.args) or any(not word.arg for word in call.keywords)
    try:
        signature = inspect.signature(called)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        # gone, which the names say, or a class without a signature of its own
        return None
    bind = signature.bind_partial if unpacked else signature.bind
    given = [arg for arg in call.args if not isinstance(arg, ast.Starred)]
    try:
        bind(*given, **{word.arg: word.value for word in call.keywords if word.arg})
    except TypeError as error:
        return str(error)
    return None
