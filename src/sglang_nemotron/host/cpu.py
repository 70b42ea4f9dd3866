"""The CPU platform: stock SGLang serves without a GPU or a driver. It fills only what the user left unset.

Active only where nothing else can run (`platform.py: activate`). SGLang resolves the platform in the middle of its own
first imports, so this module imports nothing else of SGLang at the top.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import PlatformCapabilities, SRTPlatform

from sglang_nemotron.config.hub import local_folder
from sglang_nemotron.family import IN_MODEL_TYPES, STATE_DTYPES, TEXT_KEYS

if TYPE_CHECKING:
    from sglang_nemotron.state.layout import StateLayout

logger = logging.getLogger(__name__)

MEMORY_LIMIT = "SGLANG_NEMOTRON_CPU_MEMORY_GIB"
# how many ranks share the cores, for the processes that the main one starts
_RANKS = "SGLANG_NEMOTRON_CPU_RANKS"

# of the memory that is free at start, what the caches may take in all when the user sets no limit
_MEMORY_SHARE = 0.25
_MAX_TOKENS, _MIN_TOKENS = 262_144, 4_096
_MAX_SLOTS, _MIN_SLOTS, _FEWEST_SLOTS = 512, 32, 8
_MAX_RUNNING = 32
_CHUNKED_PREFILL = 4_096


class CpuPlatform(SRTPlatform):
    """SGLang's platform interface for plain host memory and torch's own CPU routines."""

    # out-of-tree on purpose: SGLang's own CPU platform asks for kernels that PyPI's sgl-kernel does not have
    _enum = PlatformEnum.OOT
    device_name = "cpu"
    device_type = "cpu"
    supported_quantization: list[str] = []
    capabilities = PlatformCapabilities()

    def get_device_total_memory(self, device_id: int = 0) -> int:
        return host_memory()[1]

    def get_current_memory_usage(self, device: torch.device | None = None) -> float:
        available, total = host_memory()
        return float(total - available)

    def get_available_memory(self, device_id: int = 0) -> tuple[int, int]:
        return host_memory()

    def get_device(self, device_id: int = 0) -> str:
        # a string: SGLang compares it with strings while it resolves arguments
        return "cpu"

    def set_device(self, device: torch.device) -> None:
        pass

    def get_device_name(self, device_id: int = 0) -> str:
        return "cpu"

    def get_device_uuid(self, device_id: int = 0) -> str:
        return "cpu"

    def get_device_capability(self, device_id: int = 0) -> None:
        return None

    def is_pin_memory_available(self, device: Any = None) -> bool:
        return False

    def get_torch_distributed_backend_str(self) -> str:
        return "gloo"

    def get_default_attention_backend(self) -> str:
        return "torch_native"

    def get_compile_backend(self, mode: str | None = None) -> str:
        return "eager"

    def get_dispatch_key_name(self) -> str:
        return "native"

    def get_torch_profiler_activity_str(self) -> str:
        return "CPU"

    def get_torch_profiler_activity(self) -> torch.profiler.ProfilerActivity:
        return torch.profiler.ProfilerActivity.CPU

    def support_mamba_cache_extra_buffer(self) -> bool:
        return True

    def get_quantization_config(self, quantization: str) -> type | None:
        """ModelOpt checkpoints are dequantised while loading; anything else is SGLang's to accept or refuse."""
        if not quantization.startswith("modelopt"):
            return None
        from sglang_nemotron.decoder.quantization import DequantisedConfig

        return DequantisedConfig

    def apply_server_args_defaults(self, server_args: Any) -> None:
        """Fills what the user left unset, for a host without an accelerator. User flags always win."""
        if server_args.moe_runner_backend == "auto":
            server_args.moe_runner_backend = "triton"
        if server_args.chunked_prefill_size is None:
            server_args.chunked_prefill_size = _CHUNKED_PREFILL
        _settle_gpu_choices(server_args)
        _limit_memory(server_args)
        _share_cores(server_args)

    def init_backend(self) -> None:
        """Runs in the scheduler, in the middle of importing SGLang's model runner."""
        from sglang_nemotron.host.platform import plain_pin_memory

        plain_pin_memory()

    def post_load_model(self, model: torch.nn.Module) -> None:
        """Each rank computes on its share of the cores; SGLang binds threads only with its own CPU kernels."""
        ranks = int(os.environ.get(_RANKS, "1"))
        threads = max(len(os.sched_getaffinity(0)) // ranks, 1)
        wanted = os.environ.get("OMP_NUM_THREADS", "")
        if wanted.isdecimal() and int(wanted) > 0:
            threads = int(wanted)
        torch.set_num_threads(threads)
        logger.info("CPU platform: %d threads for this rank of %d", threads, ranks)


def _settle_gpu_choices(server_args: Any) -> None:
    dtype = server_args.kv_cache_dtype
    if dtype not in (None, "auto", "bf16", *STATE_DTYPES):
        raise ValueError(
            f"--kv-cache-dtype {dtype} needs a GPU: the CPU platform keeps the KV cache in the model's dtype. "
            "Drop the flag here; it is honoured on CUDA."
        )
    if server_args.attention_backend == "intel_amx":
        # SGLang's default for a CPU, which needs kernels that PyPI's sgl-kernel does not have
        server_args.attention_backend = "torch_native"
    for flag in ("attention_backend", "prefill_attention_backend", "decode_attention_backend"):
        backend = getattr(server_args, flag)
        if backend not in (None, "torch_native"):
            raise ValueError(
                f"--{flag.replace('_', '-')} {backend} needs a GPU: the CPU platform has torch_native. "
                "Drop the flag here; it is honoured on CUDA."
            )


def host_memory(
    cgroup: Path = Path("/sys/fs/cgroup"), self_cgroup: Path = Path("/proc/self/cgroup")
) -> tuple[int, int]:
    """(bytes available, bytes in all): the host's, or a container's where its limit is smaller."""
    memory = psutil.virtual_memory()
    available, total = memory.available, memory.total
    for limit, used in _cgroup_limits(cgroup, self_cgroup):
        total = min(total, limit)
        available = min(available, max(limit - used, 0))
    return int(available), int(total)


def _cgroup_limits(root: Path, self_cgroup: Path) -> Iterator[tuple[int, int]]:
    """(limit, bytes in use) of this process's control groups, its own and those around it; v2 and v1 files."""
    try:
        lines = self_cgroup.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, files = root, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            base, files = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        group = base / path.lstrip("/")
        # inside a container the path of the host may not be visible; the mount's root then is the container's group
        for folder in {group, *group.parents}:
            if folder != base and base not in folder.parents:
                continue
            limit, used = (_number(folder / name) for name in files)
            if limit is not None and used is not None:
                yield limit, used - (_reclaimable(folder))


def _reclaimable(folder: Path) -> int:
    """Bytes of file cache that the kernel gives back under pressure; a group's usage counts them."""
    try:
        fields = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(fields.get("inactive_file", 0))


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        # absent here, or "max"
        return None


def _limit_memory(server_args: Any) -> None:
    """Explicit bounds on both caches, in place of SGLang's share of all host memory."""
    available, _ = host_memory()
    limit = os.environ.get(MEMORY_LIMIT)
    try:
        budget = int(float(limit) * 2**30) if limit else int(available * _MEMORY_SHARE)
    except ValueError:
        raise ValueError(f"{MEMORY_LIMIT}={limit!r} is not a number of GiB") from None
    if server_args.max_running_requests is None:
        server_args.max_running_requests = _MAX_RUNNING
    slots, tokens = _pool_sizes(server_args, budget)
    if server_args.max_mamba_cache_size is None and slots is not None:
        server_args.max_mamba_cache_size = slots
    if server_args.max_total_tokens is None:
        server_args.max_total_tokens = tokens
    logger.info(
        "CPU platform: caches bounded to %.1f GiB (%s sets it): %s tokens, %s state slots",
        budget / 2**30,
        MEMORY_LIMIT,
        server_args.max_total_tokens,
        server_args.max_mamba_cache_size,
    )


def _pool_sizes(server_args: Any, budget: int) -> tuple[int | None, int]:
    """(state slots, KV tokens) within `budget` bytes on all ranks together; no slots for a model without states."""
    # SGLang has read the config by now, so that an id's is in the cache
    folder = local_folder(server_args.model_path, getattr(server_args, "revision", None))
    path = Path(folder or server_args.model_path) / "config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    # another family's model starts whatever is wrong with what we know of ours
    if IN_MODEL_TYPES in str(config.get("model_type")).lower() and (layout := _own_layout(server_args, config)):
        return _own_sizes(server_args, layout, budget // server_args.tp_size, _context(server_args, config))
    heads = config.get("num_key_value_heads") or config.get("num_attention_heads") or 32
    head_dim = config.get("head_dim") or (config.get("hidden_size", 4096) // (config.get("num_attention_heads") or 32))
    token_bytes = 2 * 4 * heads * head_dim * config.get("num_hidden_layers", 32)
    if not config:
        # a name on the hub: wide guesses
        return max(min(_MAX_SLOTS, budget // 2 // (48 * 2**20)), _FEWEST_SLOTS), _bounded(budget // 2 // 16384)
    return None, _bounded(budget // 2 // token_bytes)


def _own_sizes(server_args: Any, layout: StateLayout, budget: int, context: int) -> tuple[int | None, int]:
    """`_pool_sizes` of a model that we serve, for one rank."""
    from sglang_nemotron.host import slots as choices
    from sglang_nemotron.state.capacity import share_of_states

    strategy = choices.strategy_of(server_args, layout)
    need = choices.need_of(server_args, strategy, skips=choices.skip_decode_lock(strategy))
    most = server_args.max_running_requests
    ratio = _given_ratio(server_args)
    if ratio is None:
        share = share_of_states(layout, need, budget=budget, most_requests=most, least_tokens=context)
    else:
        share = ratio / (1 + ratio)
    slots = server_args.max_mamba_cache_size
    if layout.bytes_per_slot and slots is None:
        # the pool has a slot more than it is asked for
        slots = min(_MAX_SLOTS, int(share * budget) // layout.bytes_per_slot - 1)
        if slots < min(_MIN_SLOTS, most * need.slots):
            # below this no few requests run at once; the user should know rather than wonder
            logger.warning("CPU platform: %d state slots fit %.1f GiB; raise %s", slots, budget / 2**30, MEMORY_LIMIT)
        slots = max(slots, _FEWEST_SLOTS)
    states = layout.bytes_per_slot * ((slots or 0) + 1)
    return slots, _bounded(max(budget - states, 0) // max(layout.kv_bytes_per_token, 1))


def _given_ratio(server_args: Any) -> float | None:
    """The user's `--mamba-full-memory-ratio`; the field itself shows SGLang's fallback where there is none."""
    return (getattr(server_args, "_raw_input", None) or {}).get("mamba_full_memory_ratio")


def _bounded(tokens: int) -> int:
    return max(min(_MAX_TOKENS, tokens), _MIN_TOKENS)


def _context(server_args: Any, config: dict[str, Any]) -> int:
    """Tokens of the longest request."""
    text = next((config[key] for key in TEXT_KEYS if isinstance(config.get(key), dict)), config)
    return server_args.context_length or text.get("max_position_embeddings") or _MIN_TOKENS


def _own_layout(server_args: Any, config: dict[str, Any]) -> StateLayout | None:
    """What a rank keeps of a model that we serve, else None."""
    from sglang_nemotron.config.decoder import decoder_spec, is_nano
    from sglang_nemotron.host.layouts import layout_of

    if is_nano(config) is not None:
        return None
    text = next((config[key] for key in TEXT_KEYS if isinstance(config.get(key), dict)), config)
    stored = next((part[key] for part in (text, config) for key in ("dtype", "torch_dtype") if part.get(key)), None)
    # a quantised checkpoint's wish for FP8 entries is not honoured here: `_settle_gpu_choices`
    return layout_of(server_args, decoder_spec(config), stored_dtype=stored)


def _share_cores(server_args: Any) -> None:
    """One slice of this process's cores for each rank, through the variable SGLang reads."""
    ranks = server_args.tp_size * server_args.pp_size * server_args.dp_size
    os.environ[_RANKS] = str(ranks)
    # a busy-polling scheduler and spinning OpenMP threads take the very cores that the work needs
    server_args.sleep_on_idle = True
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # with several ranks SGLang waits this long for CUDA core dumps of a rank that died, before it ends the server
    os.environ.setdefault("SGLANG_CUDA_COREDUMP_BEFORE_CRASH_WAIT_SECS", "0")
    if ranks == 1 or os.environ.get("SGLANG_CPU_OMP_THREADS_BIND"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < ranks:
        logger.warning("CPU platform: %d ranks share %d cores", ranks, len(cores))
    each = max(len(cores) // ranks, 1)
    slices = [[cores[(rank * each + i) % len(cores)] for i in range(each)] for rank in range(ranks)]
    os.environ["SGLANG_CPU_OMP_THREADS_BIND"] = "|".join(",".join(map(str, part)) for part in slices)
