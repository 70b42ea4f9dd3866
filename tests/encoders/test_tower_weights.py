"""Tower tensors by their published names: each fills its place once, and nothing else goes unnoticed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sglang_nemotron.checkpoint.spec import OMNI_PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.config.omni import OmniSpec, omni_spec
from sglang_nemotron.encoders.towers import Towers
from sglang_nemotron.encoders.weights import IGNORED, TEXT_PREFIX, TowerWeights

PUBLISHED = Path(__file__).parents[1] / "data" / "nano-omni-30b-a3b.config.json"
NORM = "mlp1.0.weight"
LAMBDA = "vision_model.radio_model.model.blocks.0.layer_scale1.lambda1"

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module", params=["published", "transformers"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[OmniSpec, Tensors]:
    folder = tmp_path_factory.mktemp(request.param)
    write_checkpoint(replace(OMNI_PRESETS["toy"], dtype="float32", spelling=request.param), folder)
    spec = omni_spec(json.loads((folder / "config.json").read_text()))
    return spec, {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def poisoned(spec: OmniSpec) -> Towers:
    towers = Towers(spec)
    for name, tensor in towers.state_dict(keep_vars=True).items():
        if not name.endswith("num_batches_tracked"):
            tensor.data.fill_(torch.nan)
    return towers


def load(weights: TowerWeights, towers: Towers | None, tensors: Tensors) -> tuple[list[str], set[str]]:
    filled: set[str] = set()
    passed = [name for name, _ in weights.divert(towers, iter(tensors.items()), filled)]
    return passed, filled


def test_every_place_is_filled_and_text_passes_by(checkpoint: tuple[OmniSpec, Tensors]) -> None:
    spec, tensors = checkpoint
    towers, weights = poisoned(spec), TowerWeights(spec)
    passed, filled = load(weights, towers, tensors)
    assert passed == [name for name in tensors if name.startswith(TEXT_PREFIX)]
    assert passed
    stored = {name: t for name, t in towers.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert filled == stored.keys()
    assert all(bool(tensor.isfinite().all()) for tensor in stored.values())
    assert torch.equal(towers.vision_projection.norm.weight, tensors[NORM])
    assert towers.sound_encoder is not None
    running = "sound_encoder.encoder.layers.1.conv.norm.running_var"
    assert torch.equal(towers.sound_encoder.layers[1].conv.norm.running_var, tensors[running])


def test_published_census() -> None:
    weights = TowerWeights(omni_spec(json.loads(PUBLISHED.read_text())))
    sound = [name for name in weights.targets if name.startswith("sound_")]
    # 713 of the model card, less 24 counters and the featurizer's 2; 393 less the input conditioner's 2
    assert (len(sound), len(weights.targets) - len(sound)) == (713 - 24 - 2, 393 - 2)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("missing", f"1 tensors that are missing: {NORM}"),
        ("shape", f"1 tensors of a wrong shape: {NORM} is \\[3\\]"),
        ("unknown", "1 tensors the model has no place for: vision_model.extra"),
        ("repeated", f"1 tensors that appear twice: {NORM}"),
        ("scaled", f"1 tensors of values that are not supported: {LAMBDA} \\(allowed: all ones\\)"),
    ],
)
def test_faults_are_named(checkpoint: tuple[OmniSpec, Tensors], change: str, complaint: str) -> None:
    spec, tensors = checkpoint
    stream = list(tensors.items())
    if change == "missing":
        stream = [(name, tensor) for name, tensor in stream if name != NORM]
    elif change == "shape":
        stream = [(name, tensor[:3] if name == NORM else tensor) for name, tensor in stream]
    elif change == "unknown":
        stream.append(("vision_model.extra", torch.zeros(1)))
    elif change == "repeated":
        stream.append((NORM, tensors[NORM]))
    else:
        stream = [(name, tensor) for name, tensor in stream if name != LAMBDA]
        stream.append((LAMBDA, torch.full((spec.vision.hidden_size,), 1.5)))
    with pytest.raises(ValueError, match=complaint):
        list(TowerWeights(spec).divert(poisoned(spec), iter(stream), set()))
    headers = {name: (str(tensor.dtype), tuple(tensor.shape)) for name, tensor in stream}
    # a header has neither values nor twins
    if change in ("missing", "shape", "unknown"):
        with pytest.raises(ValueError, match=complaint):
            TowerWeights(spec).check(headers)
    else:
        TowerWeights(spec).check(headers)


def test_ignored_tensors_are_ignored(checkpoint: tuple[OmniSpec, Tensors]) -> None:
    spec, tensors = checkpoint
    extra = {
        "vision_model.radio_model.input_conditioner.norm_mean": torch.zeros(3, 1, 1),
        "vision_model.radio_model.summary_idxs": torch.arange(2),
        "sound_encoder.encoder.feature_extractor.featurizer.fb": torch.zeros(1, 128, 257),
        "sound_encoder.encoder.layers.0.conv.norm.num_batches_tracked": torch.tensor(7),
        LAMBDA: torch.ones(spec.vision.hidden_size),
    }
    assert len(IGNORED) + 1 == len(extra)
    load(TowerWeights(spec), poisoned(spec), {**tensors, **extra})


def test_update_may_hold_a_part_once_the_model_is_whole(checkpoint: tuple[OmniSpec, Tensors]) -> None:
    spec, tensors = checkpoint
    towers, weights = poisoned(spec), TowerWeights(spec)
    with pytest.raises(ValueError, match="are missing"):
        load(weights, towers, {NORM: tensors[NORM]})
    load(weights, towers, tensors)
    _, filled = load(weights, towers, {NORM: tensors[NORM] + 1})
    assert filled == {"vision_projection.norm.weight"}
    assert torch.equal(towers.vision_projection.norm.weight, tensors[NORM] + 1)


def test_a_stage_without_towers_checks_names_and_fills_nothing(checkpoint: tuple[OmniSpec, Tensors]) -> None:
    spec, tensors = checkpoint
    passed, filled = load(TowerWeights(spec), None, tensors)
    assert passed and not filled
    with pytest.raises(ValueError, match="no place for: mlp1.9"):
        load(TowerWeights(spec), None, {**tensors, "mlp1.9": torch.zeros(1)})
