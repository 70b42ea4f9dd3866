"""Real servers with a planted fault: ours refuses with door, reason and remedy last; another model serves as ever."""

from __future__ import annotations

import json
import shutil
import urllib.request
from pathlib import Path

import pytest

from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.cli.server import ServerFailed, ServerProcess
from support.faults import NO_OVERWRITE, Fault, import_error, lost_name, plant
from support.serving import Servers
from support.waiting import NET_S

TOY = PRESETS["toy"]

BROKEN_MODULE = import_error("sglang_nemotron.models.nemotron_h")
LOST_NAME = lost_name("sglang.srt.layers.layer_boundary", "ExitRows")
# door -> what breaks it; the rest of the fault's text that the reason must hold
FAULTS = {
    "models, missing overwrite": (NO_OVERWRITE, "would be served by sglang.srt.models.nemotron_h"),
}
MORE_FAULTS = {
    "models, missing SGLang symbol": (LOST_NAME, "cannot import name 'ExitRows'"),
    "models, import error": (BROKEN_MODULE, "planted: this module is broken"),
    # a file with a row of its own is imported with the table of doors
    "doors, config: import error": (import_error("sglang_nemotron.host.hf_config"), "planted"),
    "startup, import error": (import_error("sglang_nemotron.host.startup"), "planted"),
    "processors, import error": (import_error("sglang_nemotron.processors"), "planted"),
    "doors, requests: import error": (import_error("sglang_nemotron.host.http.requests"), "planted"),
    "requests, missing SGLang symbol": (
        Fault(
            "sglang.srt.managers.tokenizer_manager",
            after="TokenizerManager.renamed = TokenizerManager._validate_one_request\n"
            "del TokenizerManager._validate_one_request",
        ),
        "_validate_one_request",
    ),
    "workers, missing overwrite": (
        Fault("sglang.srt.environ", after="envs.SGLANG_HTTP_SERVER_APP_PATH.get = lambda: 'of.somebody:app'"),
        "would start HTTP workers with of.somebody:app",
    ),
    "doors, parser flags: import error": (import_error("sglang_nemotron.host.reply_flags"), "planted"),
    "parsers, import error": (import_error("sglang_nemotron.host.detectors"), "planted"),
    "doors, replies: import error": (import_error("sglang_nemotron.host.http.replies"), "planted"),
    "budgets, import error": (import_error("sglang_nemotron.host.budget"), "planted"),
    "doors, import error": (import_error("sglang_nemotron.host.doors"), "planted"),
    "doors, config read by us alone": (import_error("sglang_nemotron.config.decoder"), "planted"),
    "platform, import error": (import_error("sglang_nemotron.host.cpu"), "planted"),
}
ALL = [pytest.param(name, id=name) for name in FAULTS]
ALL += [pytest.param(name, id=name, marks=pytest.mark.matrix) for name in MORE_FAULTS]
# what another model must not notice: without the platform nothing serves on a CPU, and the method of TokenizerManager
# that a fault removes is one that SGLang itself calls
HARMLESS = [
    name
    for name, (fault, _) in (FAULTS | MORE_FAULTS).items()
    if not name.startswith("platform") and "TokenizerManager" not in fault.after
]


def start(checkpoint: Path, servers: Servers, env: dict[str, str]) -> ServerProcess:
    return ServerProcess(checkpoint, log_path=servers.log_path(), env=env, time_limit_s=NET_S)


@pytest.mark.server
@pytest.mark.parametrize("name", ALL)
def test_broken_door_refuses(name: str, servers: Servers, tmp_path: Path) -> None:
    fault, reason = (FAULTS | MORE_FAULTS)[name]
    server = start(servers.checkpoint(TOY), servers, plant(tmp_path, fault))
    with pytest.raises(ServerFailed) as failed:
        server.start()

    assert failed.value.returncode == 1, failed.value
    door, why, remedy = server.log_text().rstrip().splitlines()[-3:]
    assert door.startswith("  door: ") and remedy.startswith("  remedy: "), failed.value
    assert why.startswith("  reason: ")
    assert reason in server.log_text()
    assert f"  door: {name.split(',')[0]}" in server.log_text()
    # the main process saw it: SGLang prints this line right before it starts a scheduler
    assert "server_args=" not in server.log_text()


@pytest.fixture(scope="session")
def llama(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama, with the tokenizer of a Nemotron checkpoint."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder, nemotron = tmp_path_factory.mktemp("llama"), servers.checkpoint(TOY)
    config = LlamaConfig(
        vocab_size=TOY.vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    for file in [*nemotron.glob("*token*"), *nemotron.glob("*.jinja")]:
        shutil.copy(file, folder)
    return folder


def assert_serves(server: ServerProcess) -> None:
    body = {"input_ids": [1001, 1002, 1003], "sampling_params": {"max_new_tokens": 4, "ignore_eos": True}}
    request = urllib.request.Request(
        server.url + "/generate", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=NET_S) as reply:
        assert json.load(reply)["meta_info"]["completion_tokens"] == 4


@pytest.mark.server
@pytest.mark.matrix
def test_another_model_serves_under_every_fault(llama: Path, servers: Servers, tmp_path: Path) -> None:
    # without the platform nothing serves on a CPU; of faults in one module the first hides the others
    modules = {}
    for name, (fault, _) in (MORE_FAULTS | FAULTS).items():
        if not name.startswith(("platform", "doors", "requests, missing")):
            modules[fault.module] = fault
    with start(llama, servers, plant(tmp_path, *modules.values())) as server:
        assert_serves(server)
        assert "planted: this module is broken" in server.log_text()


@pytest.mark.server
@pytest.mark.matrix
@pytest.mark.parametrize("name", HARMLESS)
def test_another_model_serves(name: str, llama: Path, servers: Servers, tmp_path: Path) -> None:
    fault, _ = (FAULTS | MORE_FAULTS)[name]
    with start(llama, servers, plant(tmp_path, fault)) as server:
        assert_serves(server)


@pytest.mark.server
@pytest.mark.matrix
def test_kill_switch_leaves_nothing_to_serve_with_on_a_cpu(servers: Servers) -> None:
    server = start(servers.checkpoint(TOY), servers, {"SGLANG_NEMOTRON_DISABLE": "1"})
    with pytest.raises(ServerFailed) as failed:
        server.start()
    # SGLang's own words: no platform, and nothing of ours in the log
    assert "No accelerator" in failed.value.log_tail
    assert "CPU platform" not in server.log_text()
