"""Thinking budgets, tools and schemas on a CUDA server: the tests of the CPU server once more, as they are.

Not part of CI, which has no GPU; the results of the last run are in `benchmarks/gpu_tests.json`.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from e2e import test_budget, test_replies, test_replies_tools
from sglang_nemotron.checkpoint.spec import PRESETS
from support.scripted import PARSERS, PLUGIN
from support.serving import Served

# the smallest sizes that SGLang's CUDA kernels take
SMALL = replace(
    PRESETS["toy"],
    hybrid_override_pattern="MEM*EME",
    hidden_size=256,
    mamba_num_heads=16,
    mamba_head_dim=64,
    n_groups=8,
    ssm_state_size=128,
    chunk_size=128,
    num_attention_heads=4,
    head_dim=64,
    n_routed_experts=16,
    num_experts_per_tok=4,
    moe_intermediate_size=128,
    moe_shared_expert_intermediate_size=256,
)
SIZES = ("--mem-fraction-static", "0.5", "--max-total-tokens", "65536", "--max-mamba-cache-size", "320")
# the other MoE backends are compiled for minutes at their first start
FLAGS = ("--moe-runner-backend", "triton", "--max-running-requests", "64", "--cuda-graph-max-bs-decode", "64")
PATHS = os.pathsep.join(filter(None, [PLUGIN, os.environ.get("PYTHONPATH")]))
ON_CUDA = Served(SMALL, args=(*SIZES, *FLAGS, *PARSERS), env=(("PYTHONPATH", PATHS),))

pytestmark = [pytest.mark.gpu, pytest.mark.server(ON_CUDA)]

for _module in (test_budget, test_replies, test_replies_tools):
    globals().update({name: test for name, test in vars(_module).items() if name.startswith("test_")})
