"""A program: SGLang's own resolution of arguments on a GPU that is not there, for each line of JSON on stdin.

A line is {"argv": [...], "mib": memory of each GPU, "capability": [major, minor], "hint": tokens or null}; what comes
out is a line of JSON with the fields of FIELDS. Nothing touches a device.
"""

from __future__ import annotations

import json
import os
import sys
import types
from typing import Any

FIELDS = (
    *("mem_fraction_static", "chunked_prefill_size", "mamba_radix_cache_strategy", "mamba_full_memory_ratio"),
    *("max_running_requests", "disable_overlap_schedule"),
)


def _plant(case: dict[str, Any]) -> None:
    """What a driver would say."""
    import torch

    capability, total = tuple(case["capability"]), case["mib"] << 20
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 8
    torch.cuda.current_device = lambda: 0
    torch.cuda.get_device_capability = lambda *_: capability
    torch.cuda.get_device_name = lambda *_: "NVIDIA planted"
    torch.cuda.get_device_properties = lambda *_: types.SimpleNamespace(
        major=capability[0], minor=capability[1], total_memory=total, multi_processor_count=132, name="NVIDIA planted"
    )
    torch.cuda.mem_get_info = lambda *_: (total, total)


def resolve(case: dict[str, Any]) -> dict[str, Any]:
    from sglang.srt.arg_groups import memory_hook
    from sglang.srt.arg_groups.overrides import resolved_view
    from sglang.srt.model_executor import cuda_graph_config
    from sglang.srt.runtime_context import override_platform
    from sglang.srt.server_args import prepare_server_args

    from sglang_nemotron.host import slots, startup_omni

    _plant(case)
    # by what SGLang saw while it was imported, which is no GPU
    cuda_graph_config.default_prefill_backend = lambda: cuda_graph_config.Backend.BREAKABLE
    for module in (memory_hook, slots, startup_omni):
        module.get_device_memory_capacity = lambda *_: case["mib"]
    os.environ.pop("SGLANG_VLM_CACHE_SIZE_MB", None)
    os.environ.pop("SGLANG_NEMOTRON_REQUEST_TOKENS", None)
    if case["hint"] is not None:
        os.environ["SGLANG_NEMOTRON_REQUEST_TOKENS"] = str(case["hint"])
    capability = tuple(case["capability"])
    says = {"is_cuda": True, "is_sm90": capability[0] == 9, "is_sm100": capability[0] == 10}
    says |= {"is_blackwell": capability[0] >= 10, "device_capability": capability}
    with override_platform(**says):
        args = prepare_server_args([*case["argv"], "--device", "cuda"])
        args.resolve_once()
        view = resolved_view(args)
        found = {name: getattr(view, name) for name in FIELDS}
        found["graphs_to"] = view.cuda_graph_config.decode.max_bs
        found["prefill_buckets"] = len(view.cuda_graph_config.prefill.bs)
        found["embedding_cache_mb"] = int(os.environ.get("SGLANG_VLM_CACHE_SIZE_MB", 0))
    return found


def main() -> None:
    cases = [json.loads(line) for line in sys.stdin]
    import sglang_nemotron

    # our platform would stand in for the GPU that is missing
    sglang_nemotron.activate_cpu_platform = lambda: None
    # SGLang's kernels are looked for while it is imported, and must not be
    import sglang.cli.serve  # noqa: F401
    import sglang.srt.layers.quantization  # noqa: F401
    from sglang.srt.plugins import load_plugins

    _plant(cases[0])
    load_plugins()
    out = sys.stdout
    # SGLang prints on both
    sys.stdout = sys.stderr
    for case in cases:
        print(json.dumps(resolve(case)), file=out, flush=True)


if __name__ == "__main__":
    main()
