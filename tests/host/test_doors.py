"""The table of doors in this process: open, proved ours; each row notices when it is not, and then refuses."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sglang.srt.configs import hybrid_arch

import sglang_nemotron
from sglang_nemotron.host import doors, drift, refusal
from sglang_nemotron.host.names import args
from support.waiting import NET_S

ROWS = {door.name: door for door in doors.DOORS}
registry = importlib.import_module("sglang.srt.models.registry").ModelRegistry


@pytest.fixture(scope="module", autouse=True)
def proved() -> None:
    doors.prove_all()


@pytest.mark.parametrize("name", ROWS)
def test_row_is_ours(name: str) -> None:
    assert ROWS[name].is_ours() is None


def _sglangs_own(method: Any) -> Any:
    """Without what any of our rows wrapped around it."""
    while hasattr(method, "__wrapped__"):
        method = method.__wrapped__
    return method


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
    others = [fn for fn in args.override_providers["NemotronHForCausalLM"] if fn is not doors._resolve]
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


def _media(patch: pytest.MonkeyPatch) -> None:
    serving = importlib.import_module("sglang.srt.entrypoints.openai.serving_chat").OpenAIServingChat
    patch.setattr(serving, "_engine_prompt", _sglangs_own(serving._engine_prompt))


def _media_processor(patch: pytest.MonkeyPatch) -> None:
    manager = importlib.import_module("sglang.srt.managers.tokenizer_manager").TokenizerManager
    patch.setattr(manager.init_tokenizer_and_processor, "checks_processor", False)


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
    manager = importlib.import_module("sglang.srt.managers.tokenizer_manager").TokenizerManager
    patch.setattr(manager, "_validate_one_request", _sglangs_own(manager._validate_one_request))


LOST: list[tuple[str, Callable[[pytest.MonkeyPatch], None], str]] = [
    ("platform", _platform, "no accelerator is here, but the platform is sglang"),
    ("config", _config, "the config class of nemotron_h is <class 'sglang"),
    ("config", _hybrid_cache, "no hybrid cache"),
    ("config", _config_omni, "the config class of nemotron_h_omni is <class 'sglang"),
    ("config", _hybrid_cache_omni, "gives our config of NemotronH_Nano_Omni_Reasoning_V3 no hybrid cache"),
    ("tokenizer", _tokenizer, "would load a processor for nemotron_h_omni with None"),
    ("tables", _table, "_MAMBA_RADIX_CACHE_ARCHS lacks ['NemotronH_Nano_Omni_Reasoning_V3']"),
    ("tables", _no_buffer_with_overlap, "with no_buffer and overlap on"),
    ("startup", _startup, "not among SGLang's override providers"),
    ("startup", _startup_omni, "of NemotronH_Nano_Omni_Reasoning_V3 is not among SGLang's override providers"),
    ("processors", _processors, "somebody.elses"),
    ("workers", _workers, "SGLang would start HTTP workers with sglang:app"),
    ("models", _models, "would be served by sglang.srt.models.nemotron_h"),
    ("models", _models_omni, "NemotronH_Omni_Reasoning_V3 would be served by sglang.srt.models.nano_nemotron_vl"),
    ("media", _media, "OpenAIServingChat._engine_prompt does not show media to us"),
    ("media", _media_processor, "not followed by our check of the media processor"),
    ("requests", _requests, "_validate_one_request goes without our check"),
    ("ending", _ending, "SIGTERM would end the launcher and leave its children"),
]


# rows that tests/host/test_replies*.py lose
OF_REPLIES = {"parser flags", "parsers", "replies", "budgets"}


def test_every_row_can_be_lost() -> None:
    assert {name for name, _, _ in LOST} == ROWS.keys() - OF_REPLIES


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
    for name in refusal.ARCHITECTURES:
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
def test_window(version: str, tested: bool) -> None:
    assert drift.is_tested(version) is tested


def test_untested_release_warns_once_over_all_processes_and_is_proved() -> None:
    script = """
import os, subprocess, sys
from sglang_nemotron.host import drift
drift.sglang_version = lambda: "9.9.9"
drift.warn_if_untested(); drift.warn_if_untested()
if len(sys.argv) == 1:
    subprocess.run([sys.executable, "-c", os.environ["SCRIPT"], "child"], check=True)
"""
    env = {**os.environ, "SCRIPT": script}
    env.pop("SGLANG_NEMOTRON_WARNED_VERSION", None)
    run = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=NET_S)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("9.9.9 is outside the tested window") == 1


def test_untested_release_is_proved(monkeypatch: pytest.MonkeyPatch, clean_refusal: None) -> None:
    monkeypatch.setattr(drift, "sglang_version", lambda: "9.9.9")
    monkeypatch.delenv("SGLANG_NEMOTRON_WARNED_VERSION", raising=False)
    _config(monkeypatch)
    opened = [door for door in doors.DOORS if door.name != "config"]
    monkeypatch.setattr(doors, "DOORS", (*opened, _never_opened(ROWS["config"])))
    doors.open_all()
    assert [fault.door for fault in refusal.faults()] == ["config"]


def _never_opened(door: doors.Door) -> doors.Door:
    return doors.Door(door.name, door.stage, door.what, doors._open_nothing, door.is_ours)


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
