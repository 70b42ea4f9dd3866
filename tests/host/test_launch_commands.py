"""Every command of the launch table is accepted by SGLang's own parser and by our checks of flags and splits.

All in one process, on a CPU: nothing is started, as in test_published_commands.py.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sglang.srt.arg_groups.model_overrides import nemotron_h
from sglang.srt.arg_groups.overrides import resolving_view
from sglang.srt.layers.quantization.modelopt_quant import ModelOptFp8Config
from sglang.srt.server_args import ServerArgs, prepare_server_args

from sglang_nemotron.checkpoint.spec import OMNI_PRESETS, PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.config.decoder import check_parallel, decoder_spec
from sglang_nemotron.family import TEXT
from sglang_nemotron.host import doors, kernels, startup, startup_omni
from sglang_nemotron.host.reply_flags import READ_AS_OURS
from sglang_nemotron.launch import choose
from sglang_nemotron.launch.choose import Launch, Refused, launch
from sglang_nemotron.launch.table import TABLE
from sglang_nemotron.sglang_api.args import model_config_of

DATA = Path(__file__).parents[1] / "data"
ASKED = {"host": "127.0.0.1", "port": "31000", "max-running-requests": "1024"}


@pytest.fixture(autouse=True)
def parsers_have_our_names() -> None:
    """As in a process that starts a server: once another test has imported SGLang's detectors, it lists those alone."""
    doors.open_all()


def commands() -> list[Launch]:
    """Of every combination that is not refused, with every text given as well."""
    made = []
    for values in choose.combinations():
        try:
            made += [launch(values), launch({**values, **ASKED})]
        except Refused:
            continue
    return made


def flags_of(command: Launch) -> list[str]:
    assert command.words[:2] == TABLE.program.split()
    return command.words[2:]


def test_sglangs_parser_takes_every_command() -> None:
    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    made = commands()
    assert len(made) > 1500
    for command in made:
        args = parser.parse_args(flags_of(command))
        values = command.values
        assert (str(args.tp_size), args.kv_cache_dtype) == (values["tp"], values["kv-cache-dtype"])
        assert (args.host, str(args.port)) == (values["host"], values["port"])
        assert (args.reasoning_parser is not None) == (values["reasoning-parser"] == "on")
        assert (args.tool_call_parser is not None) == (values["tool-call-parser"] == "on")
        assert args.reasoning_parser in (None, *READ_AS_OURS["reasoning_parser"])
        assert args.tool_call_parser in (None, *READ_AS_OURS["tool_call_parser"])
        assert (args.attention_backend == "flashinfer") == (values["hardware"] == "b200")
        assert str(args.max_running_requests or "") == values["max-running-requests"]
        assert args.model_path.startswith("nvidia/") and not args.trust_remote_code


def test_every_set_of_flags_passes_sglangs_and_our_checks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Card and variant change a flag or the name alone, so that a set of flags is looked at once for each model."""
    for name, spec in (("nano", PRESETS["toy"]), ("omni", OMNI_PRESETS["toy"])):
        write_checkpoint(spec, tmp_path / name)
    published = {"nano": "nano-30b-a3b", "omni": "nano-omni-30b-a3b"}
    specs = {
        name: decoder_spec(json.loads((DATA / f"{file}.config.json").read_text())) for name, file in published.items()
    }
    limits = {"nano": startup.LIMITS, "omni": (*startup_omni.OMNI_LIMITS, *startup.LIMITS)}
    sets = {(command.values["model"], tuple(flags_of(command)[2:])) for command in commands()}
    # TP, KV dtype, parsers, a B200's backend, texts; and one of Omni's splits with a share of memory
    assert len(sets) == 2 * 4 * 2 * 2 * 2 * 2 * 2 + 2 * 2 * 2 * 2
    for model, flags in sorted(sets):
        view = resolving_view(prepare_server_args(["--model-path", str(tmp_path / model), *flags]))
        with caplog.at_level(logging.WARNING, logger="sglang_nemotron"):
            startup.check_flags(view, on_cpu=False, limits=limits[model])
        check_parallel(specs[model], view.tp_size)
    assert [record.message for record in caplog.records if "never tried" in record.message] == []


def test_sglang_still_refuses_fp8_on_an_a100() -> None:
    (refusal,) = [one for one in TABLE.refusals if "compute capability" in one.reason]
    least = ModelOptFp8Config.get_min_capability()
    assert f"{least // 10}.{least % 10} on" in refusal.reason and least > 80
    assert refusal.when == {"variant": ("fp8",), "hardware": ("a100",)}


def declared(monkeypatch: pytest.MonkeyPatch, folder: Path, capability: tuple[int, int], model: str) -> dict[str, Any]:
    """What SGLang's own rules for a decoder choose on such a card where no flag says it."""
    args = prepare_server_args(["--model-path", str(folder)])
    hf_config = model_config_of(args).hf_config
    card = SimpleNamespace(
        is_cuda=True, device_capability=capability, is_sm100=capability[0] == 10, is_blackwell=capability[0] >= 10
    )
    for module in (nemotron_h, kernels):
        monkeypatch.setattr(module, "get_platform", lambda: card)
    if model == "omni":
        return startup_omni.defaults_of_text(args, hf_config)
    return kernels.intree_defaults(args, hf_config, TEXT)


def test_nvfp4_runs_through_marlin_on_hopper_without_a_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(replace(OMNI_PRESETS["toy"], quantization="mixed"), tmp_path / "mixed")
    chosen = declared(monkeypatch, tmp_path / "mixed", (9, 0), "omni")
    assert (chosen["moe_runner_backend"], chosen["quantization"]) == ("marlin", "modelopt_mixed")


@pytest.mark.parametrize("model", ["nano", "omni"])
def test_sglangs_own_attention_on_a_b200_is_what_the_reason_says(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint((OMNI_PRESETS if model == "omni" else PRESETS)["toy"], tmp_path / model)
    (flag,) = [row for row in TABLE.flags if row.flag == "--attention-backend"]
    chosen = declared(monkeypatch, tmp_path / model, (10, 0), model)["attention_backend"]
    assert chosen != flag.value and f"takes {chosen} there" in flag.why
    # the page about the model says the same of both
    page = (DATA.parents[1] / "docs" / f"{model}.md").read_text()
    (row,) = [row for row in page.splitlines() if row.startswith("|") and chosen in row]
    assert "on a B200" in row and flag.value in row and f"SGLang 0.5.23 takes {chosen} there" in row
