"""The make-checkpoint command: flags reach the files, mistakes cost two lines and exit code 2."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from safetensors.torch import load_file

from sglang_nemotron.checkpoint.spec import CheckpointSpec
from sglang_nemotron.checkpoint.tower_spec import TowerSpec
from sglang_nemotron.cli import make_checkpoint


def parse(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    make_checkpoint.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def run(*words: object) -> int:
    return make_checkpoint.run(parse(*words))


def test_the_default_is_toy(tmp_path: Path, toy: Path, capsys: pytest.CaptureFixture[str]):
    assert run(tmp_path / "out") == 0
    for path in toy.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    captured = capsys.readouterr()
    assert "6 layers MEM*EM, bfloat16" in captured.out and captured.err == ""


def test_flags_reach_the_files(tmp_path: Path):
    flags = (
        "--pattern M-*E --n-groups 4 --ssm-state-size 32 --dtype float32 --tie-word-embeddings --time-step-limit 0,inf"
    )
    flags += " --max-shard-bytes 0.1MB --no-use-conv-bias --spelling published --seed 5"
    assert run(tmp_path, *flags.split()) == 0
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["hybrid_override_pattern"] == "M-*E" and config["n_groups"] == 4
    assert config["torch_dtype"] == "float32" and config["time_step_limit"] == [0.0, float("inf")]
    tensors = {k: v for path in tmp_path.glob("model-*.safetensors") for k, v in load_file(path).items()}
    assert "lm_head.weight" not in tensors and "backbone.layers.0.mixer.conv1d.bias" not in tensors
    assert tensors["backbone.layers.0.mixer.conv1d.weight"].shape == (8 * 16 + 2 * 4 * 32, 1, 4)


def test_every_field_has_a_flag():
    given = set(vars(parse("out")))
    # the towers as a whole are --omni, and each of their sizes has a flag as well
    assert {field.name for field in fields(CheckpointSpec)} - {"towers"} | {"omni"} <= given
    assert {field.name for field in fields(TowerSpec)} <= given


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--n-groups", "3"], "must be a multiple of n_groups (3)"),
        (["--pattern", "MQ"], "hybrid_override_pattern is 'MQ'"),
        (["--jobs", "0"], "--jobs is 0"),
        (["--quantization", "nvfp4", "--hidden-size", "40"], "hidden_size is 40"),
    ],
)
def test_mistakes_cost_two_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str):
    assert run(tmp_path / "out", *flags) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 2 and "\n  remedy: " in error
    assert not (tmp_path / "out").exists()


def test_force_is_needed_to_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(tmp_path) == 0
    before = (tmp_path / "model.safetensors").read_bytes()
    assert run(tmp_path, "--seed", 1) == 2
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert run(tmp_path, "--seed", 1, "--force") == 0
    assert (tmp_path / "model.safetensors").read_bytes() != before


def test_a_disk_too_small_is_told_before_writing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    # 5 PB of experts
    assert run(tmp_path / "out", "--moe-intermediate-size", 10**10, "--pattern", "E" * 300) == 2
    assert "GB free; the weights need" in capsys.readouterr().err
    assert not any((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("words", [["--max-shard-bytes", "lots"], ["--time-step-limit", "1"], ["--size", "huge"]])
def test_unreadable_arguments(words: list[str]):
    with pytest.raises(SystemExit) as stopped:
        parse("out", *words)
    assert stopped.value.code == 2


@pytest.mark.parametrize(("text", "num_bytes"), [("500MB", 500_000_000), ("5gb", 5_000_000_000), ("123", 123)])
def test_byte_counts(text: str, num_bytes: int):
    assert parse("out", "--max-shard-bytes", text).max_shard_bytes == num_bytes


def test_the_room_needs_no_sglang(tmp_path: Path):
    # and --help needs no torch either
    code = (
        "import sys\n"
        "for name in ('sglang', 'triton', 'transformers'): sys.modules[name] = None\n"
        "import argparse\n"
        "from sglang_nemotron.cli import make_checkpoint\n"
        "assert 'torch' not in sys.modules\n"
        "parser = argparse.ArgumentParser()\n"
        "make_checkpoint.add_arguments(parser)\n"
        "parser.format_help()\n"
        "sys.exit(make_checkpoint.run(parser.parse_args(sys.argv[1:])))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "config.json").exists()


def test_omni_and_its_flags_reach_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = "--omni --vision-num-hidden-layers 3 --vision-intermediate-size 96 --video-pruning-rate 0.5 --seed 3"
    assert run(tmp_path, *flags.split(), "--template", "in-order", "--pattern", "M*E") == 0
    assert "3 layers M*E, with towers, bfloat16" in capsys.readouterr().out
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["NemotronH_Nano_Omni_Reasoning_V3"] and config["video_pruning_rate"] == 0.5
    assert config["vision_config"]["num_hidden_layers"] == 3
    assert config["vision_config"]["intermediate_size"] == 96 and config["vision_config"]["mlp_ratio"] == 1.5
    assert config["llm_config"]["hybrid_override_pattern"] == "M*E"
    tensors = load_file(tmp_path / "model.safetensors")
    assert "vision_model.radio_model.model.blocks.2.mlp.fc1.weight" in tensors
    assert "every part where the message has it" in (tmp_path / "chat_template.jinja").read_text()


def test_sizes_with_a_name_are_told_by_it(tmp_path: Path):
    # timm's name of a whole tower, as the published config has it; the sizes themselves are then left out
    flags = "--omni --pattern E --vision-hidden-size 768 --vision-num-hidden-layers 12 --vision-num-attention-heads 12"
    assert run(tmp_path, *flags.split(), "--vision-intermediate-size", 3072, "--max-resolution", 64) == 0
    vision = json.loads((tmp_path / "config.json").read_text())["vision_config"]
    assert vision["args"]["model"] == "vit_base_patch16_224" and "hidden_size" not in vision


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--vision-hidden-size", "32"], "--vision-hidden-size needs --omni"),
        (["--omni", "--sound-conv-kernel-size", "4"], "sound_conv_kernel_size is 4; it must be odd"),
        (["--omni", "--spelling", "alt"], "no Omni checkpoint"),
    ],
)
def test_mistakes_about_towers_cost_one_line(tmp_path: Path, capsys, flags: list[str], words: str):
    assert run(tmp_path / "out", *flags) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 2 and "\n  remedy: " in error
    assert not (tmp_path / "out").exists()
