"""transformers, the golden reference, loads every tensor of every variant and computes something worth comparing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers.models.nemotron_h import NemotronHConfig, NemotronHForCausalLM

from sglang_nemotron.checkpoint.spec import PRESETS
from support.waiting import NET_S


def load(folder: Path, *, absent: frozenset[str] = frozenset()) -> NemotronHForCausalLM:
    """The reference in float32; fails if a tensor is missing, left over or of another shape."""
    model, info = NemotronHForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert set(info["missing_keys"]) == set(absent), info
    assert not info["unexpected_keys"] and not info["mismatched_keys"] and not info["error_msgs"], info
    if absent:
        # transformers 5.19 ties nothing for this class (its _tied_weights_keys is empty)
        model.lm_head.weight = model.model.embeddings.weight
    return model.eval()


def forward(model: NemotronHForCausalLM, seed: int = 0, batch: int = 4, length: int = 300):
    """Logits [B, T, V] of random prompts over the whole vocabulary, and each router's expert counts [E]."""
    counts: dict[str, torch.Tensor] = {}

    def count(name: str):
        def hook(module, inputs, output):
            counts[name] = torch.bincount(output[2].flatten(), minlength=module.num_experts)

        return hook

    for name, module in model.named_modules():
        if name.endswith("mixer.gate"):
            module.register_forward_hook(count(name))
    ids = torch.randint(0, model.config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model(ids).logits, counts


def assert_worth_comparing(logits: torch.Tensor, counts: dict[str, torch.Tensor]) -> None:
    assert torch.isfinite(logits).all()
    for name, used in counts.items():
        assert used.min() > 0, f"{name}: an expert is never used: {used.tolist()}"
        # no expert takes half of all tokens' slots
        assert used.max() < 0.5 * used.sum(), (name, used.tolist())
    best = logits.topk(2, dim=-1).values
    assert ((best[..., 0] - best[..., 1]) < 1e-4).float().mean() < 0.01
    logprobs = logits.log_softmax(-1)
    assert 0.5 < logprobs.std() < 10
    # positions differ from each other, so that a mixed-up row shows
    assert logprobs.std(dim=1).mean() > 0.5


SHAPES = {
    "toy": {},
    "one group": {"n_groups": 1},
    "eight groups, state 128": {"n_groups": 8, "ssm_state_size": 128},
    "dense layers, ends in dense": {"hybrid_override_pattern": "EM-*M-"},
    "begins with attention, ends with MoE": {"hybrid_override_pattern": "*-ME"},
    "begins with dense, ends with attention": {"hybrid_override_pattern": "-EM*"},
    "tied": {"tie_word_embeddings": True},
    "no conv bias, no renormalisation": {"use_conv_bias": False, "norm_topk_prob": False},
    "grouped routing": {"n_group": 2, "topk_group": 1},
    "transformers spelling": {"spelling": "transformers"},
    "alt spelling": {"spelling": "alt"},
    "time step limit": {"time_step_limit": (0.0, 1e30)},
    "sharded": {"max_shard_bytes": 60_000},
    "float32": {"dtype": "float32"},
    "float16": {"dtype": "float16"},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_loads_whole_and_routes_widely(make, shape: str):
    changes = SHAPES[shape]
    model = load(make(**changes), absent=frozenset({"lm_head.weight"} if changes.get("tie_word_embeddings") else ()))
    pattern = changes.get("hybrid_override_pattern", PRESETS["toy"].hybrid_override_pattern)
    assert model.config.hybrid_override_pattern == pattern
    assert model.config.n_groups == changes.get("n_groups", 2)
    logits, counts = forward(model)
    assert len(counts) == pattern.count("E")
    assert_worth_comparing(logits, counts)


def test_spellings_compute_the_same(make):
    results = [forward(load(make(spelling=s)), length=40)[0] for s in ("published", "transformers", "alt")]
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_tiny_is_worth_comparing(make):
    model = load(make("tiny"))
    logits, counts = forward(model)
    assert_worth_comparing(logits, counts)
    # a random answer reads as text: reserved tokens seldom win
    assert (logits.argmax(-1) < 1000).float().mean() < 0.05


def test_small_spreads_over_all_its_experts(make):
    logits, counts = forward(load(make("small", hybrid_override_pattern="ME*E", vocab_size=2048)), batch=2)
    assert_worth_comparing(logits, counts)


def test_every_mixer_adds_about_one_to_the_stream(make):
    # neither vanishing nor exploding, whatever the depth: each mixer's output has an rms near 1
    model, rms = load(make(hybrid_override_pattern="MEM*-M")), {}
    for index, layer in enumerate(model.model.layers):

        def keep(module, inputs, output, index=index):
            rms[index] = (output[0] if isinstance(output, tuple) else output).std().item()

        layer.mixer.register_forward_hook(keep)
    forward(model)
    assert len(rms) == 6 and all(0.4 < value < 2.5 for value in rms.values()), rms


def test_the_metric_sees_a_collapsed_router(make):
    # the planted fault: one expert that selection never takes
    model = load(make())
    with torch.no_grad():
        model.model.layers[1].mixer.gate.e_score_correction_bias[5] = -10.0
    with pytest.raises(AssertionError, match="never used"):
        assert_worth_comparing(*forward(model))


# in a process of its own: SGLang, which other tests import, registers its own config class with transformers
_TRUSTING = """
import sys
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.nemotron_h import NemotronHConfig, NemotronHForCausalLM

toy = sys.argv[1]
config = AutoConfig.from_pretrained(toy, trust_remote_code=True)
assert type(config).__mro__[1] is NemotronHConfig, type(config).__mro__
assert config.to_dict() == AutoConfig.from_pretrained(toy).to_dict()
trusted = AutoModelForCausalLM.from_pretrained(toy, dtype=torch.float32, trust_remote_code=True).eval()
assert type(trusted).__module__.startswith("transformers_modules.") and isinstance(trusted, NemotronHForCausalLM)
assert NemotronHConfig._auto_class is None and NemotronHForCausalLM._auto_class is None
plain = NemotronHForCausalLM.from_pretrained(toy, dtype=torch.float32).eval()
ids = torch.arange(1000, 1020).unsqueeze(0)
with torch.no_grad():
    difference = (trusted(ids).logits - plain(ids).logits).abs().max()
# the same arithmetic; where tensors lie in memory may move the last bit
assert difference <= 1e-5, difference
print("the same")
"""


def test_trust_remote_code_changes_nothing(toy: Path, tmp_path: Path):
    # the auto_map's classes are transformers' own but for the name, and loading them leaves transformers' alone
    env = os.environ | {"HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", _TRUSTING, str(toy)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=NET_S, check=False)
    assert done.returncode == 0 and done.stdout.strip().endswith("the same"), done.stderr


def test_transformers_spelling_is_what_transformers_writes(make, tmp_path: Path):
    # the golden for that spelling is transformers itself
    ours = json.loads((make(spelling="transformers") / "config.json").read_text())
    published = make(spelling="published")
    text = json.loads((published / "config.json").read_text())
    # fields that a config made by transformers does not have
    for name in ("auto_map", "norm_eps", "partial_rotary_factor", "rope_theta", "torch_dtype", "num_hidden_layers"):
        del text[name]
    config = NemotronHConfig(**text, dtype="bfloat16")
    config.save_pretrained(tmp_path / "saved")
    assert ours == json.loads((tmp_path / "saved" / "config.json").read_text())
