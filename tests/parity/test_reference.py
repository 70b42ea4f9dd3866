"""The reference is transformers as it should be: unclamped, tied where tied, on dequantised weights."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers.models.nemotron_h import NemotronHForCausalLM

from sglang_nemotron.parity.reference import Reference, dequantised_tensors

IDS = torch.randint(0, 1256, (80,), generator=torch.Generator().manual_seed(0)).tolist()


@torch.no_grad()
def _plain(folder: Path, limit: tuple[float, float]) -> torch.Tensor:
    """Logprobs [T-1] from transformers' own loader, position by position from growing prompts."""
    model = NemotronHForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for layer in model.model.layers:
        if hasattr(layer.mixer, "time_step_limit"):
            layer.mixer.time_step_limit = limit
    return torch.stack(
        [model(torch.tensor([IDS[:i]])).logits[0, -1].log_softmax(-1)[IDS[i]] for i in range(1, len(IDS))]
    )


def test_scores_are_those_of_growing_prompts(folder: Path, reference: Reference):
    golden = _plain(folder, (0.0, math.inf))
    assert torch.allclose(reference.scores(IDS).logprobs.float(), golden, atol=2e-5, rtol=0)


def test_best_and_margin(reference: Reference):
    scores = reference.scores(IDS)
    with torch.no_grad():
        logits_TV = reference.model(torch.tensor([IDS[:-1]])).logits[0]
    assert torch.equal(scores.best, logits_TV.argmax(-1))
    for i, row in enumerate(logits_TV):
        first, second = sorted(row.tolist())[-1:-3:-1]
        assert scores.margins[i] == pytest.approx(first - second, abs=1e-6)


def test_the_time_step_is_clamped_as_the_config_says(make):
    limited = make(time_step_limit=(0.02, 0.05))
    golden = _plain(limited, (0.02, 0.05))
    scores = Reference(limited).scores(IDS).logprobs.float()
    assert torch.allclose(scores, golden, atol=2e-5, rtol=0)
    assert (scores - _plain(limited, (0.0, math.inf))).abs().max() > 1e-2


def test_tied_embeddings_are_the_head(make):
    model = Reference(make(tie_word_embeddings=True)).model
    assert model.lm_head.weight is model.model.embeddings.weight


@pytest.mark.parametrize("quantization", ["fp8", "nvfp4", "mixed"])
def test_quantised_weights_are_what_their_codes_stand_for(make, quantization: str):
    """Against a plain checkpoint of the same seed: close to it, and not equal to it."""
    plain = load_file(make(dtype="float32") / "model.safetensors")
    found = dict(dequantised_tensors(make(dtype="float32", quantization=quantization)))
    assert set(found) == set(plain)
    changed = 0
    for name, tensor in plain.items():
        if torch.equal(found[name].float(), tensor):
            continue
        changed += 1
        # e2m1 codes are at most a sixth off, scales add rounding of their own
        assert (found[name] - tensor).abs().max() <= 0.2 * tensor.abs().max(), name
        assert torch.nn.functional.cosine_similarity(found[name].flatten(), tensor.flatten(), dim=0) > 0.99, name
    assert changed >= 6
    assert torch.isfinite(Reference(make(quantization=quantization)).scores(IDS).logprobs).all()


def test_a_missing_tensor_is_an_error(make):
    folder = make()
    config = json.loads((folder / "config.json").read_text())
    config["hybrid_override_pattern"], config["num_hidden_layers"] = "M*E-M", 5
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="cannot use .* whole"):
        Reference(folder)


def test_another_model_is_refused(make):
    folder = make()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="model_type='llama'"):
        Reference(folder)
