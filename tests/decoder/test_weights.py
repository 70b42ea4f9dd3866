"""The weight table: every tensor used once, every parameter filled once, everything else an error with its name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sglang_nemotron.config.decoder import DecoderSpec, decoder_spec
from sglang_nemotron.decoder.weights import DecoderWeights

CONFIG = {
    "model_type": "nemotron_h",
    "hidden_size": 16,
    "vocab_size": 32,
    "hybrid_override_pattern": "MEM*-",
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "mamba_num_heads": 4,
    "mamba_head_dim": 8,
    "n_groups": 2,
    "ssm_state_size": 8,
    "conv_kernel": 4,
    "chunk_size": 8,
    "n_routed_experts": 3,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16,
    "intermediate_size": 32,
    "norm_eps": 1e-5,
    "max_position_embeddings": 64,
}


class FakeModel:
    """Parameters under SGLang's names with SGLang's kind of loaders, on one rank."""

    def __init__(self, spec: DecoderSpec, stage: range | None = None) -> None:
        self.spec = spec
        self.stage = range(spec.num_layers) if stage is None else stage
        self.parameters: dict[str, nn.Parameter] = {}
        targets = DecoderWeights(spec, 1, dequantise=False).targets
        for target in targets.values():
            if target.parameter in self.parameters or not self._here(target.parameter):
                continue
            self.parameters[target.parameter] = self._parameter(target.parameter, targets)

    def _here(self, name: str) -> bool:
        if name.startswith("model.layers."):
            return int(name.split(".")[2]) in self.stage
        last = self.stage[-1] == self.spec.num_layers - 1
        return self.stage[0] == 0 if "embed" in name else last

    def _parameter(self, name: str, targets: dict) -> nn.Parameter:
        parts = [t for t in targets.values() if t.parameter == name]
        if "experts.w" in name:
            shape = (self.spec.moe.num_experts, *parts[0].shape)
        elif "qkv_proj" in name:
            shape = (sum(t.shape[0] for t in parts), parts[0].shape[1])
        elif name.endswith("conv1d.weight"):
            shape = (parts[0].shape[0], parts[0].shape[2])
        else:
            shape = parts[0].shape
        parameter = nn.Parameter(torch.full(shape, float("nan")), requires_grad=False)
        if "experts.w" in name:
            parameter.weight_loader = self._load_expert  # type: ignore[attr-defined]
        elif "qkv_proj" in name:
            parameter.weight_loader = self._load_qkv  # type: ignore[attr-defined]
        return parameter

    def _load_expert(self, parameter, tensor, name, *, shard_id, expert_id):
        assert shard_id == ("w1" if "w13" in name else "w2")
        parameter.data[expert_id].copy_(tensor)

    def _load_qkv(self, parameter, tensor, part):
        q, kv = self.spec.attention.num_heads * 4, self.spec.attention.num_kv_heads * 4
        start = {"q": 0, "k": q, "v": q + kv}[part]
        parameter.data[start : start + tensor.shape[0]].copy_(tensor)

    def named_parameters(self, prefix="", recurse=True, remove_duplicate=True):
        return iter(self.parameters.items())


def checkpoint(spec: DecoderSpec) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = DecoderWeights(spec, 1, dequantise=False).targets
    return {name: torch.randn(target.shape, generator=generator) for name, target in targets.items()}


@pytest.fixture(autouse=True)
def one_rank(monkeypatch):
    # the rank is asked of SGLang while a tensor loads; here there is one
    from sglang_nemotron.decoder import tensors

    monkeypatch.setattr(tensors._RankSlices, "_rank", 0)


@pytest.fixture
def spec() -> DecoderSpec:
    return decoder_spec(CONFIG)


def load(spec: DecoderSpec, tensors: dict[str, torch.Tensor], **options) -> FakeModel:
    model = FakeModel(spec, options.pop("stage", None))
    DecoderWeights(spec, 1, dequantise=options.pop("dequantise", False)).load(model, iter(tensors.items()))
    return model


def test_fills_everything(spec):
    tensors = checkpoint(spec)
    model = load(spec, tensors)
    assert all(not p.isnan().any() for p in model.parameters.values())
    assert torch.equal(model.parameters["model.layers.0.mixer.A"], -torch.exp(tensors["backbone.layers.0.mixer.A_log"]))
    expert = model.parameters["model.layers.1.mixer.experts.w13_weight"][2]
    assert torch.equal(expert, tensors["backbone.layers.1.mixer.experts.2.up_proj.weight"])
    k = model.parameters["model.layers.3.mixer.qkv_proj.weight"][16:24]
    assert torch.equal(k, tensors["backbone.layers.3.mixer.k_proj.weight"])
    conv = model.parameters["model.layers.0.mixer.conv1d.weight"]
    assert torch.equal(conv, tensors["backbone.layers.0.mixer.conv1d.weight"].squeeze(1))


def test_order_does_not_matter(spec):
    tensors = checkpoint(spec)
    backwards = dict(reversed(tensors.items()))
    first, second = load(spec, tensors), load(spec, backwards)
    for name, parameter in first.parameters.items():
        assert torch.equal(parameter, second.parameters[name]), name


@pytest.mark.parametrize(
    "name",
    [
        "backbone.embeddings.weight",
        "backbone.layers.0.mixer.dt_bias",
        "backbone.layers.1.mixer.experts.1.down_proj.weight",
        "backbone.layers.3.mixer.v_proj.weight",
        "lm_head.weight",
    ],
)
def test_a_missing_tensor_is_named(spec, name):
    tensors = checkpoint(spec)
    shape = list(tensors.pop(name).shape)
    with pytest.raises(ValueError, match="missing") as fault:
        load(spec, tensors)
    assert f"{name} {shape}" in str(fault.value)


def test_an_extra_tensor_is_named(spec):
    tensors = checkpoint(spec) | {"backbone.layers.0.mixer.surprise": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"no place for: backbone\.layers\.0\.mixer\.surprise \[3\]"):
        load(spec, tensors)


def test_a_wrong_shape_is_named_with_both(spec):
    tensors = checkpoint(spec)
    tensors["backbone.layers.3.mixer.q_proj.weight"] = torch.zeros(16, 17)
    with pytest.raises(ValueError, match=r"q_proj\.weight is \[16, 17\], the config says \[16, 16\]"):
        load(spec, tensors)


def test_a_tensor_that_comes_twice_is_named(spec):
    tensors = list(checkpoint(spec).items())
    model = FakeModel(spec)
    with pytest.raises(ValueError, match=r"appear twice: backbone\.norm_f\.weight"):
        DecoderWeights(spec, 1, dequantise=False).load(
            model, iter([*tensors, ("backbone.norm_f.weight", torch.zeros(16))])
        )


def test_a_parameter_that_nothing_fills_is_named(spec):
    model = FakeModel(spec)
    model.parameters["model.layers.0.mixer.novel"] = nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match=r"nothing filled: model\.layers\.0\.mixer\.novel \[2\]"):
        DecoderWeights(spec, 1, dequantise=False).load(model, iter(checkpoint(spec).items()))


def test_another_models_tensors_are_counted_and_cut(spec):
    strange = {f"model.layers.{i}.self_attn.q_proj.weight": torch.zeros(2, 2) for i in range(40)}
    with pytest.raises(ValueError, match=r"40 tensors the model has no place for: .* and 28 more"):
        load(spec, strange)


def test_the_ignore_list_is_ignored(spec):
    tensors = checkpoint(spec) | {
        "backbone.layers.3.mixer.rotary_emb.inv_freq": torch.zeros(2),
        "backbone.layers.3.mixer.k_proj.k_scale": torch.ones(()),
        "backbone.layers.0.mixer.in_proj.input_scale": torch.ones(()),
    }
    load(spec, tensors)


def test_kv_scales_go_to_the_attention_and_derived_scales_may_wait(spec):
    tensors = checkpoint(spec) | {"backbone.layers.3.mixer.k_proj.k_scale": torch.tensor(0.25)}
    model = FakeModel(spec)
    model.parameters["model.layers.3.mixer.attn.k_scale"] = nn.Parameter(torch.tensor(-1.0), requires_grad=False)
    model.parameters["model.layers.3.mixer.attn.v_scale"] = nn.Parameter(torch.tensor(-1.0), requires_grad=False)
    swizzled = "model.layers.1.mixer.experts.w13_blockscale_swizzled"
    model.parameters[swizzled] = nn.Parameter(torch.zeros(2), requires_grad=False)
    DecoderWeights(spec, 1, dequantise=False).load(model, iter(tensors.items()))
    assert model.parameters["model.layers.3.mixer.attn.k_scale"].item() == 0.25
    assert model.parameters["model.layers.3.mixer.attn.v_scale"].item() == -1.0


def test_an_update_may_be_partial_but_not_strange(spec):
    model, table = FakeModel(spec), DecoderWeights(spec, 1, dequantise=False)
    table.load(model, iter(checkpoint(spec).items()))
    new = torch.full((16,), 5.0)
    table.load(model, iter([("backbone.norm_f.weight", new)]))
    assert torch.equal(model.parameters["model.norm_f.weight"], new)
    with pytest.raises(ValueError, match="no place for: nonsense"):
        table.load(model, iter([("nonsense", new)]))


@pytest.mark.parametrize("stage", [range(0, 2), range(2, 5)])
def test_a_pipeline_stage_takes_its_own_layers(spec, stage):
    model = load(spec, checkpoint(spec), stage=stage)
    assert model.parameters and all(not p.isnan().any() for p in model.parameters.values())


def test_tied_embeddings_need_no_head(spec):
    spec = replace(spec, tie_embeddings=True)
    tensors = checkpoint(spec)
    del tensors["lm_head.weight"]
    model = FakeModel(spec)
    del model.parameters["lm_head.weight"]
    DecoderWeights(spec, 1, dequantise=False).load(model, iter(tensors.items()))
    assert not model.parameters["model.embed_tokens.weight"].isnan().any()


def test_headers_alone_show_the_same_faults(spec):
    table = DecoderWeights(spec, 1, dequantise=False)
    headers = {name: ("F32", tuple(tensor.shape)) for name, tensor in checkpoint(spec).items()}
    table.check(headers)
    gone = dict(headers)
    gone.pop("backbone.layers.4.mixer.up_proj.weight")
    with pytest.raises(ValueError, match=r"missing: backbone\.layers\.4\.mixer\.up_proj\.weight \[32, 16\]"):
        table.check(gone)
    packed = headers | {"backbone.layers.4.mixer.up_proj.weight": ("U8", (32, 8))}
    table.check(packed | {"backbone.layers.4.mixer.up_proj.weight_scale": ("F8_E4M3", (32, 1))})
    with pytest.raises(ValueError, match="wrong shape"):
        table.check(headers | {"backbone.layers.4.mixer.up_proj.weight": ("U8", (32, 9))})


def test_the_published_census():
    # 6,243 text tensors and 31.58 billion parameters: what NVIDIA's model card says of Nano 3
    published = Path(__file__).parent.parent / "data" / "nano-30b-a3b.config.json"
    spec = decoder_spec(json.loads(published.read_text()))
    table = DecoderWeights(spec, 1, dequantise=False)
    assert len(table.targets) == 6243
    numbers = {name: torch.Size(target.shape).numel() for name, target in table.targets.items()}
    # the card counts parameters; the routers' selection biases are buffers there
    biases = sum(count for name, count in numbers.items() if name.endswith("e_score_correction_bias"))
    assert sum(numbers.values()) - biases == 31_577_937_344
