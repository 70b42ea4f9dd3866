"""Every shape, number format and quantisation equals transformers, in SGLang's ModelRunner without a server.

One process imports SGLang and forks for each checkpoint (`batch_worker.py`): a batch of prompts around every boundary
is prefilled at once, or in two chunks, and decoded for 32 steps; every logprob of the chosen tokens is compared.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sglang_nemotron.checkpoint.spec import PRESETS, CheckpointSpec
from sglang_nemotron.parity.client import Answer
from sglang_nemotron.parity.compare import compare, noise, verdict
from sglang_nemotron.parity.prompts import make_prompts
from sglang_nemotron.parity.reference import Reference
from support.parity_checks import assert_equal, reference
from support.serving import Servers
from support.waiting import NET_S

# SGLang starts for real, if not as a server
pytestmark = pytest.mark.server

TOY = PRESETS["toy"]
# around 4 taps and SSM chunks of 16; the longest spans 18 chunks
LENGTHS = (1, 2, 3, 4, 5, 15, 16, 17, 31, 33, 300)
NEW_TOKENS = 32
OURS = "sglang_nemotron.models.nemotron_h.NemotronHForCausalLM"

SHAPES = {
    "one group, tied": replace(TOY, n_groups=1, tie_word_embeddings=True),
    "eight groups, state 128": replace(TOY, n_groups=8, ssm_state_size=128),
    "begins with attention, ends dense": replace(TOY, hybrid_override_pattern="*M-EM-"),
    "begins dense, ends with attention": replace(TOY, hybrid_override_pattern="-EM*"),
    "begins with MoE, ends with Mamba": replace(TOY, hybrid_override_pattern="E*-M"),
    "begins with Mamba, ends with MoE": replace(TOY, hybrid_override_pattern="M*M-E"),
    "state 32": replace(TOY, ssm_state_size=32),
    "state 64, two groups": replace(TOY, ssm_state_size=64, n_groups=2),
    "four heads per KV head": replace(TOY, num_attention_heads=8, num_key_value_heads=2),
    "chunks of 128": replace(TOY, chunk_size=128),
    "three taps": replace(TOY, conv_kernel=3),
    "no conv bias": replace(TOY, use_conv_bias=False),
    "no renormalisation, scale 1": replace(TOY, norm_topk_prob=False, routed_scaling_factor=1.0),
    "grouped routing": replace(TOY, n_group=2, topk_group=1),
    "one expert per token": replace(TOY, num_experts_per_tok=1),
    "clamped time step": replace(TOY, time_step_limit=(0.01, 0.2)),
    "transformers spelling": replace(TOY, spelling="transformers"),
    "alt spelling": replace(TOY, spelling="alt"),
    "float32 weights": replace(TOY, dtype="float32"),
    "small": replace(PRESETS["small"], hybrid_override_pattern="MEM*-E", vocab_size=2048),
    "fp8": replace(TOY, quantization="fp8"),
    "nvfp4": replace(TOY, quantization="nvfp4"),
    "mixed": replace(TOY, quantization="mixed"),
}


@dataclass
class Worker:
    """The process that imported SGLang once."""

    process: subprocess.Popen[str]
    log: Path
    out: Path

    def run(self, model_dir: Path, args: Sequence[str], prompts: list[list[int]], cut: int = 0) -> list[Answer]:
        """Greedy answers of one batch; with `cut`, that many tokens of each prompt are prefilled on their own first."""
        assert self.process.stdin is not None and self.process.stdout is not None
        job: dict[str, Any] = {"model_dir": str(model_dir), "args": list(args), "prompts": prompts, "cut": cut}
        job |= {"new_tokens": NEW_TOKENS - 1, "out": str(self.out)}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        said = self.process.stdout.readline().strip()
        assert said == "ok", f"{said!r}\n" + "\n".join(self.log.read_text().splitlines()[-25:])
        result = torch.load(self.out)
        # the twin in SGLang's own tree would pass most of this file too
        assert result["model"] == OURS
        logprobs = result["logits"].double().log_softmax(-1).gather(-1, result["tokens"].unsqueeze(-1)).squeeze(-1)
        return [
            Answer(tuple(prompt), tuple(tokens), tuple(own), (), 0)
            for prompt, tokens, own in zip(prompts, result["tokens"].tolist(), logprobs.tolist(), strict=True)
        ]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("worker")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    log = folder / "worker.log"
    with open(log, "w") as stderr:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("batch_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**env, "OMP_WAIT_POLICY": "PASSIVE"},
        )
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline().strip() == "ready", log.read_text()[-2000:]
    yield Worker(process, log, folder / "out.pt")
    process.stdin.close()
    process.wait(timeout=NET_S)


def _prompts(spec: CheckpointSpec, lengths: Sequence[int] = LENGTHS) -> list[list[int]]:
    return make_prompts(lengths, spec.vocab_size, seed=4)


@pytest.mark.parametrize("name", SHAPES)
def test_shape(name: str, worker: Worker, servers: Servers):
    spec = SHAPES[name]
    folder = servers.checkpoint(spec)
    answers = worker.run(folder, ["--dtype", "float32"], _prompts(spec))
    assert_equal(name, answers, reference(folder), tolerance=2e-5)


@pytest.mark.parametrize("cut", [1, 3, 16, 17])
def test_prefill_in_two_chunks(cut: int, worker: Worker, servers: Servers):
    folder = servers.checkpoint(TOY)
    answers = worker.run(folder, ["--dtype", "float32"], _prompts(TOY, (18, 19, 20, 31, 32, 33, 80)), cut)
    assert_equal(f"chunk of {cut} first", answers, reference(folder), tolerance=2e-5)


@pytest.mark.matrix
@pytest.mark.parametrize("quantization", ["none", "mixed"])
def test_bfloat16_is_no_worse_than_transformers_own(quantization: str, worker: Worker, servers: Servers):
    """Mean error in bfloat16 against what bfloat16 costs transformers itself, on the same tokens.

    A token that takes another expert moves everything after it, so it takes many prompts for the mean to say anything:
    of 22, the ratio was seen between 0.78 and 1.31; of 110, it was 0.95 and 0.98.
    """
    folder = servers.checkpoint(replace(PRESETS["tiny"], quantization=quantization))
    golden, rough = reference(folder), Reference(folder, torch.bfloat16)
    found = []
    for seed in range(5):
        prompts = make_prompts(LENGTHS * 2, 2048, seed=seed)
        found += [compare("bf16", answer, golden.scores) for answer in worker.run(folder, [], prompts)]
    ours, own = verdict(found).mean, noise(found, golden.scores, rough.scores)
    assert own > 1e-3, "bfloat16 changed nothing: this compares nothing"
    print(f"{quantization}: mean |delta logprob| {ours:.3e}, transformers' own {own:.3e}, ratio {ours / own:.3f}")
    assert ours <= 1.25 * own


def test_a_wrong_model_is_seen(worker: Worker, servers: Servers):
    """The comparison can fail: the same shape with one number of the config changed."""
    folder = servers.checkpoint(TOY)
    other = servers.checkpoint(replace(TOY, norm_eps=2e-5))
    answers = worker.run(other, ["--dtype", "float32"], _prompts(TOY))
    with pytest.raises(AssertionError):
        assert_equal("eps 2e-5 for 1e-5", answers, reference(folder), tolerance=2e-5)
