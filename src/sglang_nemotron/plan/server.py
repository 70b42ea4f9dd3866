"""What SGLang 0.5.23 makes of a GPU's memory at start: a GPU, a checkpoint and flags in, sizes of pools out.

SGLang's rules as arithmetic; tests/plan calls SGLang's own functions with planted memory and compares, and compares
with servers that ran. Nothing here may know a device. GiB where nothing else is said, of one rank.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import pairwise

from sglang_nemotron.plan.gpus import Gpu
from sglang_nemotron.plan.models import Model
from sglang_nemotron.plan.weights import parts_of
from sglang_nemotron.state.capacity import (
    LAZY,
    Need,
    Pools,
    cache_megabytes,
    choose_ratio,
    choose_strategy,
    pools_budget,
    pools_of,
    skips_decode_lock,
    slots_per_request,
)
from sglang_nemotron.state.dtypes import kv_dtype_of
from sglang_nemotron.state.layout import StateLayout, state_layout

GIB = 2**30
# the parts of memory that "Load weight end" counts
_LOADED = ("weights", "towers", "loading")

# arg_groups/memory_hook.py, handle_gpu_memory_settings: memory below this (MiB) -> tokens of a prefill chunk, largest
# batch of the CUDA graphs with less than four ranks, and with more
_CLASSES = (
    (20 * 1024, 2048, 8, 8),
    (35 * 1024, 4096, 48, 160),
    (60 * 1024, 4096, 32, 160),
    (90 * 1024, 8192, 256, 512),
    (160 * 1024, 8192, 256, 512),
    (float("inf"), 16384, 512, 512),
)
# the same: adjust_mem_fraction_for_vlm, for a tower that says neither layers nor width where it looks, as ours does not
_WITH_TOWERS = 0.95
# slots that a running request copies its state to (mem_cache/allocation_sizing.py), of those in state/capacity.py
_TRACKING = {"extra_buffer": 2, LAZY: 1}
# mamba_full_memory_ratio where nobody says one
_SGLANGS_RATIO = 0.9
# mem_cache/kv_cache_configurator.py, resolve_max_num_reqs
_FEWEST_REQUESTS, _MOST_REQUESTS, _TOKENS_A_CONTEXT = 2048, 4096, 512

# beside the bytes of a checkpoint, "Load weight end" of servers on an H200 counts (rounding, kernels): GiB by
# (Omni?, quantised?), sources in docs/plan.md
_LOADED_BESIDE = {(False, False): 0.10, (False, True): 0.13, (True, False): 0.22}
# between "Memory pool end" and "Capture begin" on an H200: benchmarks/gpu_server_h200_bf16.log
_WORKSPACE = 0.38
# largest batch that has a CUDA graph -> GiB of all graphs, on an H200: that log, and benchmarks/gpu_load.json
_GRAPHS = ((138, 0.39), (256, 0.57), (444, 0.94))


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What a server is started with, as far as memory depends on it; None and the defaults are what SGLang chooses.

    request_tokens: SGLANG_NEMOTRON_REQUEST_TOKENS. graphs_to: --cuda-graph-max-bs-decode. context: tokens of the
    longest request, --context-length.
    """

    tp_size: int = 1
    context: int
    request_tokens: int | None = None
    max_running_requests: int | None = None
    graphs_to: int | None = None
    mem_fraction: float | None = None
    kv_dtype: str | None = None
    ssm_dtype: str | None = None
    radix_cache: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One start by arithmetic, one rank. memory: GiB by part, in the order in which it is taken; they add up to the
    GPU's. pools: None where the weights leave no room for them. reason: why none starts."""

    flags: Flags
    layout: StateLayout
    memory: dict[str, float]
    mem_fraction: float
    chunk_tokens: int
    graphs_to: int
    strategy: str | None
    slots_each: int
    ratio: float | None
    pools: Pools | None
    max_running_requests: int
    embedding_cache_mb: int
    free_measured: bool
    reason: str | None = None

    @property
    def starts(self) -> bool:
        """Whether it has room for a request and for activations."""
        return self.reason is None

    def at_once(self, tokens: int) -> int:
        """How many requests of so many tokens, prompt and answer together, run at once."""
        if self.pools is None:
            return 0
        return min(self.max_running_requests, self.pools.num_tokens // tokens)

    def slots_by_use(self) -> dict[str, int]:
        """State slots when as many requests run as may: their own, those that they copy to, and what is left for cached
        prefixes, of which each request holds the one that it started from."""
        pools = self.pools or Pools(0, 0)
        running = min(self.max_running_requests, pools.num_slots)
        tracking = running * _TRACKING.get(self.strategy or "", 0)
        cached = pools.num_slots - running - tracking
        return {"running": running, "tracking": tracking, "cached": cached, "padding": 1 if self.pools else 0}

    @property
    def captured_to(self) -> int:
        """The largest batch that gets a CUDA graph: none is made for more requests than run."""
        return min(self.graphs_to, self.max_running_requests)

    def as_reported(self) -> dict[str, float | int | None]:
        """The figures that a server logs or answers under these names, GB as SGLang writes it for GiB."""
        pools, layout = self.pools or Pools(0, 0), self.layout
        free = sum(self.memory.values()) - self.memory["CUDA and driver"]
        taken = sum(self.memory[part] for part in (*_LOADED, "state slots", "KV pages", "request table"))
        graphs = self.memory["CUDA graphs"]
        return {
            "mem_fraction_static": round(self.mem_fraction, 6),
            "chunked_prefill_size": self.chunk_tokens,
            "cuda_graph_max_bs": self.captured_to,
            "free_before_weights_gb": round(free, 3),
            "weights_gb": round(sum(self.memory[part] for part in _LOADED), 3),
            "max_mamba_cache_size": pools.num_slots,
            "states_gb": round(pools.state_bytes(layout) / GIB, 3),
            "max_total_num_tokens": pools.num_tokens,
            "kv_gb": round(pools.kv_bytes(layout) / GIB, 3),
            "free_after_pools_gb": round(free - taken, 3),
            "graphs_gb": round(graphs, 3) if graphs else None,
            "max_running_requests": self.max_running_requests,
            "context_len": self.flags.context,
        }

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return {
            "flags": asdict(self.flags),
            "memory_gib": {part: round(size, 3) for part, size in self.memory.items()},
            "strategy": self.strategy,
            "slots_per_request": self.slots_each,
            "slots": self.slots_by_use(),
            "mamba_full_memory_ratio": self.ratio,
            "slot_mib": round(self.layout.bytes_per_slot / 2**20, 3),
            "token_kib": round(self.layout.kv_bytes_per_token / 2**10, 3),
            "kv_dtype": self.layout.kv_dtype,
            "ssm_dtype": self.layout.ssm_dtype,
            "embedding_cache_mb": self.embedding_cache_mb,
            "free_before_weights_measured": self.free_measured,
            "reported": self.as_reported(),
            "reason": self.reason,
        }


def of_class(gpu_mib: float, tp_size: int) -> tuple[int, int]:
    """(tokens of a prefill chunk, largest batch of the CUDA graphs) by a GPU's memory."""
    _, chunk, few, many = next(row for row in _CLASSES if gpu_mib < row[0])
    return chunk, few if tp_size < 4 else many


def prefill_buckets(chunk: int) -> int:
    """How many sizes of prefill graphs SGLang counts memory for: generate_prefill_cuda_graph_batch_sizes."""
    sizes = (*range(4, 33, 4), *range(48, 257, 16), *range(288, 513, 32), *range(576, 1025, 64))
    sizes += (*range(1280, 4097, 256), *range(4608, chunk + 1, 512))
    return sum(size <= chunk for size in sizes)


def mem_fraction_of(gpu_mib: float, *, tp_size: int, chunk: int, graphs_to: int, has_towers: bool) -> float:
    """`--mem-fraction-static` where nobody gives one."""
    # prefill graphs are counted for text, and then not made; they are off for what sees media
    reserved = 512 + max(chunk, 2048) * 1.5 + tp_size / 8 * 1024 + graphs_to * 2
    reserved += 0 if has_towers else prefill_buckets(chunk) * 8
    if gpu_mib > 60 * 1024:
        reserved = max(reserved, 10 * 1024)
    share = round((gpu_mib - reserved) / gpu_mib, 3)
    return share * _WITH_TOWERS if has_towers else share


def start(gpu: Gpu, model: Model, flags: Flags) -> Server:
    """The server that these flags start on one or more such GPUs. ValueError for a split that does not divide."""
    layout = state_layout(
        model.decoder,
        tp_size=flags.tp_size,
        conv_dtype=model.dtype,
        ssm_dtype=flags.ssm_dtype or model.decoder.ssm_dtype,
        kv_dtype=kv_dtype_of(flags.kv_dtype, model.dtype, model.stored_kv),
    )
    has_towers = model.omni is not None
    chunk, graphs_to, share = _shares(gpu, flags, has_towers)
    cache_mb = 0
    if has_towers:
        token_bytes = model.decoder.hidden_size * (4 if model.dtype == "float32" else 2)
        cache_mb = cache_megabytes(flags.context, token_bytes, gpu.total_mib)
    strategy, slots_each = _strategy(flags, layout)
    ratio = _ratio(gpu, model, flags, layout, share, slots_each)
    free_mib, free_measured = gpu.free_before_weights(flags.tp_size)
    memory = _before_pools(gpu, model, flags.tp_size, free_mib)
    loaded = sum(memory[part] for part in _LOADED) + cache_mb / 1024
    # a card that has nothing to give has a share below 0 as well
    rest = max(free_mib, 0) / 1024 * max(share, 0) - loaded
    pools = _pools(layout, rest, flags, ratio)
    most = requests_of(flags, pools, layout, slots_each)
    memory |= _after_weights(layout, pools, flags.context, most, cache_mb, graphs_to)
    left = gpu.total_mib / 1024 - sum(memory.values())
    memory["left for activations"] = left
    return Server(
        flags=flags,
        layout=layout,
        memory=memory,
        mem_fraction=share,
        chunk_tokens=chunk,
        graphs_to=graphs_to,
        strategy=strategy,
        slots_each=slots_each,
        ratio=ratio,
        pools=pools,
        max_running_requests=most,
        embedding_cache_mb=cache_mb,
        free_measured=free_measured,
        reason=_why_not(flags, share, loaded, rest, left, slots_each, starts=most > 0),
    )


def least_mem_fraction(gpu: Gpu, model: Model, flags: Flags, tokens: int) -> float | None:
    """The least hundredth of `--mem-fraction-static` with which a request of so many tokens runs; None if none does."""

    def made(hundredths: int) -> Server:
        return start(gpu, model, replace(flags, mem_fraction=hundredths / 100))

    # what runs with a share runs with a larger one, until nothing is left for activations
    least = bisect_left(range(1, 100), True, key=lambda hundredths: made(hundredths).at_once(tokens) > 0) + 1
    return least / 100 if least < 100 and made(least).starts else None


def mem_fraction_without_towers(gpu: Gpu, flags: Flags) -> float:
    """The share that SGLang would choose for a model without towers: activations keep what they have there."""
    return _shares(gpu, replace(flags, mem_fraction=None), has_towers=False)[2]


def _shares(gpu: Gpu, flags: Flags, has_towers: bool) -> tuple[int, int, float]:
    """(tokens of a prefill chunk, largest batch of the CUDA graphs, share of memory for weights and pools)."""
    chunk, graphs_to = of_class(gpu.total_mib, flags.tp_size)
    if flags.graphs_to is not None:
        graphs_to = flags.graphs_to
    elif flags.max_running_requests is not None:
        graphs_to = min(graphs_to, flags.max_running_requests)
    share = flags.mem_fraction
    if share is None:
        sizes = {"tp_size": flags.tp_size, "chunk": chunk, "graphs_to": graphs_to, "has_towers": has_towers}
        share = mem_fraction_of(gpu.total_mib, **sizes)
    return chunk, graphs_to, share


def _why_not(
    flags: Flags, share: float, loaded: float, rest: float, left: float, slots_each: int, *, starts: bool
) -> str | None:
    """Why no server starts with `rest` GiB for pools and `left` for activations; None if one does."""
    if rest <= 0 and flags.mem_fraction is not None:
        return f"--mem-fraction-static {share:g} gives {loaded + rest:.1f} GiB, and the weights take {loaded:.1f}"
    if rest <= 0:
        return f"the weights need {-rest:.1f} GiB more than SGLang gives them and the pools"
    if not starts:
        return f"{rest:.2f} GiB are left for states and KV entries, and one request takes {slots_each} state slots"
    if left <= 0:
        whose = "--mem-fraction-static" if flags.mem_fraction is not None else "SGLang's own share,"
        return f"{whose} {share:g} leaves nothing for activations"
    return None


def _strategy(flags: Flags, layout: StateLayout) -> tuple[str | None, int]:
    """Of the prefix cache, and slots a request: as on a GPU, where our choices apply once the hint is given."""
    if not flags.radix_cache:
        return None, slots_per_request(None)
    hinted = flags.request_tokens is not None
    strategy = choose_strategy(overlap=True, has_states=layout.bytes_per_slot > 0, ours=hinted)
    return strategy, slots_per_request(strategy, skip_decode_lock=skips_decode_lock(strategy))


def _ratio(gpu: Gpu, model: Model, flags: Flags, layout: StateLayout, share: float, slots_each: int) -> float | None:
    """`--mamba-full-memory-ratio`: ours for the hint, else SGLang's; None where it divides nothing."""
    if flags.request_tokens is not None:
        return choose_ratio(
            layout,
            Need(slots_each, flags.request_tokens),
            budget=pools_budget(gpu.total_mib, fraction=share, weight_bytes=model.file_bytes / flags.tp_size),
            most_requests=flags.max_running_requests,
            context_tokens=flags.context,
        )
    return _SGLANGS_RATIO if layout.bytes_per_slot and layout.kv_bytes_per_token else None


# a plan tries many flags on the same split, and there are thousands of tensors
@lru_cache(maxsize=64)
def _parts(model: Model, tp_size: int) -> dict[str, int]:
    return parts_of(model.tensors, model.decoder, model.omni, tp_size)


def _before_pools(gpu: Gpu, model: Model, tp_size: int, free_mib: float) -> dict[str, float]:
    parts = _parts(model, tp_size)
    beside = _LOADED_BESIDE.get((model.omni is not None, model.quantization != "none"), max(_LOADED_BESIDE.values()))
    return {
        "CUDA and driver": (gpu.total_mib - free_mib) / 1024,
        "weights": parts["weights"] / GIB,
        "towers": parts["towers"] / GIB,
        "loading": beside,
    }


def _after_weights(
    layout: StateLayout, pools: Pools | None, context: int, most: int, cache_mb: int, graphs_to: int
) -> dict[str, float]:
    """What is taken once weights are there. Graphs beyond the measured sizes stay in what is left."""
    return {
        "state slots": pools.state_bytes(layout) / GIB if pools else 0.0,
        "KV pages": pools.kv_bytes(layout) / GIB if pools else 0.0,
        # one row of 4-byte places for each request that may run
        "request table": most * context * 4 / GIB,
        "embedding cache": cache_mb / 1024,
        "workspace": _WORKSPACE,
        "CUDA graphs": graphs_gib(min(graphs_to, most)) or 0.0,
    }


def graphs_gib(largest: int) -> float | None:
    """All CUDA graphs of batches up to this one, between those that were measured; None below and above them."""
    for (few, less), (many, more) in pairwise(_GRAPHS):
        if few <= largest <= many:
            return less + (more - less) * (largest - few) / (many - few)
    return None


def _pools(layout: StateLayout, rest: float, flags: Flags, ratio: float | None) -> Pools | None:
    """Both pools in `rest` GiB, or None where there is too little for them."""
    if rest <= 0:
        return None
    budget = rest * GIB
    fixed = not flags.radix_cache and flags.max_running_requests is not None
    if fixed or ratio is None:
        # every request has its one slot
        slots = (flags.max_running_requests or _FEWEST_REQUESTS) if layout.bytes_per_slot else 0
        left = budget - (slots + 1) * layout.bytes_per_slot
        tokens = int(left // layout.kv_bytes_per_token) if layout.kv_bytes_per_token else flags.context
        pools = Pools(slots, tokens)
    else:
        try:
            pools = pools_of(layout, budget, ratio)
        except ValueError:
            return None
    return pools if pools.num_slots > 0 and pools.num_tokens > 0 else None


def requests_of(flags: Flags, pools: Pools | None, layout: StateLayout, slots_each: int) -> int:
    """`max_running_requests` as a server reports it."""
    if pools is None:
        return 0
    by_context = int(pools.num_tokens / flags.context * _TOKENS_A_CONTEXT)
    most = flags.max_running_requests or max(min(by_context, _MOST_REQUESTS), _FEWEST_REQUESTS)
    most = min(most, pools.num_tokens // 2)
    return min(most, pools.num_slots // slots_each) if layout.bytes_per_slot else most
