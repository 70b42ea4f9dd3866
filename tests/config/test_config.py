"""Every spelling of a config gives the same spec, and what we do not implement is refused by name."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_nemotron.config.decoder import DecoderSpec, check_parallel, decoder_spec, is_nano
from sglang_nemotron.config.layers import LAYER_KINDS, AttentionSpec, DenseSpec, LayerSpec, MambaSpec, MoESpec
from support.specs import resized

# config.json of Nemotron 3 Nano 30B-A3B BF16, without the fields that name code or files
PUBLISHED: dict[str, Any] = {
    name: value
    for name, value in json.loads((Path(__file__).parents[1] / "data" / "nano-30b-a3b.config.json").read_text()).items()
    if name != "auto_map"
}

MAMBA = MambaSpec(
    num_heads=64,
    head_dim=64,
    num_groups=8,
    state_size=128,
    conv_width=4,
    chunk_size=128,
    conv_bias=True,
    time_step_limit=(0.0, math.inf),
)
MOE = MoESpec(
    num_experts=128,
    experts_per_token=6,
    expert_intermediate_size=1856,
    shared_intermediate_size=3712,
    router_scale=2.5,
    router_renormalize=True,
    router_num_groups=1,
    router_top_groups=1,
)
# no dense layer uses the intermediate_size in the file
RECORDS = {"M": MAMBA, "*": AttentionSpec(num_heads=32, num_kv_heads=2, head_dim=128), "E": MOE}
PUBLISHED_SPEC = DecoderSpec(
    hidden_size=2688,
    vocab_size=131072,
    layers=tuple(RECORDS[letter] for letter in "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"),
    norm_eps=1e-5,
    tie_embeddings=False,
    max_positions=262144,
    ssm_dtype="float32",
    eos_token_ids=(2,),
    dtype="bfloat16",
)

OLD_WORDS = {"M": "mamba", "*": "attention", "E": "moe", "-": "mlp"}
NEW_WORDS = {"M": "linear_attention", "*": "full_attention", "E": "moe", "-": "mlp"}


def published(*drop: str, **change: Any) -> dict[str, Any]:
    config = {**copy.deepcopy(PUBLISHED), **change}
    for name in drop:
        del config[name]
    return config


def tiny(*drop: str, **change: Any) -> dict[str, Any]:
    """All four layer kinds."""
    change = {"hybrid_override_pattern": "ME*-", "num_hidden_layers": 4, **change}
    return published(*drop, **change)


def omni(*drop: str, **change: Any) -> dict[str, Any]:
    """The published Omni config, as far as the decoder goes: no dtype and no SSM dtype in the text part, 1e30."""
    text = published("mamba_ssm_cache_dtype", "torch_dtype", "architectures", eos_token_id=11)
    text["time_step_limit"] = [0.0, 1e30]
    for name in drop:
        del text[name]
    return {
        "architectures": ["NemotronH_Nano_Omni_Reasoning_V3"],
        "model_type": "NemotronH_Nano_Omni_Reasoning_V3",
        "torch_dtype": "bfloat16",
        "eos_token_id": 11,
        "vision_config": {"patch_size": 16},
        "sound_config": {"model_type": "parakeet", "hidden_size": 1024},
        "llm_config": {**text, **change},
    }


# ---- what goes in comes out -----------------------------------------------------------------------------------------


def test_published_text_config() -> None:
    spec = decoder_spec(PUBLISHED)
    assert spec == PUBLISHED_SPEC
    assert spec.num_layers == 52
    assert spec.pattern == PUBLISHED["hybrid_override_pattern"]
    assert spec.mamba.inner == 4096
    assert spec.mamba.conv_channels == 6144
    mamba, attention, moe, dense = map(spec.layers_of, (MambaSpec, AttentionSpec, MoESpec, DenseSpec))
    assert attention == (5, 12, 19, 26, 33, 42)
    assert (len(mamba), len(moe), len(dense)) == (23, 23, 0)
    assert sorted(mamba + moe + attention) == list(range(52))


def test_published_omni_config_is_the_same_decoder() -> None:
    assert decoder_spec(omni()) == dataclasses.replace(PUBLISHED_SPEC, eos_token_ids=(11,))
    assert is_nano(omni()) is None


def test_spec_is_a_frozen_key() -> None:
    spec = decoder_spec(PUBLISHED)
    assert {spec: 1}[decoder_spec(omni(eos_token_id=2) | {"eos_token_id": 2})] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.hidden_size = 1  # type: ignore[misc]
    assert not hasattr(spec, "__dict__")
    for layer in decoder_spec(tiny()).layers:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(layer, dataclasses.fields(layer)[0].name, 1)
        assert not hasattr(layer, "__dict__")


def test_reading_leaves_the_config_alone() -> None:
    for config in (published(), omni()):
        before = copy.deepcopy(config)
        decoder_spec(config)
        assert config == before


def flat(spec: DecoderSpec) -> dict[str, Any]:
    """Every field by its name, those of a layer kind behind the kind's letter."""
    fields = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec) if field.name != "layers"}
    for layer in spec.layers:
        fields |= {f"{layer.letter}.{name}": value for name, value in dataclasses.asdict(layer).items()}
    return fields


def test_every_field_is_read_from_its_own_name() -> None:
    """Changing one field of the file changes exactly the fields of the spec that it should."""
    touched = {
        "hidden_size": {"hidden_size"},
        "vocab_size": {"vocab_size"},
        "num_attention_heads": {"*.num_heads"},
        "num_key_value_heads": {"*.num_kv_heads"},
        "head_dim": {"*.head_dim"},
        "mamba_num_heads": {"M.num_heads"},
        "mamba_head_dim": {"M.head_dim"},
        "n_groups": {"M.num_groups"},
        "ssm_state_size": {"M.state_size"},
        "conv_kernel": {"M.conv_width"},
        "chunk_size": {"M.chunk_size"},
        "n_routed_experts": {"E.num_experts"},
        "num_experts_per_tok": {"E.experts_per_token"},
        "moe_intermediate_size": {"E.expert_intermediate_size"},
        "moe_shared_expert_intermediate_size": {"E.shared_intermediate_size"},
        "n_shared_experts": {"E.shared_intermediate_size"},
        "intermediate_size": {"-.intermediate_size"},
        "max_position_embeddings": {"max_positions"},
        "eos_token_id": {"eos_token_ids"},
        "routed_scaling_factor": {"E.router_scale"},
    }
    before = flat(decoder_spec(tiny()))
    for name, fields in touched.items():
        after = flat(decoder_spec(tiny(**{name: 2 * PUBLISHED[name]})))
        assert {field for field in before if before[field] != after[field]} == fields, name
    others = {
        "use_conv_bias": (False, "M.conv_bias", False),
        "norm_topk_prob": (False, "E.router_renormalize", False),
        "tie_word_embeddings": (True, "tie_embeddings", True),
        "mamba_ssm_cache_dtype": ("bfloat16", "ssm_dtype", "bfloat16"),
        "torch_dtype": ("torch.float32", "dtype", "float32"),
        "time_step_limit": ([0.001, 0.5], "M.time_step_limit", (0.001, 0.5)),
    }
    for name, (value, field, wanted) in others.items():
        after = flat(decoder_spec(tiny(**{name: value})))
        assert {f for f in before if before[f] != after[f]} == {field}
        assert after[field] == wanted


DEAD = {
    "rope_theta": 1e6,
    "partial_rotary_factor": 0.5,
    "rope_scaling": {"type": "yarn"},
    "expand": 7,
    "time_step_min": 0.5,
    "time_step_max": 9.0,
    "time_step_floor": 0.3,
    "attention_dropout": 0.1,
    "hidden_dropout": 0.1,
    "initializer_range": 1.0,
    "rescale_prenorm_residual": False,
    "use_cache": False,
    "use_mamba_kernels": False,
    "num_logits_to_keep": 5,
    "output_router_logits": True,
    "moe_shared_expert_overlap": False,
    "mtp_layers_block_type": ["attention", "moe"],
    "bos_token_id": 7,
}


@pytest.mark.parametrize("name", DEAD)
def test_dead_fields_change_nothing(name: str) -> None:
    assert decoder_spec(published(**{name: DEAD[name]})) == PUBLISHED_SPEC


def test_layer_kinds_that_are_absent_need_no_sizes() -> None:
    attention_only = tiny(
        "mamba_num_heads", "n_groups", "ssm_state_size", "n_routed_experts", hybrid_override_pattern="*-*-"
    )
    spec = decoder_spec(attention_only)
    assert (spec.find(MambaSpec), spec.find(MoESpec)) == (None, None)
    assert spec.layers_of(DenseSpec) == (1, 3)
    assert spec.dense.intermediate_size == 1856
    mamba_only = tiny("num_attention_heads", "num_key_value_heads", "head_dim", hybrid_override_pattern="MMMM")
    spec = decoder_spec(mamba_only)
    assert set(spec.layers) == {MAMBA}
    check_parallel(spec, 8)
    with pytest.raises(ValueError, match=r"the layer pattern 'MMMM' has no layer '\*' \(attention\)"):
        _ = spec.attention


def test_layers_of_a_kind_are_alike() -> None:
    other = dataclasses.replace(MAMBA, num_groups=4)
    with pytest.raises(ValueError, match="layers of one kind differ in their sizes.*num_groups=4"):
        dataclasses.replace(PUBLISHED_SPEC, layers=(MAMBA, MOE, other))
    with pytest.raises(ValueError, match="one layer or more"):
        dataclasses.replace(PUBLISHED_SPEC, layers=())


# ---- spellings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["layers_block_type", "layer_types"])
@pytest.mark.parametrize("words", [OLD_WORDS, NEW_WORDS])
def test_lists_of_words_in_both_vocabularies(name: str, words: dict[str, str]) -> None:
    listed = [words[letter] for letter in PUBLISHED["hybrid_override_pattern"]]
    for drop in (("hybrid_override_pattern",), ("hybrid_override_pattern", "num_hidden_layers"), ()):
        assert decoder_spec(published(*drop, **{name: listed})) == PUBLISHED_SPEC


ALIASES = [
    ("n_groups", "mamba_n_groups", 4),
    ("conv_kernel", "mamba_d_conv", 3),
    ("chunk_size", "mamba_chunk_size", 256),
    ("ssm_state_size", "mamba_d_state", 64),
    ("use_conv_bias", "mamba_conv_bias", False),
    ("head_dim", "attention_head_dim", 64),
    ("n_routed_experts", "num_local_experts", 16),
    ("mamba_ssm_cache_dtype", "mamba_ssm_dtype", "bfloat16"),
    ("torch_dtype", "dtype", "float16"),
    ("time_step_limit", "mamba_dt_limit", [0.0, 0.25]),
]


@pytest.mark.parametrize(("usual", "alias", "value"), ALIASES)
def test_alias_reads_the_same_and_must_agree(usual: str, alias: str, value: Any) -> None:
    by_usual = decoder_spec(tiny(**{usual: value}))
    assert by_usual != decoder_spec(tiny())
    drop = (usual,) if usual in PUBLISHED else ()
    assert decoder_spec(tiny(*drop, **{alias: value})) == by_usual
    assert decoder_spec(tiny(**{usual: value, alias: value})) == by_usual
    other = PUBLISHED.get(usual, [0.0, 0.5])
    with pytest.raises(ValueError, match="contradicts itself") as caught:
        decoder_spec(tiny(**{usual: other, alias: value}))
    assert f"{usual}=" in str(caught.value)
    assert f"{alias}=" in str(caught.value)


@pytest.mark.parametrize("alone", ["layer_norm_epsilon", "norm_eps", "rms_norm_eps"])
def test_three_names_of_epsilon(alone: str) -> None:
    bare = published("layer_norm_epsilon", "norm_eps")
    assert decoder_spec({**bare, alone: 3e-6}).norm_eps == 3e-6
    with pytest.raises(ValueError, match="has no layer_norm_epsilon"):
        decoder_spec(bare)
    with pytest.raises(ValueError, match=r"layer_norm_epsilon=1e-05 and norm_eps=1e-06"):
        decoder_spec(published(norm_eps=1e-6))


@pytest.mark.parametrize(
    ("limit", "wanted"),
    [
        (None, (0.0, math.inf)),
        ([0.0, math.inf], (0.0, math.inf)),
        ((0.0, "Infinity"), (0.0, math.inf)),
        ([0.0, "inf"], (0.0, math.inf)),
        ([0.0, {"__float__": "Infinity"}], (0.0, math.inf)),
        ([0.0, 1e30], (0.0, math.inf)),
        ([0, None], (0.0, math.inf)),
        ([None, 0.5], (0.0, 0.5)),
        ([0.001, 0.1], (0.001, 0.1)),
    ],
)
def test_time_step_limit(limit: Any, wanted: tuple[float, float]) -> None:
    assert decoder_spec(published(time_step_limit=limit)).mamba.time_step_limit == wanted


def test_infinity_survives_json() -> None:
    text = json.dumps(published(time_step_limit=[0.0, math.inf]))
    assert "Infinity" in text
    assert decoder_spec(json.loads(text)) == PUBLISHED_SPEC


@pytest.mark.parametrize("size", [96, [96], [96, 96]])
def test_dense_intermediate_size(size: Any) -> None:
    assert decoder_spec(tiny(intermediate_size=size)).dense.intermediate_size == 96


@pytest.mark.parametrize(("eos", "wanted"), [(2, (2,)), ([2, 11], (2, 11)), (None, ()), (0, (0,))])
def test_eos_tokens(eos: Any, wanted: tuple[int, ...]) -> None:
    assert decoder_spec(published(eos_token_id=eos)).eos_token_ids == wanted


def test_the_outer_eos_wins_and_the_inner_one_helps_out() -> None:
    assert decoder_spec({**omni(eos_token_id=2), "eos_token_id": [2, 11]}).eos_token_ids == (2, 11)
    config = omni(eos_token_id=2)
    del config["eos_token_id"]
    assert decoder_spec(config).eos_token_ids == (2,)


def test_defaults_of_a_silent_file() -> None:
    silent = tiny(
        "mamba_ssm_cache_dtype", "torch_dtype", "use_conv_bias", "norm_topk_prob", "tie_word_embeddings", "n_group",
        "topk_group", "routed_scaling_factor", "n_shared_experts", "attention_bias", "mlp_bias", "use_bias",
        "mamba_proj_bias", "residual_in_fp32", "sliding_window", "mlp_hidden_act", "mamba_hidden_act",
        "num_key_value_heads",
    )  # fmt: skip
    wanted = dataclasses.replace(decoder_spec(tiny()), dtype=None)
    wanted = resized(wanted, MoESpec, router_scale=1.0)
    wanted = resized(wanted, AttentionSpec, num_kv_heads=PUBLISHED["num_attention_heads"])
    assert decoder_spec(silent) == wanted


def test_text_config_key_and_both_keys() -> None:
    config = omni()
    inner = config.pop("llm_config")
    wanted = decoder_spec(omni())
    assert decoder_spec({**config, "text_config": inner}) == wanted
    assert decoder_spec({**config, "text_config": inner, "llm_config": dict(inner)}) == wanted
    with pytest.raises(ValueError, match="llm_config and text_config differ"):
        decoder_spec({**config, "text_config": inner, "llm_config": {**inner, "head_dim": 64}})


# ---- objects --------------------------------------------------------------------------------------------------------


def test_plain_attributes() -> None:
    assert decoder_spec(SimpleNamespace(**PUBLISHED)) == PUBLISHED_SPEC
    config = SimpleNamespace(**omni())
    config.llm_config = SimpleNamespace(**config.llm_config)
    assert decoder_spec(config) == decoder_spec(omni())
    assert is_nano(config) is None


class DefaultFiller:
    """As config classes do: writes its own defaults under the spellings that the checkpoint did not use."""

    rms_norm_eps = 1e-5

    def __init__(self, *, mamba_n_groups: int = 8, layer_norm_epsilon: float = 1e-5, **kwargs: Any) -> None:
        self.mamba_n_groups, self.layer_norm_epsilon = mamba_n_groups, layer_norm_epsilon
        self.rms_norm_eps = type(self).rms_norm_eps
        for name, value in kwargs.items():
            setattr(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


class Heir(DefaultFiller):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)


@pytest.mark.parametrize("cls", [DefaultFiller, Heir])
def test_defaults_of_a_config_class_contradict_nothing(cls: type) -> None:
    bare = published("layer_norm_epsilon", "norm_eps", "n_groups")
    spec = decoder_spec(cls(**bare, n_groups=2, norm_eps=1e-6))
    assert (spec.mamba.num_groups, spec.norm_eps) == (2, 1e-6)
    assert decoder_spec(cls(**bare)).mamba.num_groups == 8
    assert decoder_spec(cls(**bare, mamba_n_groups=2)).mamba.num_groups == 2
    with pytest.raises(ValueError, match="n_groups=4 and mamba_n_groups=2"):
        decoder_spec(cls(**bare, mamba_n_groups=2, n_groups=4))


def test_two_defaults_that_differ_still_contradict() -> None:
    class Torn:
        def __init__(self, n_groups: int = 4, mamba_n_groups: int = 8) -> None:
            vars(self).update(published(), n_groups=n_groups, mamba_n_groups=mamba_n_groups)

    with pytest.raises(ValueError, match="n_groups=4 and mamba_n_groups=8"):
        decoder_spec(Torn())


def test_transformers_config_object_and_its_file(tmp_path) -> None:
    from transformers import NemotronHConfig

    spec = decoder_spec(NemotronHConfig(**PUBLISHED))
    assert spec == PUBLISHED_SPEC
    NemotronHConfig(**PUBLISHED).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    # what transformers 5 writes is not what it read: other words, a tagged infinity
    assert "hybrid_override_pattern" not in written
    assert written["layers_block_type"][0] == "linear_attention"
    assert decoder_spec(written) == PUBLISHED_SPEC
    assert is_nano(written) is None
    assert is_nano(NemotronHConfig(**PUBLISHED)) is None
    # a default of the class (layer_norm_epsilon) beside what the file said (norm_eps)
    renamed = published("layer_norm_epsilon", norm_eps=2e-6)
    assert decoder_spec(NemotronHConfig(**renamed)).norm_eps == 2e-6


def test_transformers_omni_config_object(tmp_path) -> None:
    from transformers.models.nemotron_h_omni.configuration_nemotron_h_omni import NemotronH_Omni_Reasoning_V3_Config

    config = {name: value for name, value in omni().items() if name in ("eos_token_id", "torch_dtype", "llm_config")}
    read = NemotronH_Omni_Reasoning_V3_Config(**config)
    wanted = dataclasses.replace(PUBLISHED_SPEC, eos_token_ids=(11,))
    assert decoder_spec(read) == wanted
    assert is_nano(read) is None
    read.save_pretrained(tmp_path)
    assert decoder_spec(json.loads((tmp_path / "config.json").read_text())) == wanted


def test_sglang_config_objects() -> None:
    from sglang.srt.configs.nano_nemotron_vl import NemotronH_Nano_Omni_Reasoning_V3_Config
    from sglang.srt.configs.nemotron_h import NemotronHConfig, NemotronHPuzzleConfig

    assert decoder_spec(NemotronHConfig(**PUBLISHED)) == PUBLISHED_SPEC
    # the host's class keeps n_groups=2 beside its own default mamba_n_groups=8
    assert decoder_spec(NemotronHConfig(**published(n_groups=2))).mamba.num_groups == 2
    assert decoder_spec(NemotronHConfig(**published("n_groups", mamba_n_groups=2))).mamba.num_groups == 2
    read = NemotronH_Nano_Omni_Reasoning_V3_Config(**omni())
    assert decoder_spec(read) == decoder_spec(omni())
    assert is_nano(read) is None
    puzzle = NemotronHPuzzleConfig(block_configs=[{"block_type": "moe"}], **published("model_type"))
    assert "nemotron_h_puzzle" in str(is_nano(puzzle))


# ---- refusals -------------------------------------------------------------------------------------------------------

REFUSED = [
    ("mlp_hidden_act", "silu", "relu2"),
    ("mamba_hidden_act", "gelu", "silu"),
    ("attention_bias", True, "False"),
    ("mlp_bias", True, "False"),
    ("use_bias", True, "False"),
    ("mamba_proj_bias", True, "False"),
    ("residual_in_fp32", True, "False"),
    ("sliding_window", 4096, "null"),
    ("sliding_window", 0, "null"),
    ("mamba_ssm_cache_dtype", "float8_e4m3fn", "float32"),
    ("hybrid_override_pattern", "MEX*", "ME*-"),
    ("hybrid_override_pattern", "", "ME*-"),
    ("hybrid_override_pattern", 7, "ME*-"),
    ("num_hidden_layers", 5, "4 layers"),
    ("num_key_value_heads", 5, "num_attention_heads=32"),
    ("n_groups", 7, "mamba_num_heads=64"),
    ("conv_kernel", 1, "2 or more"),
    ("topk_group", 2, "n_group=1"),
    ("n_group", 3, "n_routed_experts=128"),
    ("num_experts_per_tok", 129, "128 experts"),
    ("intermediate_size", [96, 128], "list of equal integers"),
    ("intermediate_size", [], "list of equal integers"),
    ("hidden_size", 0, "positive integer"),
    ("hidden_size", True, "positive integer"),
    ("vocab_size", "131072", "positive integer"),
    ("head_dim", -128, "positive integer"),
    ("n_shared_experts", -1, "positive integer"),
    ("layer_norm_epsilon", 0.0, "positive number"),
    ("routed_scaling_factor", math.nan, "positive number"),
    ("routed_scaling_factor", math.inf, "positive number"),
    ("use_conv_bias", "yes", "true, false"),
    ("norm_topk_prob", 1, "true, false"),
    ("eos_token_id", "</s>", "positive integer"),
    ("time_step_limit", [0.5, 0.1], "0 <= low < high"),
    ("time_step_limit", [-1.0, 0.1], "0 <= low < high"),
    ("time_step_limit", [0.0, math.nan], "0 <= low < high"),
    ("time_step_limit", [0.0], "[low, high]"),
    ("time_step_limit", [0.0, {"__float__": "NaN"}], "0 <= low < high"),
    ("time_step_limit", [{"__float__": "Infinity"}, 1.0], "0 <= low < high"),
    ("time_step_limit", [0.0, {"float": "Infinity"}], "numbers, 'Infinity' or null"),
    ("time_step_limit", [0.0, [1.0]], "numbers, 'Infinity' or null"),
    ("time_step_limit", [0.0, "much"], "numbers, 'Infinity' or null"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), REFUSED)
def test_refusal_names_field_value_and_what_is_allowed(name: str, value: Any, allowed: str) -> None:
    config = tiny(**{name: value})
    with pytest.raises(ValueError) as caught:
        decoder_spec(config)
    message = str(caught.value)
    assert name in message
    assert (str(value[-1]) if isinstance(value, list) and value else str(value)) in message
    assert allowed in message


def test_unknown_words_are_named() -> None:
    with pytest.raises(ValueError, match=r"layers_block_type has unknown layer types \['gated_deltanet'\]"):
        decoder_spec(tiny("hybrid_override_pattern", layers_block_type=["mamba", "moe", "gated_deltanet", "mlp"]))


def test_disagreeing_patterns_are_named() -> None:
    with pytest.raises(ValueError, match=r"hybrid_override_pattern='ME\*-' and layers_block_type='MEM-'"):
        decoder_spec(tiny(layers_block_type=["mamba", "moe", "linear_attention", "mlp"]))


REQUIRED = [
    "hidden_size", "vocab_size", "num_attention_heads", "head_dim", "mamba_num_heads", "mamba_head_dim", "n_groups",
    "ssm_state_size", "conv_kernel", "chunk_size", "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size",
    "moe_shared_expert_intermediate_size", "intermediate_size", "max_position_embeddings", "hybrid_override_pattern",
]  # fmt: skip


@pytest.mark.parametrize("name", REQUIRED)
def test_missing_or_null_sizes_are_named(name: str) -> None:
    for config in (tiny(name), tiny(**{name: None})):
        with pytest.raises(ValueError, match=f"the config has no {name}"):
            decoder_spec(config)


def test_router_by_groups() -> None:
    spec = decoder_spec(tiny(n_group=8, topk_group=2))
    assert (spec.moe.router_num_groups, spec.moe.router_top_groups) == (8, 2)
    with pytest.raises(ValueError, match="num_experts_per_tok=33 exceeds the 32 experts"):
        decoder_spec(tiny(n_group=8, topk_group=2, num_experts_per_tok=33))
    with pytest.raises(ValueError, match="n_group=128 leaves 1 expert per group"):
        decoder_spec(tiny(n_group=128, topk_group=64))


def test_no_shared_expert() -> None:
    assert (
        decoder_spec(tiny("moe_shared_expert_intermediate_size", n_shared_experts=0)).moe.shared_intermediate_size == 0
    )
    assert decoder_spec(tiny(n_shared_experts=2)).moe.shared_intermediate_size == 7424


# ---- whose model ----------------------------------------------------------------------------------------------------

NOT_OURS = [
    ({"model_type": "llama"}, "model_type='llama'"),
    ({"model_type": "nemotron_h_puzzle"}, "nemotron_h_puzzle"),
    ({"moe_latent_size": 1024}, "moe_latent_size=1024"),
    ({"num_nextn_predict_layers": 1}, "num_nextn_predict_layers=1"),
    ({"block_configs": [{"block_type": "moe"}]}, "block_configs"),
    ({"per_layer_config": {"0": {"moe_intermediate_size": 8}}}, "per_layer_config"),
]


@pytest.mark.parametrize(("change", "why"), NOT_OURS)
def test_other_families_are_left_alone(change: dict[str, Any], why: str) -> None:
    for config in (published(**change), omni(**change), SimpleNamespace(**published(**change))):
        assert why in str(is_nano(config))
        with pytest.raises(ValueError, match="not a Nemotron 3 Nano decoder"):
            decoder_spec(config)


def test_ours() -> None:
    assert is_nano(published()) is None
    # what the reference class writes when a family has these features and this checkpoint does not use them
    harmless = {"moe_latent_size": None, "num_nextn_predict_layers": 0, "block_configs": None, "per_layer_config": {}}
    assert is_nano(published(**harmless)) is None
    assert decoder_spec(published(**harmless)) == PUBLISHED_SPEC
    assert is_nano({**omni(), "model_type": "nemotron_h_omni"}) is None
    # dense members of the family are ours too: every layer kind is implemented
    assert is_nano(tiny(hybrid_override_pattern="M-*-")) is None


def test_other_multimodal_models_are_left_alone() -> None:
    assert "NemotronH_Nano_VL_V2" in str(is_nano({**omni(), "model_type": "NemotronH_Nano_VL_V2"}))


def test_a_config_without_model_type_is_not_claimed_but_can_be_read() -> None:
    assert "model_type is absent" in str(is_nano(published("model_type")))
    assert decoder_spec(published("model_type")) == PUBLISHED_SPEC


# ---- parallel -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tp_size", [1, 2, 4, 8, 16, 32])
def test_published_model_splits(tp_size: int) -> None:
    check_parallel(PUBLISHED_SPEC, tp_size, pp_size=4)
    check_parallel(PUBLISHED_SPEC, tp_size, ep_size=tp_size)


@pytest.mark.parametrize("tp_size", [3, 5, 6, 7, 12, 24, 48, 64, 128])
@pytest.mark.parametrize("model", ["text", "omni"])
def test_published_models_do_not_split_over_other_counts(model: str, tp_size: int) -> None:
    spec = PUBLISHED_SPEC if model == "text" else decoder_spec(omni())
    with pytest.raises(ValueError) as caught:
        check_parallel(spec, tp_size)
    name, heads = ("num_attention_heads", 32) if 64 % tp_size == 0 else ("mamba_num_heads", 64)
    assert str(caught.value) == f"{name}={heads} cannot be split over tp_size={tp_size}; choose a divisor of {heads}"


TINY = decoder_spec(tiny(intermediate_size=2048))


@pytest.mark.parametrize(
    ("kind", "change", "parallel", "named"),
    [
        (MambaSpec, {}, {"tp_size": 3}, "mamba_num_heads=64 cannot be split over tp_size=3"),
        (AttentionSpec, {"num_heads": 6}, {"tp_size": 4}, "num_attention_heads=6"),
        (MambaSpec, {"num_heads": 24, "num_groups": 8}, {"tp_size": 16}, "mamba_num_heads=24"),
        (MoESpec, {"expert_intermediate_size": 1860}, {"tp_size": 8}, "moe_intermediate_size=1860"),
        (MoESpec, {"shared_intermediate_size": 3708}, {"tp_size": 8}, "shared expert intermediate size=3708"),
        (DenseSpec, {"intermediate_size": 1852}, {"tp_size": 8}, "intermediate_size=1852"),
        (AttentionSpec, {"num_heads": 24, "num_kv_heads": 3}, {"tp_size": 8}, "num_key_value_heads=3"),
        (AttentionSpec, {"num_heads": 24, "num_kv_heads": 6}, {"tp_size": 4}, "num_key_value_heads=6"),
        (MambaSpec, {"num_heads": 24, "num_groups": 3}, {"tp_size": 8}, "n_groups=3"),
        (MambaSpec, {}, {"tp_size": 0}, "tp_size=0"),
        (MambaSpec, {}, {"tp_size": 8, "ep_size": 3}, "ep_size=3 does not divide tp_size=8"),
        (MoESpec, {"num_experts": 12}, {"tp_size": 8, "ep_size": 8}, "n_routed_experts=12"),
        (MambaSpec, {}, {"tp_size": 1, "pp_size": 5}, "pp_size=5 exceeds num_hidden_layers=4"),
    ],
)
def test_impossible_splits_are_named(
    kind: type[LayerSpec], change: dict[str, Any], parallel: dict[str, int], named: str
) -> None:
    spec = resized(TINY, kind, **change)
    with pytest.raises(ValueError) as caught:
        check_parallel(spec, **parallel)
    assert named in str(caught.value)


def test_expert_parallel_relaxes_the_expert_split() -> None:
    spec = resized(TINY, MoESpec, expert_intermediate_size=1852)
    with pytest.raises(ValueError, match="moe_intermediate_size=1852"):
        check_parallel(spec, 8)
    check_parallel(spec, 8, ep_size=8)


def test_vocabulary_need_not_divide() -> None:
    check_parallel(dataclasses.replace(TINY, vocab_size=131073), 8)


# ---- laws -----------------------------------------------------------------------------------------------------------


@given(pattern=st.text("ME*-", min_size=1, max_size=60))
@settings(deadline=None, max_examples=100)
def test_layers_partition_the_pattern(pattern: str) -> None:
    change = {"hybrid_override_pattern": pattern, "num_hidden_layers": len(pattern)}
    spec = decoder_spec(published(**change))
    kinds = {kind.letter: spec.layers_of(kind) for kind in LAYER_KINDS}
    assert spec.pattern == pattern
    rebuilt = ["?"] * spec.num_layers
    for letter, layers in kinds.items():
        for layer in layers:
            assert rebuilt[layer] == "?"
            rebuilt[layer] = letter
    assert "".join(rebuilt) == pattern
    for words in (OLD_WORDS, NEW_WORDS):
        listed = published(
            "hybrid_override_pattern", "num_hidden_layers", layers_block_type=[words[c] for c in pattern]
        )
        assert decoder_spec(listed) == spec
