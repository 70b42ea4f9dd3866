"""The table of doors in this process: open, proved ours; each row notices when it is not, and then refuses."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import logging
import os
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sglang.srt.configs import hybrid_arch

import sglang_nemotron
from sglang_nemotron.family import ARCHITECTURES
from sglang_nemotron.host import alarms, budget, detectors, doors, providers, refusal, reply_flags
from sglang_nemotron.host.door import Door, always, nothing
from sglang_nemotron.host.http import reply_json
from sglang_nemotron.sglang_api import args, release
from sglang_nemotron.sglang_api.wrapping import Wrap
from support.waiting import NET_S

ROWS = {door.name: door for door in doors.DOORS}
registry = importlib.import_module("sglang.srt.models.registry").ModelRegistry


@pytest.fixture(scope="module", autouse=True)
def proved() -> None:
    doors.prove_all()


@pytest.mark.parametrize("name", ROWS)
def test_row_is_ours(name: str) -> None:
    assert ROWS[name].is_ours() is None


def _platform(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(args.platforms, "_current_platform", args.platforms.SRTPlatform())


def _config(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(args.config_registry, "nemotron_h", args.NemotronHConfig)


def _hybrid_cache(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(args, "mamba2_config", lambda model_config: None)
    assert hybrid_arch.mamba2_config is not args.mamba2_config


def _config_omni(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(args.config_registry, "nemotron_h_omni", args.NemotronH_Omni_Reasoning_V3_Config)


def _hybrid_cache_omni(patch: pytest.MonkeyPatch) -> None:
    found = args.mamba2_config
    patch.setattr(args, "mamba2_config", lambda probe: None if hasattr(probe.hf_config, "llm_config") else found(probe))


def _startup(patch: pytest.MonkeyPatch) -> None:
    found = args.override_providers["NemotronHForCausalLM"]
    others = [fn for fn in found if fn.__module__ != providers.__name__]
    patch.setitem(args.override_providers, "NemotronHForCausalLM", others)


def _startup_omni(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(args.override_providers, "NemotronH_Nano_Omni_Reasoning_V3", [])


def _tokenizer(patch: pytest.MonkeyPatch) -> None:
    patch.delitem(args.custom_processors, "nemotron_h_omni")


def _table(patch: pytest.MonkeyPatch) -> None:
    listed = args.arch_tables._MAMBA_RADIX_CACHE_ARCHS
    patch.setattr(args.arch_tables, "_MAMBA_RADIX_CACHE_ARCHS", listed - {"NemotronH_Nano_Omni_Reasoning_V3"})


def _no_buffer_with_overlap(patch: pytest.MonkeyPatch) -> None:
    # as if a release asked other tables: the names are where they were, and the rule no longer looks
    decided = {"uses_mamba_radix_cache": True, "mamba_radix_cache_strategy": "no_buffer"}
    patch.setattr(args.arch_tables, "_mamba_radix_cache_resolution", lambda view: decided)


def _processors(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("SGLANG_EXTERNAL_MM_PROCESSOR_PACKAGE", "somebody.elses")


def _workers(patch: pytest.MonkeyPatch) -> None:
    # as if a release had renamed the variable: what we set is not what SGLang reads
    patch.setattr(type(args.envs), "SGLANG_HTTP_SERVER_APP_PATH", types.SimpleNamespace(get=lambda: "sglang:app"))


def _models(patch: pytest.MonkeyPatch) -> None:
    in_tree = importlib.import_module("sglang.srt.models.nemotron_h").NemotronHForCausalLM
    patch.setitem(registry.models, "NemotronHForCausalLM", in_tree)


def _models_omni(patch: pytest.MonkeyPatch) -> None:
    in_tree = importlib.import_module("sglang.srt.models.nano_nemotron_vl").NemotronH_Omni_Reasoning_V3
    patch.setitem(registry.models, "NemotronH_Omni_Reasoning_V3", in_tree)


def _ending(patch: pytest.MonkeyPatch) -> None:
    # as if this process served one of our models, and nothing watched its signals
    patch.setenv("SGLANG_NEMOTRON_LAUNCHER", str(os.getpid()))
    patch.setitem(sys.modules, "sglang.launch_server", types.ModuleType("sglang.launch_server"))


def _requests(patch: pytest.MonkeyPatch) -> None:
    # as if a release had the wrapper and did not call it
    manager = importlib.import_module("sglang.srt.managers.tokenizer_manager").TokenizerManager
    patch.setattr(manager, "_validate_one_request", _marked_like(manager._validate_one_request))


def _marked_like(method: Any) -> Any:
    def elsewhere(*args: Any) -> None: ...

    elsewhere.__dict__.update(method.__dict__)
    return elsewhere


def _pinning(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.Tensor, "pin_memory", lambda self: self)


def _parser_names(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reply_flags, "reasoning_parser_names", ["qwen3"])


def _parsers(patch: pytest.MonkeyPatch) -> None:
    found = importlib.import_module("sglang.srt.parser.reasoning_parser").ReasoningParser
    patch.setitem(found.DetectorMap, reply_flags.PARSER, object)


def _strict_calls(patch: pytest.MonkeyPatch) -> None:
    # another model's calls, as a release may come to have them under our name
    patch.setattr(detectors.NanoTools, "get_structural_tag_name", lambda self: "qwen_3")


def _stops(patch: pytest.MonkeyPatch) -> None:
    found = importlib.import_module("sglang.srt.managers.detokenizer_manager").DetokenizerManager
    patch.setattr(found, "trim_matched_stop", _marked_like(found.trim_matched_stop))


def _integers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reply_json, "_has_long_float", lambda value: False)


def _alarms(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(logging.getLogger(alarms.LOGGER), "filters", [])


def _masks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(budget, "allow_only", lambda row, token: None)


LOST: list[tuple[str, Callable[[pytest.MonkeyPatch], None], str]] = [
    ("platform", _platform, "no accelerator is here, but the platform is sglang"),
    ("config", _config, "the config class of nemotron_h is <class 'sglang"),
    ("config", _hybrid_cache, "no hybrid cache"),
    ("config", _config_omni, "the config class of nemotron_h_omni is <class 'sglang"),
    ("config", _hybrid_cache_omni, "gives our config of NemotronH_Nano_Omni_Reasoning_V3 no hybrid cache"),
    ("tokenizer", _tokenizer, "would load a processor for nemotron_h_omni with None"),
    ("alarms", _alarms, "the filter of sglang.srt.utils.common is gone"),
    ("tables", _table, "_MAMBA_RADIX_CACHE_ARCHS lacks ['NemotronH_Nano_Omni_Reasoning_V3']"),
    ("tables", _no_buffer_with_overlap, "with no_buffer and overlap on"),
    ("startup", _startup, "not among SGLang's override providers"),
    ("startup", _startup_omni, "of NemotronH_Nano_Omni_Reasoning_V3 is not among SGLang's override providers"),
    ("processors", _processors, "somebody.elses"),
    ("workers", _workers, "SGLang would start HTTP workers with sglang:app"),
    ("models", _models, "would be served by sglang.srt.models.nemotron_h"),
    ("models", _models_omni, "NemotronH_Omni_Reasoning_V3 would be served by sglang.srt.models.nano_nemotron_vl"),
    ("requests", _requests, "lets an unknown token id pass"),
    ("pinned memory", _pinning, "torch would pin memory"),
    ("parser flags", _parser_names, "lacks ['nemotron_nano', 'nano_v3', 'nemotron_v3']"),
    ("parsers", _parsers, "the parser nemotron_nano is <class 'object'>"),
    ("replies", _parsers, "the parser nemotron_nano is <class 'object'>"),
    ("response formats", _strict_calls, "the grammar of a strict call is {'type': 'star'"),
    ("budgets", _masks, "a mask for one token bars others"),
    ("ending", _ending, "SIGTERM would end the launcher and leave its children"),
    ("stops", _stops, "SGLang cuts 'a a' before its second 'a' to None"),
    ("integers", _integers, '{"n":123456789012345678901234567890} becomes'),
]


def test_every_row_can_be_lost() -> None:
    assert {name for name, _, _ in LOST} | {door.name for door in doors.DOORS if door.wraps} == ROWS.keys()


WRAPS = [(door, wrap) for door in doors.DOORS for wrap in door.wraps]


@pytest.mark.parametrize(("door", "wrap"), WRAPS, ids=[f"{door.name}-{wrap.name}" for door, wrap in WRAPS])
def test_lost_wrap_refuses(door: Door, wrap: Wrap, monkeypatch: pytest.MonkeyPatch, clean_refusal: None) -> None:
    # as in a process that has a use for the row
    door = dataclasses.replace(door, wanted=always)
    door.open()
    (*_, place) = wrap.places()
    # others of our rows wrap the same methods, and a wrapper takes along the marks of what it wraps
    monkeypatch.setattr(place, wrap.name, inspect.unwrap(getattr(place, wrap.name)))
    doors._guarded(door, lambda: doors._prove(door))
    (fault,) = refusal.faults()
    assert fault.door == door.name and fault.reason == f"{wrap.label} {door.without}"


@pytest.mark.parametrize(("name", "lose", "reason"), LOST, ids=[f"{n}-{f.__name__}" for n, f, _ in LOST])
def test_lost_row_refuses(
    name: str,
    lose: Callable[[pytest.MonkeyPatch], None],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    clean_refusal: None,
) -> None:
    lose(monkeypatch)
    # the row was opened before, and is not opened again: only the proof can notice
    doors._guarded(ROWS[name], lambda: doors._prove(ROWS[name]))
    with pytest.raises(refusal.Refused) as refused:
        refusal.raise_if_refused()
    door, why, remedy = str(refused.value).splitlines()[-3:]
    assert door == f"  door: {name}"
    assert reason in why
    assert remedy.startswith("  remedy: ")
    with pytest.raises(refusal.Refused):
        refusal._raise(None, None)


def test_reopening_brings_our_class_back(monkeypatch: pytest.MonkeyPatch) -> None:
    _models(monkeypatch)
    ROWS["models"].open()
    assert ROWS["models"].is_ours() is None


def test_subclass_of_a_fork_is_ours_and_a_strangers_class_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = registry.models["NemotronHForCausalLM"]
    fork = type("NemotronHForCausalLM", (ours,), {"__module__": "some_fork.models"})
    monkeypatch.setitem(registry.models, "NemotronHForCausalLM", fork)
    ROWS["models"].open()
    assert registry.models["NemotronHForCausalLM"] is fork
    assert ROWS["models"].is_ours() is None

    stranger = type("NemotronHForCausalLM", (), {"__module__": "stranger.models"})
    monkeypatch.setitem(registry.models, "NemotronHForCausalLM", stranger)
    ROWS["models"].open()
    assert "stranger.models" in str(ROWS["models"].is_ours())


def test_scheduler_gets_a_class_that_raises(monkeypatch: pytest.MonkeyPatch, clean_refusal: None) -> None:
    for name in ARCHITECTURES:
        monkeypatch.setitem(registry.models, name, object)
    monkeypatch.setenv("SGLANG_EXTERNAL_MM_PROCESSOR_PACKAGE", "somebody.elses")
    doors.open_all()
    with pytest.raises(refusal.Refused, match="somebody.elses"):
        registry.models["NemotronHForCausalLM"](config=None, quant_config=None)


def test_platform_fault_has_its_own_remedy(monkeypatch: pytest.MonkeyPatch, clean_refusal: None) -> None:
    _platform(monkeypatch)
    doors._guarded(ROWS["platform"], lambda: doors._prove(ROWS["platform"]))
    (fault,) = refusal.faults()
    assert "serves nothing here" in fault.remedy


def test_where_a_door_failed_is_in_the_debug_log(
    monkeypatch: pytest.MonkeyPatch, clean_refusal: None, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("no hinges")

    monkeypatch.setattr(doors, "open_all", broken)
    with caplog.at_level("DEBUG", logger="sglang_nemotron"):
        refusal.guarded("all", doors.__name__, "open_all")
        doors._guarded(ROWS["platform"], broken)
    said = [record for record in caplog.records if record.levelname == "DEBUG"]
    assert [record.name for record in said] == [refusal.__name__, doors.__name__]
    for record in said:
        assert record.exc_info is not None and str(record.exc_info[1]) == "no hinges"
        assert record.exc_text is not None and "in broken" in record.exc_text


# ---- where SGLang has no override providers: the command line is looked at instead


def nemotron_dir(folder: Path, architecture: str = "NemotronHForCausalLM") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(f'{{"architectures": ["{architecture}"]}}')
    return folder


@pytest.mark.parametrize("form", [["--model-path", "{}"], ["--model-path={}"], ["--model", "{}"], ["{}"]])
def test_without_providers_the_command_line_decides(
    form: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_refusal: None, capsys: Any
) -> None:
    monkeypatch.setattr(refusal, "_armed", False)
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setitem(sys.modules, "sglang.srt.arg_groups.model_override_base", None)
    argv = ["sglang", "serve", *(word.format(nemotron_dir(tmp_path / "ours")) for word in form)]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as left:
        refusal.refuse("models", "planted")
    assert left.value.code == 1
    assert capsys.readouterr().err.splitlines()[-2] == "  reason: planted"

    other = nemotron_dir(tmp_path / "other", "LlamaForCausalLM")
    monkeypatch.setattr(refusal, "_armed", False)
    monkeypatch.setattr(sys, "argv", ["sglang", "serve", *(word.format(other) for word in form)])
    refusal.refuse("config", "planted")


# ---- the tested window, and the kill switch


@pytest.mark.parametrize(
    ("version", "tested"),
    [
        ("0.5.23", True),
        ("0.5.23+cu128", True),
        ("0.5.22", False),
        ("0.5.24", False),
        ("0.6.0", False),
        ("0.5.9", False),
    ],
)
def test_window(version: str, tested: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "SUPPORTED_SGLANG", ("0.5.23", "0.5.23"))
    assert release.is_tested(version) is tested


def test_untested_release_warns_once_over_all_processes_and_is_proved() -> None:
    script = """
import os, subprocess, sys
from sglang_nemotron.sglang_api import release
release.sglang_version = lambda: "9.9.9"
release.warn_if_untested(); release.warn_if_untested()
if len(sys.argv) == 1:
    subprocess.run([sys.executable, "-c", os.environ["SCRIPT"], "child"], check=True)
"""
    env = {**os.environ, "SCRIPT": script}
    env.pop("SGLANG_NEMOTRON_WARNED_VERSION", None)
    run = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=NET_S)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("9.9.9 is outside the tested window") == 1


def test_untested_release_is_proved(monkeypatch: pytest.MonkeyPatch, clean_refusal: None) -> None:
    monkeypatch.setattr(release, "sglang_version", lambda: "9.9.9")
    monkeypatch.delenv("SGLANG_NEMOTRON_WARNED_VERSION", raising=False)
    _config(monkeypatch)
    opened = [door for door in doors.DOORS if door.name != "config"]
    monkeypatch.setattr(doors, "DOORS", (*opened, _never_opened(ROWS["config"])))
    doors.open_all()
    assert [fault.door for fault in refusal.faults()] == ["config"]


def _never_opened(door: Door) -> Door:
    return replace(door, opens=nothing, wraps=())


def test_kill_switch_turns_everything_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sglang_nemotron.KILL_SWITCH, "1")

    def never() -> None:
        raise AssertionError("a door was opened")

    monkeypatch.setattr(doors, "open_all", never)
    sglang_nemotron.register()
    assert sglang_nemotron.activate_cpu_platform() is None
    monkeypatch.delenv(sglang_nemotron.KILL_SWITCH)
    assert sglang_nemotron.activate_cpu_platform() == "sglang_nemotron.host.cpu:CpuPlatform"


@pytest.mark.matrix
def test_kill_switch_leaves_sglangs_own_class() -> None:
    script = """
from sglang.srt.plugins import load_plugins
load_plugins()
from sglang.srt.models.registry import ModelRegistry
print(ModelRegistry.resolve_model_cls(["NemotronHForCausalLM"])[0].__module__)
"""
    env = {**os.environ, sglang_nemotron.KILL_SWITCH: "1"}
    for name in (
        "SGLANG_EXTERNAL_MODEL_PACKAGE",
        "SGLANG_EXTERNAL_MM_PROCESSOR_PACKAGE",
        "SGLANG_HTTP_SERVER_APP_PATH",
    ):
        env.pop(name, None)
    run = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=NET_S)
    assert run.stdout.split()[-1:] == ["sglang.srt.models.nemotron_h"], run.stderr[-2000:]
