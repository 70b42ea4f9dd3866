"""How many requests fit a piece of memory, and how states and KV pages share it: a layout and counts in, counts out.

Pure arithmetic over `StateLayout`, with SGLang 0.5.23's own counts: this file must never know torch, SGLang, a device
or an allocation. All bytes are of one rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sglang_nemotron.state.layout import StateLayout

# mem_cache/kv_cache_configurator.py, _calculate_mamba_ratio: a request's own state, the cached state that it was
# matched with, and the one that it gives to the cache in exchange
_ADMISSION_SLOTS = 3
# the same file: with SGLANG_OPT_MAMBA_SKIP_DECODE_LOCK a cached state may go once its request has copied it
_NOT_LOCKED = 1

# of the device's memory: what the cache of embeddings may take when the user says nothing
_LEAST_SHARE, _MOST_SHARE = 0.01, 0.05

# what CUDA, the driver and torch hold before the first weight, and what loading leaves beside the weights at most, MiB:
# 143,771 in all and 139.11 GiB free on an H200 (benchmarks/gpu_server_h200_bf16.log), 0.22 GiB for Omni (docs/plan.md)
HELD_MIB, LOADED_MIB = 1_322, 225

# of a start: the hint by which ours divides the memory
REQUEST_TOKENS = "SGLANG_NEMOTRON_REQUEST_TOKENS"
# ours, where states are there to be shared by a hint
LAZY = "extra_buffer_lazy"
STRATEGIES = ("no_buffer", "extra_buffer", LAZY)


def pools_budget(total_mib: float, *, fraction: float, weight_bytes: float) -> float:
    """Bytes that SGLang will leave to both pools on a GPU of `total_mib`, about, before anything is loaded.

    fraction: `--mem-fraction-static`, of what is free before the weights. May be negative.
    """
    return (total_mib - HELD_MIB) * 2**20 * fraction - weight_bytes - LOADED_MIB * 2**20


def choose_strategy(*, overlap: bool, has_states: bool, ours: bool, page_size: int = 1) -> str:
    """`--mamba-radix-cache-strategy` where the prefix cache is on and the user says nothing.

    overlap: whether the overlap schedule runs. ours: whether our choices apply to this server (host/slots.py says
    when); else it is SGLang's own, of `_mamba_radix_cache_resolution` in arg_groups/overrides.py.
    """
    if ours and overlap and has_states:
        return LAZY
    return "extra_buffer" if overlap or page_size > 1 else "no_buffer"


def skips_decode_lock(strategy: str | None) -> bool:
    """Whether cached states may go once their request has copied them, where the user says nothing: only the lazy
    strategy can do with that many slots.
    """
    return strategy == LAZY


def slots_per_request(strategy: str | None, *, overlap: bool = True, skip_decode_lock: bool = False) -> int:
    """State slots that SGLang counts for each request that runs; it runs as many as the pool has whole sets of these.

    strategy: of `--mamba-radix-cache-strategy`, or None where the prefix cache is off. Raises ValueError for another
    one, and for the lazy one without overlap, which SGLang refuses.
    """
    if strategy is None:
        return 1
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy={strategy!r} is not supported; allowed: {', '.join(STRATEGIES)}")
    if strategy == "no_buffer":
        # the prefill needs all three, whatever is locked later
        return _ADMISSION_SLOTS
    if strategy == LAZY and not overlap:
        raise ValueError("extra_buffer_lazy needs the overlap schedule; drop --disable-overlap-schedule")
    # mem_cache/allocation_sizing.py: where states are copied to while a request runs; the lazy strategy takes a second
    # one only for the step that fills it, if one is free
    tracking = 2 if strategy == "extra_buffer" and overlap else 1
    return _ADMISSION_SLOTS - (_NOT_LOCKED if skip_decode_lock else 0) + tracking


@dataclass(frozen=True, slots=True)
class Need:
    """What one request takes while it runs: whole slots, and KV entries for prompt and answer together."""

    slots: int
    tokens: int

    def bytes_in(self, layout: StateLayout) -> int:
        return layout.total_bytes(num_slots=self.slots, num_tokens=self.tokens)


@dataclass(frozen=True, slots=True)
class Pools:
    """What a server has: slots and KV entries that requests may use; padding comes on top.

    num_slots, num_tokens: `max_mamba_cache_size` and `max_total_num_tokens` in SGLang's log.
    """

    num_slots: int
    num_tokens: int
    page_size: int = 1

    def state_bytes(self, layout: StateLayout) -> int:
        """One slot more is allocated, which padded rows write to."""
        return layout.total_bytes(num_slots=self.num_slots + 1, num_tokens=0)

    def kv_bytes(self, layout: StateLayout) -> int:
        """One page more is allocated, which padded rows write to."""
        return layout.total_bytes(num_slots=0, num_tokens=self.num_tokens + self.page_size)

    def requests(self, need: Need) -> int:
        """How many such requests run at once."""
        by_tokens = self.num_tokens // need.tokens if need.tokens else self.num_slots
        return min(self.num_slots // need.slots, by_tokens)


def pools_of(layout: StateLayout, budget: float, ratio: float, *, page_size: int = 1) -> Pools:
    """What SGLang makes of `budget` bytes and `--mamba-full-memory-ratio`, padding of the states included.

    Source: `_handle_max_mamba_cache` in mem_cache/kv_cache_configurator.py. The page of padding is not part of the
    budget there. Raises ValueError if a model has no state or no KV entry, which needs no ratio, or nothing fits.
    """
    if not layout.bytes_per_slot or not layout.kv_bytes_per_token:
        raise ValueError("a ratio divides memory between states and KV entries; this layout has only one of them")
    slots = int((budget * ratio / (1 + ratio) - layout.bytes_per_slot) // layout.bytes_per_slot)
    if slots < 1:
        raise ValueError(f"budget={budget} bytes with ratio={ratio} hold no state of {layout.bytes_per_slot} bytes")
    rest = budget - (slots + 1) * layout.bytes_per_slot
    tokens = int(rest // layout.kv_bytes_per_token) // page_size * page_size
    return Pools(slots, tokens, page_size)


def share_of_states(
    layout: StateLayout,
    need: Need,
    *,
    budget: float | None = None,
    most_requests: int | None = None,
    least_tokens: int = 0,
) -> float:
    """The part of the memory, 0 to 1, that states should have so that most requests like `need` run at once.

    budget: bytes of both pools, if known. With it, no more requests are counted on than `most_requests`, what is left
    goes to cached prefixes, each one state and its KV entries, and the KV pool gets at least `least_tokens` (one
    request of the longest kind must fit), though never more than half of the memory for that reason alone.
    """
    slot, token = layout.bytes_per_slot, layout.kv_bytes_per_token
    whole = need.bytes_in(layout)
    if not whole:
        return 0.0
    if budget is None:
        return need.slots * slot / whole
    running = budget / whole if most_requests is None else min(budget / whole, most_requests)
    cached = (budget - running * whole) / max(slot + need.tokens * token, 1)
    states = (running * need.slots + cached) * slot
    most = budget - min(least_tokens * token, budget / 2)
    return min(states, most) / budget


def choose_ratio(
    layout: StateLayout, need: Need, *, budget: float | None, most_requests: int | None, context_tokens: int
) -> float | None:
    """`--mamba-full-memory-ratio` by our choice, so that most requests like `need` run at once.

    budget: bytes of both pools as far as they are known before weights are loaded (`pools_budget`); None, or below 0,
    leaves the hint alone to divide. context_tokens: of the longest request, which shall fit. None where a model has one
    pool alone.
    """
    if not layout.bytes_per_slot or not layout.kv_bytes_per_token:
        return None
    known = budget if budget is not None and budget > 0 else None
    share = share_of_states(
        layout,
        need,
        budget=known,
        most_requests=None if known is None else most_requests,
        least_tokens=context_tokens,
    )
    return ratio_of(share)


def ratio_of(share: float) -> float:
    """`--mamba-full-memory-ratio` for this share below 1, in digits that people can read."""
    return float(f"{share / (1 - share):.5g}")


def cache_megabytes(context_tokens: int, token_bytes: int, device_megabytes: float) -> int:
    """Room for one request that is all media, and for a hundredth of the device's memory, but never over a twentieth.

    An embedding that does not fit is computed again for every chunk of its prompt.
    """
    whole_context = context_tokens * token_bytes / 2**20
    wanted = max(whole_context, _LEAST_SHARE * device_megabytes)
    return math.ceil(min(wanted, _MOST_SHARE * device_megabytes))
