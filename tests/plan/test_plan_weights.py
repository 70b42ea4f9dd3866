"""What a rank holds of a checkpoint: the bytes of the file, the shards that our loader cuts, the towers as built."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sglang_nemotron.checkpoint.spec import OMNI_PRESETS, PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.cli.doctor_host import WEIGHTS
from sglang_nemotron.config.decoder import DecoderSpec
from sglang_nemotron.decoder import shards
from sglang_nemotron.encoders.towers import Towers
from sglang_nemotron.plan import models
from sglang_nemotron.plan.models import Model
from sglang_nemotron.plan.weights import Tensor, parts_of
from support.hub import OMNI_IDS, TEXT_IDS

SPLITS = (1, 2, 4, 8)
TEXT = models.of_published("NVIDIA-Nemotron-3-Nano-30B-A3B-BF16")
OMNI = models.of_published("Nemotron-3-Nano-Omni-30B-A3B-BF16")


def one(model: Model, ending: str) -> Tensor:
    return next(tensor for tensor in model.tensors if tensor.name.endswith(ending))


def bytes_of(tensor: Tensor, spec: DecoderSpec, tp_size: int) -> int:
    return parts_of([tensor], spec, None, tp_size)["weights"]


# ---- published names


def test_every_published_id_is_known() -> None:
    assert {f"nvidia/{name}" for name in models.PUBLISHED} == {*TEXT_IDS, *OMNI_IDS}


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_published_checkpoint_weighs_what_doctor_says(name: str) -> None:
    model = models.of_published(name)
    assert model.file_bytes == WEIGHTS[name]
    parts = parts_of(model.tensors, model.decoder, model.omni, 1)
    # a file also holds what no module takes: normalisers, filters; heads' vectors are kept wider
    assert sum(parts.values()) == pytest.approx(model.file_bytes, rel=1e-4)
    assert (parts["towers"] > 2 * 2**30) == ("Omni" in name)


@pytest.mark.parametrize(("name", "stored"), [("BF16", None), ("FP8", "FP8")])
def test_quantised_ones_want_their_entries_quantised(name: str, stored: str | None) -> None:
    assert models.of_published(f"NVIDIA-Nemotron-3-Nano-30B-A3B-{name}").stored_kv == stored


@pytest.mark.parametrize(("model", "data"), [(TEXT, "nano-30b-a3b"), (OMNI, "nano-omni-30b-a3b")])
def test_a_published_name_has_the_published_config(model: Model, data: str, tmp_path: Path) -> None:
    published = (Path(__file__).parents[1] / "data" / f"{data}.config.json").read_text()
    (tmp_path / "config.json").write_text(published)
    by_config = models.find(str(tmp_path))
    assert by_config.decoder == replace(model.decoder, eos_token_ids=by_config.decoder.eos_token_ids)
    parts = [parts_of(each.tensors, each.decoder, each.omni, 1) for each in (model, by_config)]
    assert parts[0] == parts[1]


# ---- shards


@pytest.mark.parametrize("tp_size", [*SPLITS, 16])
def test_mamba_is_split_as_our_loader_cuts_it(tp_size: int) -> None:
    spec = TEXT.decoder
    for ending, cut in ((".in_proj.weight", shards.shard_in_proj), (".conv1d.weight", shards.shard_conv)):
        tensor = one(TEXT, ending)
        whole = torch.empty(tensor.shape, dtype=torch.bfloat16, device="meta")
        assert bytes_of(tensor, spec, tp_size) == cut(whole, spec.mamba, 0, tp_size).nbytes, ending
    head = one(TEXT, ".A_log")
    assert bytes_of(head, spec, tp_size) == 4 * shards.shard_heads(torch.empty(64), spec.mamba, 0, tp_size).numel()


@pytest.mark.parametrize("tp_size", SPLITS)
def test_the_other_mixers_are_split_as_their_heads_and_channels_are(tp_size: int) -> None:
    spec = TEXT.decoder
    kept = len(shards.kv_heads_of_rank(spec.attention, 0, tp_size)) * spec.attention.head_dim
    assert bytes_of(one(TEXT, ".k_proj.weight"), spec, tp_size) == 2 * kept * spec.hidden_size
    for ending in (".q_proj.weight", ".o_proj.weight", ".experts.5.up_proj.weight", ".shared_experts.down_proj.weight"):
        tensor = one(TEXT, ending)
        assert bytes_of(tensor, spec, tp_size) == tensor.num_bytes // tp_size, ending
    for ending in (".gate.weight", ".e_score_correction_bias", "backbone.norm_f.weight", "layers.3.norm.weight"):
        tensor = one(TEXT, ending)
        assert bytes_of(tensor, spec, tp_size) == tensor.num_bytes, ending


@pytest.mark.parametrize(("rows", "kept"), [(131_072, 65_536), (131_073, 65_568), (100, 64)])
def test_a_vocabulary_is_padded_before_it_is_split(rows: int, kept: int) -> None:
    assert bytes_of(Tensor("lm_head.weight", 2, (rows, 8)), TEXT.decoder, 2) == 2 * kept * 8


def test_scales_go_with_their_rows() -> None:
    spec = TEXT.decoder
    packed = Tensor("backbone.layers.1.mixer.experts.0.up_proj.weight_scale", 1, (1856, 168))
    assert bytes_of(packed, spec, 2) == packed.num_bytes // 2
    alone = Tensor("backbone.layers.1.mixer.experts.0.up_proj.weight_scale_2", 4, ())
    assert bytes_of(alone, spec, 2) == 4


class Shards:
    """Linear layers of one of several ranks, without ranks."""

    def __init__(self, tp_size: int) -> None:
        self.tp_rank, self.tp_size = 0, tp_size

    def qkv(self, hidden_size: int, head_dim: int, num_heads: int, *, bias: bool, prefix: str) -> nn.Module:
        return nn.Linear(hidden_size, 3 * num_heads * head_dim // self.tp_size, bias=bias)

    def column(self, in_size: int, out_size: int, *, bias: bool, prefix: str) -> nn.Module:
        return nn.Linear(in_size, out_size // self.tp_size, bias=bias)

    def row(self, in_size: int, out_size: int, *, bias: bool, prefix: str) -> nn.Module:
        return nn.Linear(in_size // self.tp_size, out_size, bias=bias)


@pytest.mark.parametrize("tp_size", [*SPLITS, 16])
def test_towers_weigh_what_is_built(tp_size: int) -> None:
    """To the statistics of BatchNorm, of which torch counts one more."""
    assert OMNI.omni is not None
    with torch.device("meta"):
        built = Towers(OMNI.omni, linears=Shards(tp_size))
    held = [*built.parameters(), *(tensor for name, tensor in built.named_buffers() if "running" in name)]
    planned = parts_of(OMNI.tensors, OMNI.decoder, OMNI.omni, tp_size)["towers"]
    assert planned == 2 * sum(tensor.numel() for tensor in held)


# ---- folders


@pytest.mark.parametrize("quantization", ["none", "fp8", "nvfp4", "mixed"])
@pytest.mark.parametrize("presets", [PRESETS, OMNI_PRESETS], ids=["text", "omni"])
def test_a_folder_is_read_by_its_headers_or_by_its_config(presets: Any, quantization: str, tmp_path: Path) -> None:
    write_checkpoint(replace(presets["toy"], quantization=quantization), tmp_path)
    with_weights = models.find(str(tmp_path))
    assert with_weights.file_bytes == sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    without = models.find(str(tmp_path))
    assert (with_weights.quantization, without.quantization, without.file_bytes) == (quantization, quantization, 0)
    parts = [parts_of(each.tensors, each.decoder, each.omni, 2) for each in (with_weights, without)]
    assert parts[0] == parts[1] and (parts[0]["towers"] > 0) == (presets is OMNI_PRESETS)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "is another family: its architecture is LlamaForCausalLM"),
        ({"architectures": []}, "is another family: its architecture is not named"),
        ({"moe_latent_size": 1024}, "is another family: moe_latent_size=1024"),
        ({"quantization_config": {"quant_algo": "W4A16_AWQ"}}, "quantised in W4A16_AWQ"),
    ],
)
def test_another_familys_folder(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    config = json.loads((Path(__file__).parents[1] / "data" / "nano-30b-a3b.config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ValueError, match=said) as caught:
        models.find(str(tmp_path))
    assert str(caught.value).count("\n  remedy: ") == 1


@pytest.mark.parametrize(("text", "said"), [("{", "is damaged"), ("[]", "is no config of a model")])
def test_a_broken_folder(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        models.find(str(tmp_path))
