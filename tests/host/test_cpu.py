"""The CPU platform: when it is active, what it fills in and what it leaves to the user, and the memory it may take."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from sglang.srt.arg_groups.overrides import record_foreign_defaults, resolving_view
from sglang.srt.server_args import prepare_server_args

from sglang_nemotron.checkpoint.spec import OMNI_PRESETS, PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.family import IN_MODEL_TYPES, OMNI_MODEL_TYPES, TEXT_MODEL_TYPES
from sglang_nemotron.host import cpu, platform
from sglang_nemotron.state.capacity import Pools

GIB = 2**30


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        platform.FORCE,
        cpu.MEMORY_LIMIT,
        "SGLANG_USE_CPU_ENGINE",
        "SGLANG_PLATFORM",
        "SGLANG_CPU_OMP_THREADS_BIND",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(cpu._RANKS, "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


# ---- active only where nothing else can run


def entry(name: str) -> Any:
    return SimpleNamespace(name=name)


def test_active_without_accelerator() -> None:
    assert platform.activate() == platform.CLASS_PATH


def test_invisible_beside_a_gpu_unless_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert platform.activate() is None
    monkeypatch.setenv(platform.FORCE, "1")
    assert platform.activate() == platform.CLASS_PATH


@pytest.mark.parametrize("device", ["xpu", "npu", "mps", "musa"])
def test_invisible_beside_another_accelerator(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, device, SimpleNamespace(is_available=lambda: True), raising=False)
    assert platform.activate() is None


def test_out_of_the_way_of_sglangs_cpu_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLANG_USE_CPU_ENGINE", "1")
    assert platform.activate() is None
    monkeypatch.setenv("SGLANG_USE_CPU_ENGINE", "0")
    assert platform.activate() == platform.CLASS_PATH


def test_out_of_the_way_of_another_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [entry("nemotron_cpu"), entry("other")]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found)
    assert platform.activate() is None
    # the user chose between the two
    monkeypatch.setenv("SGLANG_PLATFORM", "nemotron_cpu")
    assert platform.activate() == platform.CLASS_PATH
    monkeypatch.setenv("SGLANG_PLATFORM", "other")
    assert platform.activate() is None


# ---- defaults, where the user set nothing


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cpu") / "toy"
    write_checkpoint(PRESETS["toy"], folder)
    return folder


def arguments(toy: Path, **given: Any) -> SimpleNamespace:
    # the fields as SGLang leaves them for a user who set none
    fields = {
        "model_path": str(toy),
        "moe_runner_backend": "auto",
        "attention_backend": "intel_amx",
        "prefill_attention_backend": None,
        "decode_attention_backend": None,
        "chunked_prefill_size": None,
        "kv_cache_dtype": "auto",
        "max_running_requests": None,
        "max_mamba_cache_size": None,
        "max_total_tokens": None,
        "tp_size": 1,
        "pp_size": 1,
        "dp_size": 1,
        "attn_dp_size": 1,
        "dtype": "auto",
        "mamba_ssm_dtype": None,
        "context_length": None,
        "disable_radix_cache": False,
        "mamba_radix_cache_strategy": "auto",
        "disable_overlap_schedule": False,
        "page_size": None,
    }
    return SimpleNamespace(**{**fields, **given})


def apply(server_args: SimpleNamespace) -> SimpleNamespace:
    cpu.CpuPlatform().apply_server_args_defaults(server_args)
    return server_args


def test_defaults(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cpu.MEMORY_LIMIT, "4")
    args = apply(arguments(toy))
    assert (args.attention_backend, args.moe_runner_backend, args.chunked_prefill_size) == (
        "torch_native",
        "triton",
        4096,
    )
    assert (args.max_running_requests, args.max_mamba_cache_size, args.max_total_tokens) == (32, 512, 262_144)


def test_user_flags_win(toy: Path) -> None:
    given = {
        "moe_runner_backend": "cutlass",
        "attention_backend": "torch_native",
        "chunked_prefill_size": 64,
        "kv_cache_dtype": "bfloat16",
        "max_running_requests": 1024,
        "max_mamba_cache_size": 9,
        "max_total_tokens": 777,
    }
    args = apply(arguments(toy, **given))
    assert {name: getattr(args, name) for name in given} == given


@pytest.mark.parametrize("dtype", ["fp8_e4m3", "fp8_e5m2", "fp4_e2m1"])
def test_quantised_kv_cache_is_refused(toy: Path, dtype: str) -> None:
    with pytest.raises(ValueError, match=f"--kv-cache-dtype {dtype} needs a GPU.*Drop the flag"):
        apply(arguments(toy, kv_cache_dtype=dtype))


@pytest.mark.parametrize("flag", ["attention_backend", "prefill_attention_backend", "decode_attention_backend"])
def test_gpu_attention_is_refused(toy: Path, flag: str) -> None:
    with pytest.raises(ValueError, match=f"--{flag.replace('_', '-')} flashinfer needs a GPU"):
        apply(arguments(toy, **{flag: "flashinfer"}))


def test_ranks_share_the_cores(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {4, 5, 6, 7, 8})
    apply(arguments(toy, tp_size=2))
    assert os.environ["SGLANG_CPU_OMP_THREADS_BIND"] == "4,5|6,7"
    # more ranks than cores: slow, but served
    monkeypatch.delenv("SGLANG_CPU_OMP_THREADS_BIND")
    apply(arguments(toy, tp_size=2, pp_size=3))
    assert os.environ["SGLANG_CPU_OMP_THREADS_BIND"] == "4|5|6|7|8|4"
    monkeypatch.setenv("SGLANG_CPU_OMP_THREADS_BIND", "0|1")
    apply(arguments(toy, tp_size=2))
    assert os.environ["SGLANG_CPU_OMP_THREADS_BIND"] == "0|1"


# ---- memory


@pytest.mark.parametrize(("wanted", "threads"), [("3", 3), ("", 2), ("many", 2), ("0", 2)])
def test_a_users_thread_count_wins(wanted: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", said.append)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(4)))
    monkeypatch.setenv(cpu._RANKS, "2")
    monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    cpu.CpuPlatform().post_load_model(torch.nn.Linear(1, 1))
    assert said == [threads]


@pytest.mark.parametrize("tp_size", [1, 2])
@pytest.mark.parametrize("dtype", ["auto", "float32"])
@pytest.mark.parametrize("preset", ["toy", "omni"])
def test_memory_limit_bounds_both_caches(
    toy: Path, preset: str, dtype: str, tp_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the byte, padding of the states included, and for Omni as for text."""
    if preset == "omni":
        toy = tmp_path
        write_checkpoint(OMNI_PRESETS["toy"], toy)
    monkeypatch.setenv(cpu.MEMORY_LIMIT, "0.03")
    args = apply(arguments(toy, tp_size=tp_size, dtype=dtype, context_length=4096))
    config = json.loads((toy / "config.json").read_text())
    layout = cpu._own_layout(args, config)
    assert layout is not None and layout.conv_dtype == ("float32" if dtype == "float32" else "bfloat16")
    pools = Pools(args.max_mamba_cache_size, args.max_total_tokens, page_size=0)
    taken = pools.state_bytes(layout) + pools.kv_bytes(layout)
    assert taken <= 0.03 * GIB / tp_size
    full = (args.max_mamba_cache_size, args.max_total_tokens) == (512, 262_144)
    assert full or taken > 0.03 * GIB / tp_size - layout.bytes_per_slot - layout.kv_bytes_per_token


def test_the_platforms_requests_fit_where_there_is_room(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cpu.MEMORY_LIMIT, "0.2")
    args = apply(arguments(toy))
    assert args.max_mamba_cache_size >= 3 * args.max_running_requests


def test_the_users_split_wins(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As SGLang resolves it, where the field shows a fallback to whoever reads it."""
    monkeypatch.setenv(cpu.MEMORY_LIMIT, "0.01")

    def sizes(*flags: str) -> tuple[int, int]:
        server_args = prepare_server_args(["--model-path", str(toy), "--disable-radix-cache", *flags])
        server_args._raw_input = {"mamba_full_memory_ratio": server_args.mamba_full_memory_ratio}
        record_foreign_defaults(server_args, "test", cpu.CpuPlatform().apply_server_args_defaults)
        view = resolving_view(server_args)
        return view.max_mamba_cache_size, view.max_total_tokens

    even, ours, states = (
        sizes(*flags) for flags in (["--mamba-full-memory-ratio", "0.9"], [], ["--mamba-full-memory-ratio", "4"])
    )
    assert states[0] > even[0] and states[1] < even[1]
    assert ours not in (even, states)
    given = sizes("--max-mamba-cache-size", "20")
    assert given[0] == 20 and given[1] > even[1]


def test_few_slots_are_told(toy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv(cpu.MEMORY_LIMIT, "0.0001")
    assert apply(arguments(toy)).max_mamba_cache_size == 8
    assert f"state slots fit 0.0 GiB; raise {cpu.MEMORY_LIMIT}" in caplog.text


@pytest.mark.parametrize("config", [None, {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}])
def test_models_of_others_get_sizes_too(config: dict[str, Any] | None, tmp_path: Path) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    args = apply(arguments(tmp_path))
    assert args.max_total_tokens >= 4096 and (args.max_mamba_cache_size is None) == (config is not None)


def test_every_model_type_of_ours_is_of_the_family() -> None:
    assert all(IN_MODEL_TYPES in name.lower() for name in TEXT_MODEL_TYPES + OMNI_MODEL_TYPES)


def test_memory_limit_that_is_no_number(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cpu.MEMORY_LIMIT, "lots")
    with pytest.raises(ValueError, match=f"{cpu.MEMORY_LIMIT}='lots' is not a number of GiB"):
        apply(arguments(toy))


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=50 * GIB, total=64 * GIB))


def group(folder: Path, limit: str, used: int, reclaimable: int, names: tuple[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {reclaimable}\n")


V2 = ("memory.max", "memory.current")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def test_container_limit_counts(host: None, tmp_path: Path) -> None:
    root, mine = tmp_path / "cgroup", tmp_path / "self"
    assert cpu.host_memory(root, mine) == (50 * GIB, 64 * GIB)

    mine.write_text("0::/pod/container\n")
    group(root / "pod" / "container", str(8 * GIB), 3 * GIB, 1 * GIB, V2)
    assert cpu.host_memory(root, mine) == (6 * GIB, 8 * GIB)
    # the group around it is tighter
    group(root / "pod", str(5 * GIB), 4 * GIB, 0, V2)
    assert cpu.host_memory(root, mine) == (1 * GIB, 5 * GIB)


def test_container_that_sees_only_its_own_mount(host: None, tmp_path: Path) -> None:
    root, mine = tmp_path / "cgroup", tmp_path / "self"
    mine.write_text("4:cpu,cpuacct:/x\n3:memory:/docker/abc\n0::/\n")
    group(root / "memory", str(16 * GIB), 2 * GIB, 0, V1)
    assert cpu.host_memory(root, mine) == (14 * GIB, 16 * GIB)


def test_no_limit_is_no_limit(host: None, tmp_path: Path) -> None:
    root, mine = tmp_path / "cgroup", tmp_path / "self"
    mine.write_text("0::/\n")
    group(root, "max", 3 * GIB, 0, V2)
    assert cpu.host_memory(root, mine) == (50 * GIB, 64 * GIB)
    # what v1 writes for "none": a number beyond any machine
    mine.write_text("3:memory:/\n")
    group(root / "memory", "9223372036854771712", 3 * GIB, 0, V1)
    assert cpu.host_memory(root, mine) == (50 * GIB, 64 * GIB)


def test_platform_reports_the_container(host: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "host_memory", lambda: (2 * GIB, 3 * GIB))
    platform = cpu.CpuPlatform()
    assert platform.get_available_memory() == (2 * GIB, 3 * GIB)
    assert platform.get_device_total_memory() == 3 * GIB
    assert platform.get_current_memory_usage() == GIB
