"""What lies on disk: config spellings, weight names and dtypes, shards, reproducibility, refusals."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from sglang_nemotron.checkpoint.config_files import config_json
from sglang_nemotron.checkpoint.spec import PRESETS, CheckpointSpec
from sglang_nemotron.checkpoint.tensors import SourceTensor, inventory
from sglang_nemotron.checkpoint.values import make_values
from sglang_nemotron.checkpoint.writer import stored_tensors, write_checkpoint
from sglang_nemotron.config.decoder import decoder_spec

TOY = PRESETS["toy"]

# config.json of the published Nemotron 3 Nano 30B-A3B, field for field
PUBLISHED = json.loads((Path(__file__).parent.parent / "data" / "nano-30b-a3b.config.json").read_text())


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def load(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def test_full_config_is_the_published_one():
    assert config_json(PRESETS["full"]) == PUBLISHED


def test_full_inventory_has_the_published_counts():
    # 31,577,937,344 parameters in 6,243 tensors; the 23 correction biases are float32 and count as buffers
    spec = PRESETS["full"]
    stored = [tensor for source in inventory(spec) for tensor in stored_tensors(spec, source, {})]
    assert len(stored) == len({tensor.name for tensor in stored}) == 6243
    assert sum(math.prod(tensor.shape) for tensor in stored if tensor.dtype == torch.bfloat16) == 31_577_937_344
    float32 = [tensor.name for tensor in stored if tensor.dtype == torch.float32]
    assert len(float32) == 23 and all(name.endswith(".mixer.gate.e_score_correction_bias") for name in float32)


def test_toy_names_shapes_and_dtypes(toy: Path):
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in load(toy).items()}
    bf16 = torch.bfloat16
    expected = {"backbone.embeddings.weight": (1280, 64), "backbone.norm_f.weight": (64,), "lm_head.weight": (1280, 64)}
    for i, letter in enumerate("MEM*EM"):
        mixer = f"backbone.layers.{i}.mixer"
        expected[f"backbone.layers.{i}.norm.weight"] = (64,)
        if letter == "M":
            expected |= {f"{mixer}.{leaf}": (8,) for leaf in ("A_log", "D", "dt_bias")}
            # x 128, B and C 2 groups x 16 states each; in_proj adds the gate 128 and dt 8
            expected |= {f"{mixer}.conv1d.weight": (192, 1, 4), f"{mixer}.conv1d.bias": (192,)}
            expected |= {f"{mixer}.in_proj.weight": (328, 64), f"{mixer}.out_proj.weight": (64, 128)}
            expected[f"{mixer}.norm.weight"] = (128,)
        elif letter == "*":
            expected |= {f"{mixer}.q_proj.weight": (64, 64), f"{mixer}.o_proj.weight": (64, 64)}
            expected |= {f"{mixer}.{leaf}.weight": (32, 64) for leaf in ("k_proj", "v_proj")}
        else:
            expected[f"{mixer}.gate.weight"] = (8, 64)
            for expert in range(8):
                expected[f"{mixer}.experts.{expert}.up_proj.weight"] = (48, 64)
                expected[f"{mixer}.experts.{expert}.down_proj.weight"] = (64, 48)
            expected[f"{mixer}.shared_experts.up_proj.weight"] = (96, 64)
            expected[f"{mixer}.shared_experts.down_proj.weight"] = (64, 96)
    wanted: dict[str, object] = {name: (shape, bf16) for name, shape in expected.items()}
    wanted |= {f"backbone.layers.{i}.mixer.gate.e_score_correction_bias": ((8,), torch.float32) for i in (1, 4)}
    assert found == wanted


def test_toy_is_frozen():
    # speed figures refer to these sizes; change the figures before changing a size
    sizes = {field.name: getattr(TOY, field.name) for field in fields(CheckpointSpec)}
    frozen = {
        "hybrid_override_pattern": "MEM*EM",
        "hidden_size": 64,
        "vocab_size": 1280,
        "max_position_embeddings": 4096,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "mamba_num_heads": 8,
        "mamba_head_dim": 16,
        "n_groups": 2,
        "ssm_state_size": 16,
        "conv_kernel": 4,
        "chunk_size": 16,
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 48,
        "moe_shared_expert_intermediate_size": 96,
        "dtype": "bfloat16",
        "tie_word_embeddings": False,
    }
    assert {name: sizes[name] for name in frozen} == frozen


def test_generation_config_stops_on_both_ends(toy: Path):
    generation = json.loads((toy / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [2, 11] and generation["bos_token_id"] == 1


@pytest.mark.parametrize("limit", [None, (0.0, 1e30), (0.001, 0.5), (0.0, math.inf)])
@pytest.mark.parametrize("pattern", ["MEM*EM", "-*M-E", "E"])
def test_spellings_describe_the_same_decoder(pattern: str, limit: tuple[float, float] | None):
    spec = replace(TOY, hybrid_override_pattern=pattern, time_step_limit=limit)
    published, transformers, alt = (
        # through text, as an engine reads it
        json.loads(json.dumps(config_json(replace(spec, spelling=spelling))))
        for spelling in ("published", "transformers", "alt")
    )
    assert "layers_block_type" not in published and "hybrid_override_pattern" not in transformers
    assert "n_groups" not in alt and alt["mamba_n_groups"] == transformers["n_groups"] == 2
    assert "auto_map" not in transformers and transformers["dtype"] == published["torch_dtype"]
    assert ("time_step_limit" in published) == (limit is not None)
    if limit in (None, (0.0, math.inf)):
        # how transformers 5.19 writes an infinity; its own loader reads it back
        assert transformers["time_step_limit"] == [0.0, {"__float__": "Infinity"}]
        transformers["time_step_limit"] = [0.0, math.inf]
    assert decoder_spec(published) == decoder_spec(transformers) == decoder_spec(alt)


def test_same_seed_same_bytes_whatever_the_threads(tmp_path: Path, toy: Path):
    write_checkpoint(TOY, tmp_path / "one", jobs=1)
    write_checkpoint(TOY, tmp_path / "many", jobs=7)
    assert digest(tmp_path / "one") == digest(tmp_path / "many") == digest(toy)
    write_checkpoint(replace(TOY, seed=1), tmp_path / "other")
    assert digest(tmp_path / "other")["model.safetensors"] != digest(toy)["model.safetensors"]


def test_values_hold_still_across_releases():
    # a golden: benchmarks and bug reports name a seed, so a seed's values are part of the interface
    values = make_values(0, SourceTensor("golden.weight", (3, 5), "linear"), torch.float32)
    assert values.flatten()[:4].tolist() == GOLDEN
    assert make_values(0, SourceTensor("golden.weight", (5, 3), "linear"), torch.float32).flatten()[0] != values[0, 0]
    assert make_values(0, SourceTensor("other.weight", (3, 5), "linear"), torch.float32)[0, 0] != values[0, 0]


GOLDEN = [0.37890625, -0.2890625, -0.48046875, -0.00616455078125]


def test_tensors_do_not_depend_on_their_neighbours(make, toy: Path):
    longer = load(make(hybrid_override_pattern="MEM*EM-*E", tie_word_embeddings=False))
    short = load(toy)
    assert short.keys() < longer.keys()
    assert all(torch.equal(short[name], longer[name]) for name in short)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_dtypes_hold_the_same_values(make, toy: Path, dtype: str):
    reference, other = load(toy), load(make(dtype=dtype))
    for name, tensor in other.items():
        expected = torch.float32 if name.endswith("e_score_correction_bias") else getattr(torch, dtype)
        assert tensor.dtype == expected
        difference = (tensor.double() - reference[name].double()).abs().max()
        # float16 cannot hold bfloat16's smallest numbers
        assert difference <= (3e-8 if dtype == "float16" else 0), name


def test_correction_bias_needs_float32(toy: Path):
    # rounded to bfloat16 it would select other experts, so that a wrong cast shows
    bias = load(toy)["backbone.layers.1.mixer.gate.e_score_correction_bias"]
    assert not torch.equal(bias, bias.bfloat16().float())


@pytest.mark.parametrize("limit", [1, 50_000, 200_000])
def test_shards_add_up(make, toy: Path, limit: int):
    out = make(max_shard_bytes=limit)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    shards = sorted(path.name for path in out.glob("*.safetensors"))
    assert shards == [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    assert set(index["weight_map"].values()) == set(shards) and len(shards) > 1
    total = 0
    for name in shards:
        with safe_open(out / name, framework="pt") as shard:
            assert {key for key, file in index["weight_map"].items() if file == name} == set(shard.keys())
            sizes = [shard.get_tensor(key).nbytes for key in shard.keys()]  # noqa: SIM118  (no mapping)
            assert sum(sizes) <= limit or len(sizes) == 1
            total += sum(sizes)
    assert index["metadata"]["total_size"] == total
    whole, split = load(toy), load(out)
    assert whole.keys() == split.keys() and all(torch.equal(whole[name], split[name]) for name in whole)


def test_tensors_are_aligned_and_leave_no_gap(make):
    # readers map the file and view it in place; odd sizes and three item sizes make misalignment likely
    data = (make(quantization="fp8", hidden_size=63, moe_intermediate_size=41) / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}
    widths = {"F32": 4, "BF16": 2, "F8_E4M3": 1}
    assert {entry["dtype"] for entry in header.values()} == set(widths)
    end = 0
    for entry in sorted(header.values(), key=lambda entry: entry["data_offsets"]):
        begin, width = entry["data_offsets"][0], widths[entry["dtype"]]
        assert begin == end and (8 + length + begin) % width == 0
        end = entry["data_offsets"][1]
        assert end - begin == width * math.prod(entry["shape"])
    assert 8 + length + end == len(data)


def test_a_single_file_has_no_index(toy: Path):
    assert not (toy / "model.safetensors.index.json").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hybrid_override_pattern": "MXM"}, "hybrid_override_pattern is 'MXM'"),
        ({"hybrid_override_pattern": ""}, "hybrid_override_pattern is ''"),
        ({"n_groups": 3}, "mamba_num_heads is 8; it must be a multiple of n_groups"),
        ({"num_key_value_heads": 3}, "num_attention_heads is 4"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok is 9; a token can reach only 8"),
        ({"n_group": 4, "topk_group": 1, "num_experts_per_tok": 3}, "a token can reach only 2"),
        ({"n_group": 8, "topk_group": 8}, "n_group is 8"),
        ({"vocab_size": 1255}, "vocab_size is 1255"),
        ({"hidden_size": 0}, "hidden_size is 0; it must be at least 1"),
        ({"max_shard_bytes": 0}, "max_shard_bytes is 0"),
        ({"dtype": "fp8"}, "dtype is 'fp8'"),
        ({"spelling": "hf"}, "spelling is 'hf'"),
        ({"quantization": "int4"}, "quantization is 'int4'"),
        ({"time_step_limit": (1.0, 0.5)}, "time_step_limit"),
        ({"seed": -1}, "seed is -1"),
        ({"quantization": "nvfp4", "moe_intermediate_size": 40}, "moe_intermediate_size is 40"),
        ({"quantization": "mixed", "hidden_size": 72}, "hidden_size is 72"),
        ({"quantization": "nvfp4", "mamba_head_dim": 15}, "mamba_num_heads x mamba_head_dim is 120"),
        ({"quantization": "nvfp4", "moe_shared_expert_intermediate_size": 40}, "shared_expert_intermediate_size is 40"),
        (
            {"quantization": "nvfp4", "hybrid_override_pattern": "M-", "intermediate_size": 40},
            "intermediate_size is 40; ",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_named(changes: dict, words: str):
    with pytest.raises(ValueError, match="^[a-z]") as error:
        replace(TOY, **changes)
    assert words in str(error.value)


def test_nvfp4_minds_only_what_it_packs():
    # no dense layer and no NVFP4 outside the routed experts: those sizes are free
    replace(TOY, quantization="nvfp4", intermediate_size=40)
    replace(TOY, quantization="mixed", moe_shared_expert_intermediate_size=40, mamba_head_dim=15)
    replace(TOY, quantization="fp8", moe_intermediate_size=40)


def test_a_folder_in_use_is_left_alone(tmp_path: Path):
    note = tmp_path / "note.txt"
    note.write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        write_checkpoint(TOY, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
    with pytest.raises(ValueError, match="is a file"):
        write_checkpoint(TOY, note)


def test_overwriting_leaves_nothing_of_the_old_checkpoint(tmp_path: Path, toy: Path):
    out = tmp_path / "checkpoint"
    write_checkpoint(replace(TOY, quantization="fp8", max_shard_bytes=50_000), out)
    (out / "note.txt").write_text("mine")
    write_checkpoint(TOY, out, overwrite=True)
    left = digest(out)
    assert left.pop("note.txt")
    assert left == digest(toy)


def test_an_interrupted_run_leaves_no_checkpoint(tmp_path: Path):
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(TOY, tmp_path / "out", progress=interrupt)
    assert not (tmp_path / "out" / "config.json").exists()


def test_progress_ends_at_the_total(tmp_path: Path):
    seen = []
    write_checkpoint(TOY, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    total = seen[-1][1]
    assert seen[-1] == (total, total) and seen == sorted(seen) and {pair[1] for pair in seen} == {total}
    assert total == sum(tensor.nbytes for tensor in load(tmp_path / "out").values())
