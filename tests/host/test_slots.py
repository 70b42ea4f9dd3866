"""How memory is spent on states where the user left that open: what is chosen, what stays SGLang's, what is said."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sglang.srt.arg_groups.overrides import resolved_view
from sglang.srt.server_args import prepare_server_args

from sglang_nemotron.checkpoint.spec import OMNI_PRESETS, PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.config import hub
from sglang_nemotron.config.decoder import decoder_spec
from sglang_nemotron.host import doors, slots
from sglang_nemotron.host.layouts import dtype_of, layout_of
from sglang_nemotron.state.dtypes import stored_kv_dtype
from sglang_nemotron.state.layout import StateLayout, state_layout
from support.specs import relayered

SKIP = "SGLANG_OPT_MAMBA_SKIP_DECODE_LOCK"
CONFIG = json.loads((Path(__file__).parents[1] / "data" / "nano-30b-a3b.config.json").read_text())
PUBLISHED = decoder_spec(CONFIG)
H200_MIB = 143_771
CONTEXT = 262_144


def layout(pattern: str | None = None) -> StateLayout:
    spec = PUBLISHED if pattern is None else relayered(PUBLISHED, pattern)
    return state_layout(spec, tp_size=1, conv_dtype="bfloat16", ssm_dtype="float32", kv_dtype="bfloat16")


def view(**given: Any) -> Any:
    plain = {
        "disable_radix_cache": False,
        "mamba_radix_cache_strategy": "auto",
        "disable_overlap_schedule": False,
        "page_size": None,
        "max_mamba_cache_size": None,
        "max_running_requests": None,
        "mem_fraction_static": 0.88,
        "model_path": "/nowhere",
        "revision": None,
        "download_dir": None,
        "device": "cuda",
        "tp_size": 1,
        **dict(slots._UNPROVED),
    }
    return SimpleNamespace(**plain | given)


def choose(given: Any, ratio_given: bool = False, of: StateLayout | None = None) -> dict[str, Any]:
    return slots.choose(given, of or layout(), ratio_given=ratio_given, context_tokens=CONTEXT)


@pytest.fixture
def h200(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(slots.REQUEST_TOKENS, "4096")
    monkeypatch.setattr(slots, "get_platform", lambda: SimpleNamespace(is_cuda=True))
    monkeypatch.setattr(slots, "get_device_memory_capacity", lambda device: H200_MIB)


def test_on_a_gpu_nothing_is_chosen_without_the_hint(h200: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(view())["mamba_radix_cache_strategy"] == "extra_buffer_lazy"
    monkeypatch.delenv(slots.REQUEST_TOKENS)
    assert choose(view()) == {} and SKIP not in os.environ


# ---- the strategy, and the lock


def test_lazy_without_the_lock_where_all_is_open(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    chosen = choose(view())
    assert chosen["mamba_radix_cache_strategy"] == "extra_buffer_lazy" and os.environ[SKIP] == "1"
    (line,) = [record.getMessage() for record in caplog.records]
    assert "extra_buffer_lazy" in line and "3 state slots a request" in line
    assert f"--mamba-full-memory-ratio {chosen['mamba_full_memory_ratio']} from 4096 tokens" in line


@pytest.mark.parametrize(
    "given",
    [
        {"pp_size": 2},
        {"attn_dp_size": 2},
        {"disaggregation_mode": "prefill"},
        {"enable_hierarchical_cache": True},
        {"radix_cache_backend": "other"},
        {"enable_streaming_session": True},
    ],
)
def test_sglangs_choices_stay_where_ours_are_not_proved(given: dict[str, Any]) -> None:
    assert choose(view(**given)) == {} and SKIP not in os.environ


@pytest.mark.parametrize(
    ("given", "slots_each"),
    [
        ({"mamba_radix_cache_strategy": "extra_buffer"}, 5),
        ({"mamba_radix_cache_strategy": "no_buffer", "disable_overlap_schedule": True}, 3),
        ({"disable_overlap_schedule": True}, 3),
        ({"disable_overlap_schedule": True, "page_size": 16}, 4),
        ({"disable_radix_cache": True}, 1),
    ],
)
def test_a_strategy_that_is_not_ours_gets_its_split_alone(given: dict[str, Any], slots_each: int) -> None:
    (chosen,) = choose(view(**given)).items()
    assert chosen[0] == "mamba_full_memory_ratio" and SKIP not in os.environ
    states = slots_each * layout().bytes_per_slot
    assert chosen[1] == pytest.approx(states / (4096 * layout().kv_bytes_per_token), rel=1e-4)


def test_the_variable_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SKIP, "0")
    chosen = choose(view())
    # the lazy strategy then needs a slot more
    assert chosen["mamba_radix_cache_strategy"] == "extra_buffer_lazy" and os.environ[SKIP] == "0"
    assert chosen["mamba_full_memory_ratio"] == pytest.approx(
        4 * layout().bytes_per_slot / (4096 * layout().kv_bytes_per_token), rel=1e-4
    )


@pytest.mark.parametrize("given", [{"mamba_radix_cache_strategy": "extra_buffer"}, {"enable_hierarchical_cache": True}])
def test_the_variable_with_two_tracking_slots_is_refused(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SKIP, "1")
    with pytest.raises(ValueError, match=f"{SKIP} is set.*extra_buffer.*unset the variable"):
        choose(view(**given))


def test_the_next_start_of_the_process_decides_for_itself() -> None:
    choose(view())
    assert os.environ[SKIP] == "1"
    choose(view(mamba_radix_cache_strategy="extra_buffer"))
    assert SKIP not in os.environ
    choose(view(mamba_radix_cache_strategy="extra_buffer_lazy"))
    assert os.environ[SKIP] == "1"


def test_a_model_without_mamba_layers_is_left_alone() -> None:
    assert choose(view(), of=layout("*E*")) == {} and SKIP not in os.environ


# ---- the split


@pytest.mark.parametrize("given", [{"ratio_given": True}, {"given": {"max_mamba_cache_size": 100}}])
def test_sizes_that_the_user_gave_stay(given: dict[str, Any]) -> None:
    chosen = choose(view(**given.get("given", {})), ratio_given=given.get("ratio_given", False))
    assert chosen == {"mamba_radix_cache_strategy": "extra_buffer_lazy"}


def test_the_hint_moves_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    ratios = []
    for tokens in ("2048", "8192", "65536"):
        monkeypatch.setenv(slots.REQUEST_TOKENS, tokens)
        ratios.append(choose(view())["mamba_full_memory_ratio"])
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[0] == pytest.approx(3 * layout().bytes_per_slot / (2048 * layout().kv_bytes_per_token), rel=1e-4)


@pytest.mark.parametrize("said", ["", "0", "-5", "2k", "1.5"])
def test_a_hint_that_is_no_number_of_tokens(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(slots.REQUEST_TOKENS, said)
    with pytest.raises(ValueError, match=f"{slots.REQUEST_TOKENS}='{said}' is not a number of tokens"):
        choose(view())


def test_the_longest_request_fits_where_the_memory_is_known(h200: None, tmp_path: Path) -> None:
    """On a card with little room the split by the hint alone would leave fewer entries than one whole context needs."""
    (tmp_path / "model.safetensors").write_bytes(b"")
    os.truncate(tmp_path / "model.safetensors", 119_000 * 2**20)
    budget = slots._budget(view(model_path=str(tmp_path)))
    assert budget == pytest.approx(((H200_MIB - 1_322) * 0.88 - 119_000 - 225) * 2**20)
    ratio = choose(view(model_path=str(tmp_path)))["mamba_full_memory_ratio"]
    entries = budget / (1 + ratio) / layout().kv_bytes_per_token
    assert entries == pytest.approx(CONTEXT, rel=0.01)
    by_hint = choose(view())["mamba_full_memory_ratio"]
    assert budget / (1 + by_hint) / layout().kv_bytes_per_token < 0.8 * CONTEXT


def test_fewer_requests_than_fit_leave_room_for_cached_prefixes(h200: None, tmp_path: Path) -> None:
    """A cached prefix takes one slot and not three, so more of the memory goes to KV entries."""
    (tmp_path / "model.safetensors").write_bytes(b"")
    free = choose(view(model_path=str(tmp_path)))["mamba_full_memory_ratio"]
    capped = choose(view(model_path=str(tmp_path), max_running_requests=32))["mamba_full_memory_ratio"]
    assert capped < free


def test_an_id_has_the_memory_of_its_snapshot(h200: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models--nvidia--tiny" / "snapshots" / "c0ffee"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"")
    os.truncate(folder / "model.safetensors", 1000 * 2**20)
    (tmp_path / "models--nvidia--tiny" / "refs").mkdir()
    (tmp_path / "models--nvidia--tiny" / "refs" / "main").write_text("c0ffee")
    as_id = view(model_path="nvidia/tiny", download_dir=str(tmp_path))
    budget = slots._budget(as_id)
    assert budget is not None and budget == slots._budget(view(model_path=str(folder)))
    # half of it is here: nobody knows what the weights will take
    (folder / hub.INDEX).write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": "more.safetensors"}}))
    assert slots._budget(as_id) is None


@pytest.mark.parametrize("given", [{"model_path": "nvidia/some-model"}, {"mem_fraction_static": None}])
def test_memory_that_nobody_knows(h200: None, given: dict[str, Any]) -> None:
    assert slots._budget(view(**given)) is None


# ---- the layout of a server


@pytest.mark.parametrize(
    ("wanted", "stored", "served"),
    [
        ("auto", "torch.bfloat16", "bfloat16"),
        ("auto", "float32", "float16"),
        ("auto", None, "float16"),
        ("half", "bfloat16", "float16"),
        ("float", "bfloat16", "float32"),
        ("bfloat16", "float32", "bfloat16"),
    ],
)
def test_served_dtype(wanted: str, stored: str | None, served: str) -> None:
    assert dtype_of(wanted, stored) == served


def test_layout_by_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"dtype": "auto", "mamba_ssm_dtype": None, "kv_cache_dtype": "auto", "tp_size": 2}

    def of(**more: Any) -> StateLayout:
        return layout_of(SimpleNamespace(**given | more), PUBLISHED, stored_dtype="bfloat16", stored_kv="FP8")

    plain = of()
    assert (plain.tp_size, plain.conv_dtype, plain.ssm_dtype, plain.kv_dtype) == (
        2,
        "bfloat16",
        "float32",
        "float8_e4m3fn",
    )
    assert of(mamba_ssm_dtype="float16").ssm_dtype == "float16"
    assert of(kv_cache_dtype="fp8_e5m2").kv_dtype == "float8_e5m2"
    assert of(kv_cache_dtype="bf16").kv_dtype == "bfloat16"
    assert of(dtype="float16").conv_dtype == "float16"
    monkeypatch.setenv("SGLANG_MAMBA_CONV_DTYPE", "float32")
    assert of().conv_dtype == "float32"


def test_kv_entries_as_a_quantised_checkpoint_wants_them(tmp_path: Path) -> None:
    assert stored_kv_dtype(tmp_path, {}) is None and stored_kv_dtype(None, {}) is None
    assert stored_kv_dtype(tmp_path, {"kv_cache_quant_algo": "FP8"}) == "FP8"
    assert stored_kv_dtype(tmp_path, {"kv_cache_scheme": {"type": "float", "num_bits": 8}}) == "FP8"
    beside = {"quantization": {"kv_cache_quant_algo": "FP8"}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside))
    assert stored_kv_dtype(tmp_path, {}) == "FP8"


# ---- as SGLang resolves it


@pytest.mark.parametrize("preset", [PRESETS["toy"], OMNI_PRESETS["toy"]], ids=["text", "omni"])
def test_sglang_takes_the_choice(preset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "prove_all", lambda: None)
    monkeypatch.setenv("SGLANG_NEMOTRON_SERVES_OMNI", "1")
    monkeypatch.setenv("SGLANG_VLM_CACHE_SIZE_MB", "1")
    write_checkpoint(preset, tmp_path)
    server_args = prepare_server_args(["--model-path", str(tmp_path)])
    server_args.resolve_once()
    resolved = resolved_view(server_args)
    assert resolved.mamba_radix_cache_strategy == "extra_buffer_lazy" and not resolved.disable_overlap_schedule
    assert os.environ[SKIP] == "1"
