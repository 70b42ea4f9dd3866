"""What a plan is compared with, on a real server: its log lines are read, and its counts are what was computed."""

from __future__ import annotations

import json
import urllib.request

import pytest

from sglang_nemotron.cli.server import ServerProcess
from sglang_nemotron.config.decoder import decoder_spec
from sglang_nemotron.plan.server import Flags, requests_of
from sglang_nemotron.state.capacity import Pools, slots_per_request
from sglang_nemotron.state.layout import state_layout
from support.benchmark_scripts import program
from support.serving import MAIN, OMNI, Served, Servers, json_of

CHECK = program("gpu/plan_check.py")
# --dtype of both servers; a CPU has no graphs to log
FIGURES = {
    *("free_before_weights_gb", "weights_gb", "max_mamba_cache_size", "states_gb", "max_total_num_tokens", "kv_gb"),
    *("free_after_pools_gb", "max_running_requests", "chunked_prefill_size", "context_len", "mem_fraction_static"),
}


@pytest.mark.parametrize(
    "served",
    [pytest.param(one, marks=pytest.mark.server(one), id=name) for name, one in (("text", MAIN), ("omni", OMNI))],
)
def test_a_servers_figures_are_read_and_right(served: Served, server: ServerProcess, servers: Servers) -> None:
    seen = CHECK.of_log(server.log_text())
    assert seen.keys() >= FIGURES
    with urllib.request.urlopen(f"{server.url}/server_info") as reply:
        info = CHECK.of_info(json.load(reply))
    assert info.keys() >= {"max_total_num_tokens", "chunked_prefill_size", "max_running_requests"}
    assert info["chunked_prefill_size"] == seen["chunked_prefill_size"]
    assert info["max_total_num_tokens"] == seen["max_total_num_tokens"]
    layout = state_layout(
        decoder_spec(json_of(servers.checkpoint(served.checkpoint) / "config.json")),
        tp_size=1,
        conv_dtype="float32",
        ssm_dtype="float32",
        kv_dtype="float32",
    )
    pools = Pools(int(seen["max_mamba_cache_size"]), int(seen["max_total_num_tokens"]))
    assert seen["states_gb"] == pytest.approx(pools.state_bytes(layout) / 2**30, abs=0.011)
    assert seen["kv_gb"] == pytest.approx(pools.kv_bytes(layout) / 2**30, abs=0.011)
    # the CPU platform's bound on requests, and the strategy that a start chooses there
    flags = Flags(context=int(seen["context_len"]), max_running_requests=32)
    each = slots_per_request("extra_buffer_lazy", skip_decode_lock=True)
    assert requests_of(flags, pools, layout, each) == seen["max_running_requests"]
