"""How a server of ours spends memory on states where its user left that open: the prefix cache's strategy, whether
cached states stay locked while their request decodes, and the split between states and KV pages.

In: SGLang's arguments and the layout; out: fields to set, and one variable for the schedulers. Runs in the main process
before any scheduler; touches no device. docs/state.md has the arithmetic and what was shown of each choice.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from sglang_nemotron.config import hub
from sglang_nemotron.sglang_api.args import envs, get_device_memory_capacity, get_platform
from sglang_nemotron.state.capacity import (
    LAZY,
    REQUEST_TOKENS,
    Need,
    choose_ratio,
    choose_strategy,
    pools_budget,
    skips_decode_lock,
    slots_per_request,
)
from sglang_nemotron.state.layout import StateLayout

logger = logging.getLogger(__name__)

# prompt and answer of a typical request; docs/state.md says what other lengths then get
_REQUEST_TOKENS = 4_096

# (field, its value where the user said nothing): with any of these, SGLang's own choices stay, because nobody has shown
# that ours are right there
_UNPROVED: tuple[tuple[str, Any], ...] = (
    ("pp_size", 1),
    ("attn_dp_size", 1),
    ("disaggregation_mode", "null"),
    ("enable_hierarchical_cache", False),
    ("enable_lmcache", False),
    ("enable_flexkv", False),
    ("radix_cache_backend", None),
    ("enable_session_radix_cache", False),
    ("enable_streaming_session", False),
)

# whether an earlier start in this process set the variable: then it is not the user's
_set_by_us = False


def choose(view: Any, layout: StateLayout, *, ratio_given: bool, context_tokens: int) -> dict[str, Any]:
    """The fields to set. `ratio_given`: whether the user gave `--mamba-full-memory-ratio`; `context_tokens`: of the
    longest request. Raises ValueError for a hint that is no number of tokens.
    """
    strategy = strategy_of(view, layout)
    chosen: dict[str, Any] = {}
    if strategy == LAZY and view.mamba_radix_cache_strategy == "auto":
        chosen["mamba_radix_cache_strategy"] = strategy
    skips = skip_decode_lock(strategy)
    if skips and strategy == "extra_buffer":
        raise ValueError(
            f"{envs.SGLANG_OPT_MAMBA_SKIP_DECODE_LOCK.name} is set, and the strategy of the prefix cache is "
            "extra_buffer: SGLang then ends when slots run out, because a prefill may need one more than it counts on; "
            "unset the variable, or add --mamba-radix-cache-strategy extra_buffer_lazy"
        )
    need = need_of(view, strategy, skips=skips)
    if not unproved(view) and not ratio_given and view.max_mamba_cache_size is None:
        ratio = choose_ratio(
            layout,
            need,
            budget=_budget(view),
            most_requests=view.max_running_requests,
            context_tokens=context_tokens,
        )
        chosen |= {} if ratio is None else {"mamba_full_memory_ratio": ratio}
    if chosen:
        logger.info(
            "state cache: %s, %s: %d state slots a request; %s (%s sets the hint, SGLang's own flags win)",
            strategy,
            "a cached state may go once its request has copied it" if skips else "cached states locked while in use",
            need.slots,
            f"--mamba-full-memory-ratio {chosen['mamba_full_memory_ratio']} from {need.tokens} tokens a request"
            if "mamba_full_memory_ratio" in chosen
            else "sizes of the pools as given",
            REQUEST_TOKENS,
        )
    return chosen


def strategy_of(view: Any, layout: StateLayout) -> str | None:
    """The strategy of the prefix cache that this server will run; None without one."""
    if view.disable_radix_cache:
        return None
    given = view.mamba_radix_cache_strategy
    if given != "auto":
        return given
    return choose_strategy(
        overlap=overlap(view),
        has_states=layout.bytes_per_slot > 0,
        ours=not unproved(view),
        page_size=view.page_size or 1,
    )


def overlap(view: Any) -> bool:
    """Whether the overlap schedule will run; SGLang turns it off for pipeline stages after our choice."""
    return not view.disable_overlap_schedule and view.pp_size == 1


def unproved(view: Any) -> list[str]:
    """The flags given with which SGLang's choices stay; on a GPU they stay too until the hint is given."""
    found = [name for name, unset in _UNPROVED if getattr(view, name, unset) not in (unset, None)]
    # shown on CPU servers so far, and a decode batch beyond SGLang's CUDA graphs would lose more than slots gain
    if get_platform().is_cuda and REQUEST_TOKENS not in os.environ:
        found.append(REQUEST_TOKENS)
    return found


def skip_decode_lock(strategy: str | None) -> bool:
    """Sets SGLang's variable for the lazy strategy, unless the user set it; whether it is on."""
    global _set_by_us
    variable = envs.SGLANG_OPT_MAMBA_SKIP_DECODE_LOCK
    if _set_by_us:
        os.environ.pop(variable.name, None)
        _set_by_us = False
    if not variable.is_set() and skips_decode_lock(strategy):
        os.environ[variable.name] = "1"
        _set_by_us = True
    return bool(variable.get())


def need_of(view: Any, strategy: str | None, *, skips: bool) -> Need:
    """What a typical request takes on this server."""
    slots = slots_per_request(strategy, overlap=overlap(view) or strategy == LAZY, skip_decode_lock=skips)
    return Need(slots, request_tokens())


def request_tokens() -> int:
    """The hint about the load: tokens of prompt and answer of a typical request."""
    said = os.environ.get(REQUEST_TOKENS)
    if said is None:
        return _REQUEST_TOKENS
    if not said.isdecimal() or int(said) < 1:
        raise ValueError(f"{REQUEST_TOKENS}={said!r} is not a number of tokens from 1 on")
    return int(said)


def _budget(view: Any) -> float | None:
    """Bytes that both pools will have on each rank, about; None if nobody can know before the weights are loaded."""
    capacity = get_device_memory_capacity(view.device) if get_platform().is_cuda else None
    if not capacity or not view.mem_fraction_static:
        return None
    folder = hub.local_folder(view.model_path, view.revision, view.download_dir)
    if folder is None or (hub.is_id(view.model_path) and hub.unfetched(folder)):
        return None
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / view.tp_size
    return pools_budget(capacity, fraction=view.mem_fraction_static, weight_bytes=weights)
