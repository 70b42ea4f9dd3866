"""What the main process does for Omni before a scheduler: defaults of text, refusals, the size of the cache."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from sglang.srt.arg_groups.overrides import resolved_view, resolving_view
from sglang.srt.server_args import prepare_server_args

from sglang_nemotron.checkpoint.spec import OMNI_PRESETS, PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.config.omni import omni_spec
from sglang_nemotron.family import OMNI, TEXT
from sglang_nemotron.host import doors, kernels, packages, providers, startup, startup_omni, tables
from sglang_nemotron.media import libraries
from sglang_nemotron.sglang_api.args import override_providers

CACHE = "SGLANG_VLM_CACHE_SIZE_MB"


@pytest.fixture(scope="module", params=["published", "transformers"])
def toy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    write_checkpoint(replace(OMNI_PRESETS["toy"], spelling=request.param), folder)
    return folder


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    # so that what is set here is forgotten
    monkeypatch.setenv(CACHE, "0")
    monkeypatch.delenv(CACHE)
    monkeypatch.setenv("SGLANG_NEMOTRON_SERVES_OMNI", "1")


@pytest.fixture
def proved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "prove_all", lambda: None)


def resolve(folder: Path, *flags: str) -> Any:
    server_args = prepare_server_args(["--model-path", str(folder), *flags])
    server_args.resolve_once()
    return resolved_view(server_args)


# ---- tables


@pytest.mark.parametrize("given", [None, "extra_buffer", "extra_buffer_lazy"])
def test_overlap_runs_with_extra_buffer(toy: Path, proved: None, given: str | None) -> None:
    view = resolve(toy, *(["--mamba-radix-cache-strategy", given] if given else []))
    strategy = given or "extra_buffer_lazy"
    assert (view.mamba_radix_cache_strategy, view.disable_overlap_schedule) == (strategy, False)


def test_without_overlap_no_buffer(toy: Path, proved: None) -> None:
    view = resolve(toy, "--disable-overlap-schedule")
    assert (view.mamba_radix_cache_strategy, view.disable_overlap_schedule) == ("no_buffer", True)


def test_no_buffer_with_overlap_is_refused(toy: Path, proved: None) -> None:
    with pytest.raises(AssertionError, match="no_buffer do not support overlap"):
        resolve(toy, "--mamba-radix-cache-strategy", "no_buffer")


# the name that transformers saves is on SGLang's own list
@pytest.mark.parametrize("toy", ["published"], indirect=True)
def test_tables_without_ours_do_mix_them(toy: Path, proved: None, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tables.arch_tables._MAMBA_RADIX_CACHE_ARCHS
    monkeypatch.setattr(tables.arch_tables, "_MAMBA_RADIX_CACHE_ARCHS", listed - set(OMNI))
    # a start of ours chooses a strategy by itself
    monkeypatch.setattr(startup, "chosen_slots", lambda *_: {})
    view = resolve(toy)
    assert (view.mamba_radix_cache_strategy, view.disable_overlap_schedule) == ("auto", False)


# ---- defaults


def test_defaults_are_those_of_text(toy: Path, tmp_path: Path) -> None:
    write_checkpoint(PRESETS["toy"], tmp_path)
    # before resolution nothing is decided, so that the rules have something to say
    text = prepare_server_args(["--model-path", str(tmp_path)])
    (in_tree,) = [p for p in override_providers[TEXT] if kernels.is_intree(p)]
    wanted = in_tree(text, SimpleNamespace(architectures=[TEXT], mlp_hidden_act="relu2"))
    assert wanted
    omni = prepare_server_args(["--model-path", str(toy)])
    architecture = json.loads((toy / "config.json").read_text())["architectures"][0]
    given: dict[str, Any] = {}
    for provider in override_providers[architecture]:
        if kernels.is_intree(provider):
            given.update(provider(omni, SimpleNamespace(architectures=[architecture], quantization_config={})))
    given.update(startup_omni.defaults_of_text(omni, SimpleNamespace(architectures=[architecture])))
    assert given == wanted


# ---- refusals


@pytest.mark.parametrize(
    "flags",
    [
        ["--attn-dp-size", "2"],
        ["--mm-enable-dp-encoder"],
        ["--language-model-only"],
        ["--mm-attention-backend", "sdpa"],
    ],
    ids=lambda flags: flags[0],
)
def test_flag_is_refused_by_name(toy: Path, flags: list[str]) -> None:
    view = resolving_view(prepare_server_args(["--model-path", str(toy), *flags]))
    spec = omni_spec(json.loads((toy / "config.json").read_text()))
    limits = (*startup_omni.OMNI_LIMITS, *startup.LIMITS)
    with pytest.raises(ValueError, match=re.escape(" ".join(flags)) + ".* is not supported by sglang-nemotron"):
        startup.check_server(view, spec.decoder, http_app=packages.HTTP_APP, limits=limits)


def test_limits_name_fields_that_sglang_has(toy: Path) -> None:
    view = resolving_view(prepare_server_args(["--model-path", str(toy)]))
    for limit in startup_omni.OMNI_LIMITS:
        getattr(view, limit.flag.removeprefix("--").replace("-", "_"))
        assert limit.given(view) is None, limit.flag


def test_missing_library_refuses_omni_and_says_what_to_install(
    toy: Path, tmp_path: Path, proved: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries, "missing", lambda: ["av", "pillow"])
    with pytest.raises(ValueError, match=r"av, pillow, which are not installed; run: pip install '\.\[omni\]' in a"):
        resolve(toy)
    write_checkpoint(PRESETS["toy"], tmp_path)
    resolve(tmp_path)


@pytest.mark.parametrize(("name", "complaint"), [("mlp1.1.weight", "missing: mlp1.1.weight"), ("lm_head", "missing")])
def test_incomplete_checkpoint_is_named(tmp_path: Path, proved: None, name: str, complaint: str) -> None:
    write_checkpoint(OMNI_PRESETS["toy"], tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    tensors = load_file(file)
    dropped = next(n for n in tensors if name in n)
    save_file({n: t for n, t in tensors.items() if n != dropped}, file)
    with pytest.raises(ValueError, match=complaint + ".*" + re.escape(dropped) if name == "lm_head" else complaint):
        resolve(tmp_path)


@pytest.mark.parametrize("quantization", ["fp8", "nvfp4", "mixed"])
def test_quantised_checkpoint_passes(tmp_path: Path, proved: None, quantization: str) -> None:
    write_checkpoint(replace(OMNI_PRESETS["tiny"], quantization=quantization), tmp_path)
    assert resolve(tmp_path).uses_mamba_radix_cache


def test_super_omni_is_left_alone(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = json.loads((toy / "config.json").read_text())
    text = next(name for name in ("llm_config", "text_config") if name in fields)
    fields[text]["moe_latent_size"] = 8

    def never() -> None:
        raise AssertionError("a stranger's start was checked")

    monkeypatch.setattr(doors, "prove_all", never)
    (provider,) = [
        fn for fn in override_providers["NemotronH_Nano_Omni_Reasoning_V3"] if fn.__module__ == providers.__name__
    ]
    assert provider(None, SimpleNamespace(to_dict=lambda: fields, **fields)) == {}


# ---- cache of embeddings


@pytest.mark.parametrize(
    ("tokens", "device", "expected"),
    [
        # bf16 on 141 GB, and on 24 GB; a short context; more than a small device can spare
        (262_144, 144_384.0, 1444),
        (131_072, 24_576.0, 672),
        (4_096, 16_000.0, 160),
        (262_144, 8_192.0, 410),
    ],
)
def test_cache_holds_a_context_within_bounds(tokens: int, device: float, expected: int) -> None:
    assert startup_omni.cache_megabytes(tokens, 2688 * 2, device) == expected


def test_cache_is_sized_once_and_the_user_wins(toy: Path, proved: None, monkeypatch: pytest.MonkeyPatch) -> None:
    # 24 GB, of which 1 % is more than the toy's context needs
    monkeypatch.setattr(startup_omni, "_device_megabytes", lambda view: 24_576.0)
    resolve(toy)
    assert os.environ[CACHE] == "246"
    monkeypatch.setenv(CACHE, "33")
    resolve(toy)
    assert os.environ[CACHE] == "33"
