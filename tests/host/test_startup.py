"""What the main process refuses before a scheduler starts: flags, splits, and checkpoints that do not fit."""

from __future__ import annotations

import dataclasses
import json
import re
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sglang.srt.arg_groups.overrides import resolving_view
from sglang.srt.server_args import prepare_server_args

from sglang_nemotron.checkpoint.config_files import config_json
from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.config.decoder import DecoderSpec, decoder_spec
from sglang_nemotron.decoder.headers import INDEX, read_headers
from sglang_nemotron.decoder.weights import DecoderWeights
from sglang_nemotron.host import packages, startup, startup_omni
from sglang_nemotron.host.hf_config import NanoConfig
from support.costs import assert_cheap, cost
from support.specs import relayered

TOY = PRESETS["toy"]
SUPPORT = Path(__file__).parents[2] / "docs" / "support.md"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("startup") / "toy"
    write_checkpoint(TOY, folder)
    return folder


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A checkpoint of its own, in three files with an index, for the test to break."""
    write_checkpoint(dataclasses.replace(TOY, max_shard_bytes=300_000), tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    return tmp_path


def spec_of(folder: Path) -> DecoderSpec:
    return decoder_spec(json.loads((folder / "config.json").read_text()))


def check(folder: Path) -> None:
    startup.check_checkpoint(spec_of(folder), str(folder), "auto")


# ---- splits


@pytest.mark.parametrize("layout", ["nvfp4", "mixed"])
@pytest.mark.parametrize(("tp_size", "ep_size", "refused"), [(4, 1, False), (8, 1, True), (8, 2, False), (8, 8, False)])
def test_groups_of_nvfp4_experts_stay_whole(
    monkeypatch: pytest.MonkeyPatch, layout: str, tp_size: int, ep_size: int, refused: bool
) -> None:
    monkeypatch.setattr(startup, "on_our_cpu", lambda: False)
    written = config_json(dataclasses.replace(PRESETS["full"], quantization=layout))
    view, spec = SimpleNamespace(tp_size=tp_size, ep_size=ep_size), decoder_spec(written)
    hf_config = SimpleNamespace(quantization_config=written["quantization_config"])
    if not refused:
        startup.check_groups(view, spec, hf_config)
        return
    with pytest.raises(ValueError, match="moe_intermediate_size=1856 leaves 232 columns .* groups of 16; choose a sm"):
        startup.check_groups(view, spec, hf_config)


def test_other_weights_have_no_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "on_our_cpu", lambda: False)
    view = SimpleNamespace(tp_size=8, ep_size=1)
    for layout in ("none", "fp8"):
        written = config_json(dataclasses.replace(PRESETS["full"], quantization=layout))
        hf_config = SimpleNamespace(quantization_config=written.get("quantization_config"))
        startup.check_groups(view, decoder_spec(written), hf_config)


# ---- flags


def resolve(folder: Path, *flags: str) -> dict[str, Any]:
    server_args = prepare_server_args(["--model-path", str(folder), *flags])
    config = NanoConfig(**json.loads((folder / "config.json").read_text()))
    return startup.resolve(server_args, config, http_app=packages.HTTP_APP)


def test_plain_start_passes_and_sets_the_state_cache_alone(toy: Path) -> None:
    # sizes of the pools are the CPU platform's
    assert set(resolve(toy)) <= {"mamba_radix_cache_strategy", "mamba_full_memory_ratio"}


@pytest.mark.parametrize(
    "flags",
    [
        ["--speculative-algorithm", "NGRAM"],
        ["--enable-two-batch-overlap"],
        ["--enable-single-batch-overlap"],
        ["--enable-pdmux"],
        ["--attn-cp-size", "2"],
        ["--dcp-size", "2"],
        ["--enable-int8-mamba-checkpoint"],
        ["--enable-unified-memory"],
        ["--mamba-backend", "flashinfer"],
        ["--cuda-graph-backend-prefill", "breakable"],
        ["--enable-hierarchical-cache"],
        ["--ep-size", "2"],
        ["--moe-a2a-backend", "deepep"],
        ["--enable-eplb"],
        ["--ep-num-redundant-experts", "2"],
        ["--attn-dp-size", "2"],
        ["--enable-lora"],
    ],
    ids=lambda flags: flags[0],
)
def test_flag_is_refused_by_name(toy: Path, flags: list[str]) -> None:
    with pytest.raises(ValueError, match=re.escape(" ".join(flags)) + ".* is not supported .*; drop it, or set"):
        resolve(toy, *flags)


def test_limits_name_fields_that_sglang_has(toy: Path) -> None:
    view = resolving_view(prepare_server_args(["--model-path", str(toy)]))
    for limit in startup.LIMITS:
        getattr(view, limit.flag.removeprefix("--").replace("-", "_"))
        assert limit.given(view) is None, limit.flag
    for name, unset in startup.UNTRIED:
        assert getattr(view, name) in (unset, None, False), name


def test_cpu_limits_are_for_the_cpu() -> None:
    view = SimpleNamespace(ep_size=2)
    startup.check_flags(view, on_cpu=False)
    with pytest.raises(ValueError, match="--ep-size 2 is not supported on a CPU"):
        startup.check_flags(view, on_cpu=True)


def test_limits_of_our_gpu_kernels_are_for_the_gpu() -> None:
    view = SimpleNamespace(enable_deterministic_inference=True)
    startup.check_flags(view, on_cpu=True)
    with pytest.raises(ValueError, match="--enable-deterministic-inference is not supported on a GPU"):
        startup.check_flags(view, on_cpu=False)


def test_untried_flag_warns(caplog: pytest.LogCaptureFixture) -> None:
    startup.check_flags(SimpleNamespace(disaggregation_mode="prefill"), on_cpu=False)
    assert "--disaggregation-mode prefill was never tried" in caplog.text


def flags_of(text: str, heading: str) -> set[str]:
    """Flags under a heading: those of its table's first column, or of all its text where it has no table."""
    _, section = text.split(f"\n## {heading}", 1)
    section = section.split("\n## ", 1)[0]
    rows = re.findall(r"^\| (.*?) \|", section, re.M)
    return set(re.findall(r"`(--[a-z0-9-]+)`", " ".join(rows) or section))


DOCUMENTED = {
    "Refused everywhere": {limit.flag for limit in startup.LIMITS if not limit.cpu_only and not limit.cuda_only},
    "Refused on a GPU": {limit.flag for limit in startup.LIMITS if limit.cuda_only},
    "Refused on a CPU": {limit.flag for limit in startup.LIMITS if limit.cpu_only},
    "Refused for Omni": {limit.flag for limit in startup_omni.OMNI_LIMITS},
    "Untried": {"--" + name.replace("_", "-") for name, _ in startup.UNTRIED},
}


@pytest.mark.parametrize("heading", DOCUMENTED)
def test_support_table_is_the_codes(heading: str) -> None:
    text, flags = SUPPORT.read_text(), DOCUMENTED[heading]
    assert flags and flags_of(text, heading) == flags
    # the comparison can fail both ways, each flag for itself
    for flag in flags:
        assert flags_of(text.replace(f"`{flag}`", "nothing"), heading) == flags - {flag}
        assert flags_of(text.replace(f"`{flag}`", f"`{flag}`, `--new-flag`"), heading) == flags | {"--new-flag"}


def test_foreign_http_app_is_refused_for_workers(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(toy, "--tokenizer-worker-num", "2")
    monkeypatch.setenv("SGLANG_HTTP_SERVER_APP_PATH", "some.app:app")
    resolve(toy)
    with pytest.raises(ValueError, match="--tokenizer-worker-num 2 starts workers with some.app:app"):
        resolve(toy, "--tokenizer-worker-num", "2")


def test_split_that_does_not_divide_is_named(toy: Path) -> None:
    with pytest.raises(ValueError, match="mamba_num_heads=8 cannot be split over tp_size=3"):
        resolve(toy, "--tp", "3")


# ---- checkpoints


@pytest.mark.parametrize("quantization", [None, "fp8", "nvfp4", "mixed"])
def test_whole_checkpoint_passes(tmp_path: Path, quantization: str | None) -> None:
    changes = {} if quantization is None else {"quantization": quantization}
    write_checkpoint(dataclasses.replace(TOY, **changes), tmp_path)
    check(tmp_path)


def rewrite(file: Path, change: Any) -> None:
    """Applies `change` to the JSON header of a safetensors file, data untouched."""
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def some_tensor(file: Path) -> str:
    return next(name for name in read_header(file) if name != "__metadata__")


def read_header(file: Path) -> dict[str, Any]:
    raw = file.read_bytes()
    return json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])


def test_truncated_file(broken: Path) -> None:
    file = files(broken)[1]
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match=f"{file.name} is truncated: .* download it again"):
        check(broken)


@pytest.mark.parametrize("size", [0, 5, 20])
def test_file_cut_in_its_header(broken: Path, size: int) -> None:
    file = files(broken)[0]
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=f"{file.name} is truncated"):
        check(broken)


def test_file_that_is_no_safetensors(broken: Path) -> None:
    file = files(broken)[0]
    file.write_text("<html>404: not found; this is long enough to be read as a header of some length</html>")
    with pytest.raises(ValueError, match=f"{file.name} is truncated or no safetensors file"):
        check(broken)
    file.write_bytes(struct.pack("<Q", 4) + b"junk")
    with pytest.raises(ValueError, match=f"{file.name} is no safetensors file"):
        check(broken)


def test_missing_file(broken: Path) -> None:
    file = files(broken)[2]
    file.unlink()
    with pytest.raises(ValueError, match=f"names files that are not there: {file.name}"):
        check(broken)


def test_stale_file_beside_the_index_is_not_read(broken: Path) -> None:
    (broken / "old.safetensors").write_text("junk")
    check(broken)


def test_tensor_in_two_files(broken: Path) -> None:
    (broken / INDEX).unlink()
    check(broken)
    twice = broken / "z-again.safetensors"
    twice.write_bytes(files(broken)[0].read_bytes())
    with pytest.raises(ValueError, match="is in .* and in z-again.safetensors"):
        check(broken)


def test_index_promises_what_a_file_lacks(broken: Path) -> None:
    index = json.loads((broken / INDEX).read_text())
    index["weight_map"]["lm_head.bias"] = files(broken)[0].name
    (broken / INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match="names 1 tensors that their files lack: lm_head.bias"):
        check(broken)


def test_damaged_index(broken: Path) -> None:
    (broken / INDEX).write_text('{"weight_map": ')
    with pytest.raises(ValueError, match=f"{INDEX} is damaged"):
        check(broken)


def test_missing_and_extra_tensor_are_both_listed(broken: Path) -> None:
    (broken / INDEX).unlink()
    file = files(broken)[0]
    name = some_tensor(file)
    rewrite(file, lambda header: header.update({"surprise.weight": header.pop(name)}))
    with pytest.raises(ValueError) as wrong:
        check(broken)
    assert "1 tensors the model has no place for: surprise.weight" in str(wrong.value)
    assert f"1 tensors that are missing: {name}" in str(wrong.value)


def test_wrong_shape(toy: Path, tmp_path: Path) -> None:
    spec = dataclasses.replace(spec_of(toy), vocab_size=1281)
    with pytest.raises(ValueError) as wrong:
        startup.check_checkpoint(spec, str(toy), "auto")
    assert "lm_head.weight is [1280, 64], the config says [1281, 64]" in str(wrong.value)
    assert str(toy) in str(wrong.value)


def test_config_of_another_model(toy: Path) -> None:
    spec = relayered(spec_of(toy), "M*EME*")
    with pytest.raises(ValueError, match="the checkpoint does not fit the config: .*backbone.layers.1.mixer"):
        startup.check_checkpoint(spec, str(toy), "auto")


def test_shape_that_does_not_fill_its_bytes(broken: Path) -> None:
    file = files(broken)[0]
    name = some_tensor(file)
    rewrite(file, lambda header: header[name].update(shape=[1, *header[name]["shape"], 2]))
    with pytest.raises(ValueError, match=rf"{name} is \w+ \[1, .* the file is damaged"):
        check(broken)


def test_empty_folder(tmp_path: Path, toy: Path) -> None:
    with pytest.raises(ValueError, match="holds no .*safetensors file"):
        startup.check_checkpoint(spec_of(toy), str(tmp_path), "auto")


@pytest.mark.parametrize("load_format", ["dummy", "sharded_state"])
def test_other_load_formats_are_not_looked_at(tmp_path: Path, toy: Path, load_format: str) -> None:
    startup.check_checkpoint(spec_of(toy), str(tmp_path), load_format)
    startup.check_checkpoint(spec_of(toy), "nvidia/not-a-folder", "auto")


def test_full_size_costs_little_more_than_its_headers(tmp_path: Path) -> None:
    spec = decoder_spec(config_json(PRESETS["full"]))
    folder = tmp_path / "full"
    folder.mkdir()
    names = sparse_files(folder, DecoderWeights(spec, 1, dequantise=False), shards=13)
    assert len(names) == 6_243

    def parse_headers() -> None:
        for file in folder.glob("*.safetensors"):
            with file.open("rb") as data:
                json.loads(data.read(struct.unpack("<Q", data.read(8))[0]))

    def check() -> None:
        startup.check_checkpoint(spec, str(folder), "auto")

    assert_cheap(check, beside=cost(parse_headers), times=40, what="parsing the headers as JSON")


def sparse_files(folder: Path, weights: DecoderWeights, shards: int) -> list[str]:
    """The headers of a whole checkpoint, each file as long as it says, without a byte of weights on disk."""
    names = list(weights.targets)
    weight_map = {}
    for shard in range(shards):
        header, end = {}, 0
        file = folder / f"model-{shard:05}.safetensors"
        for name in names[shard::shards]:
            shape = list(weights.targets[name].shape)
            size = 2
            for count in shape:
                size *= count
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
            end += size
            weight_map[name] = file.name
        text = json.dumps(header).encode()
        with file.open("wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            out.truncate(8 + len(text) + end)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return names


def test_headers_say_what_safetensors_says(toy: Path) -> None:
    from safetensors import safe_open

    headers = read_headers(toy)
    with safe_open(next(toy.glob("*.safetensors")), "pt") as file:
        expected = {n: (file.get_slice(n).get_dtype(), tuple(file.get_slice(n).get_shape())) for n in file.keys()}  # noqa: SIM118
    assert headers == expected
