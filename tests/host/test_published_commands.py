"""The commands of SGLang's two pages about these models are accepted, as a GPU would have them: names, flags, splits.

A CPU has no `flashinfer` and no FP8 cache, so nothing is started here: SGLang's parser reads each, and our checks of
flags and splits pass it without a warning. tests/e2e/test_replies_launch.py starts those that a CPU can serve, and
tests/e2e/test_bench_serving.py runs SGLang's benchmark.
"""

from __future__ import annotations

import json
import logging
import shlex
from pathlib import Path

import pytest
from sglang.srt.arg_groups.overrides import resolving_view
from sglang.srt.server_args import prepare_server_args

from sglang_nemotron.checkpoint.spec import OMNI_PRESETS, PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.config.decoder import check_parallel, decoder_spec
from sglang_nemotron.host import startup, startup_omni

DATA = Path(__file__).parents[1] / "data"
EVERYWHERE = "--trust-remote-code --host 0.0.0.0 --port 30000"
# what the pages' generators and their own commands add; their models differ in nothing that is looked at here
NANO = (
    "--tp 1",
    "--tp 1 --attention-backend flashinfer",
    "--tp 1 --tool-call-parser qwen3_coder",
    "--tp 1 --reasoning-parser nano_v3",
    "--tp 1 --attention-backend flashinfer --tool-call-parser qwen3_coder --reasoning-parser nano_v3",
    "--tp 1 --attention-backend flashinfer --max-running-requests 1024",
)
OMNI = (
    *(f"--tp {tp} --reasoning-parser deepseek-r1 --tool-call-parser qwen3_coder" for tp in (1, 2, 4, 8)),
    *("--tp 4", "--tp 2 --kv-cache-dtype fp8_e4m3", "--tp 4 --reasoning-parser deepseek-r1"),
    "--tp 4 --max-running-requests 1024 --attention-backend flashinfer",
    "--tp 4 --attention-backend flashinfer --reasoning-parser deepseek-r1",
)
COMMANDS = [*(("nano", flags) for flags in NANO), *(("omni", flags) for flags in OMNI)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("published")
    for name, spec in (("nano", PRESETS["toy"]), ("omni", OMNI_PRESETS["toy"])):
        write_checkpoint(spec, base / name)
    return {name: base / name for name in ("nano", "omni")}


@pytest.mark.parametrize(("name", "flags"), COMMANDS, ids=lambda value: value)
def test_a_published_command_is_accepted(
    name: str, flags: str, folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    args = prepare_server_args(["--model-path", str(folders[name]), *shlex.split(EVERYWHERE), *shlex.split(flags)])
    view = resolving_view(args)
    limits = (*startup_omni.OMNI_LIMITS, *startup.LIMITS) if name == "omni" else startup.LIMITS
    with caplog.at_level(logging.WARNING, logger="sglang_nemotron"):
        startup.check_flags(view, on_cpu=False, limits=limits)
    assert [record.message for record in caplog.records if "never tried" in record.message] == []
    published = "nano-30b-a3b" if name == "nano" else "nano-omni-30b-a3b"
    spec = decoder_spec(json.loads((DATA / f"{published}.config.json").read_text()))
    check_parallel(spec, view.tp_size)


def test_a_split_that_no_page_has_is_refused() -> None:
    spec = decoder_spec(json.loads((DATA / "nano-30b-a3b.config.json").read_text()))
    with pytest.raises(ValueError, match="cannot be split over tp_size=3"):
        check_parallel(spec, 3)
