"""An SGLang outside the tested window: one warning that says so, every door proved, and a fault names the release."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

import sglang_nemotron
from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.cli.server import ServerFailed, ServerProcess
from sglang_nemotron.host import refusal
from sglang_nemotron.host import release as announced
from sglang_nemotron.sglang_api import release
from support.children import run
from support.faults import Fault, lost_name, plant
from support.serving import post
from support.waiting import NET_S

OLD = "0.5.20"
WARNING = f"SGLang {OLD} is outside the tested window ({release.window()}); every door is still proved at start"
REMEDY = f"install sglang {release.window()}, which was tested; this is {OLD}. Otherwise "
# of SGLang's: what one of our modules imports at its top
LOST = lost_name("sglang.srt.arg_groups.model_override_base", "register_model_override")


def installed(folder: Path, *faults: Fault) -> dict[str, str]:
    """The environment of a program that finds this release among its packages, with these faults in it."""
    info = folder / f"sglang-{OLD}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: sglang\nVersion: {OLD}\n")
    env = {name: value for name, value in os.environ.items() if name != "SGLANG_NEMOTRON_WARNED_VERSION"}
    return {**env, **plant(folder, *faults)}


def test_the_release_is_told_once_and_with_every_fault(
    monkeypatch: pytest.MonkeyPatch, clean_refusal: None, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(refusal, "_suspected", "")
    # set first, so that what is set meanwhile goes with the test
    monkeypatch.setenv("SGLANG_NEMOTRON_WARNED_VERSION", "")
    monkeypatch.delenv("SGLANG_NEMOTRON_WARNED_VERSION")
    announced.announce()
    refusal.refuse("a", "has no X", "mend it")
    assert caplog.messages[:-1] == [] and refusal.faults()[-1].remedy == "mend it"

    monkeypatch.setattr(release, "sglang_version", lambda: OLD)
    # a name that is gone may keep every door from being imported; this comes before
    monkeypatch.setitem(sys.modules, "sglang_nemotron.host.doors", None)
    sglang_nemotron.register()
    sglang_nemotron.register()
    assert caplog.messages.count(WARNING) == 1
    fault = refusal.faults()[-1]
    assert fault.door == "doors" and fault.reason.startswith("ModuleNotFoundError: ")
    assert str(fault).splitlines()[-1] == f"  remedy: {REMEDY}{refusal.REMEDY}"


@pytest.mark.matrix
@pytest.mark.parametrize("faults", [(), (LOST,)], ids=["whole", "a name is missing"])
def test_doctor(faults: tuple[Fault, ...], tmp_path: Path) -> None:
    done = run([sys.executable, "-m", "sglang_nemotron", "doctor", "--json"], installed(tmp_path, *faults))
    report = json.loads(done.stdout)
    assert (report["versions"]["sglang"], report["sglang_tested"], report["ok"]) == (OLD, False, not faults)
    assert done.returncode == bool(faults), done.stderr
    assert len(report["refused"]) == 0 or any("register_model_override" in one["reason"] for one in report["refused"])
    assert all(release.window() in one["remedy"] for one in report["refused"])


@pytest.mark.matrix
@pytest.mark.server
@pytest.mark.parametrize("faults", [(), (LOST,)], ids=["whole", "a name is missing"])
def test_serve(faults: tuple[Fault, ...], tmp_path: Path) -> None:
    write_checkpoint(PRESETS["toy"], tmp_path / "toy")
    env = installed(tmp_path / "packages", *faults)
    server = ServerProcess(tmp_path / "toy", log_path=tmp_path / "log", env=env, time_limit_s=NET_S)
    if not faults:
        with server:
            body = {"input_ids": [1001, 1002], "sampling_params": {"max_new_tokens": 2}}
            assert post(server.url, "/generate", body)[0] == 200
            # over all its processes
            assert server.log_text().count(WARNING) == 1
            assert "state pools: " in server.log_text()
        return
    with pytest.raises(ServerFailed) as failed:
        server.start()
    assert server.log_text().count(WARNING) == 1 and "register_model_override" in failed.value.reason
    door, reason, remedy = server.log_text().rstrip().splitlines()[-3:]
    assert door.startswith("  door: ") and "register_model_override" in reason, failed.value
    assert remedy.startswith(f"  remedy: {REMEDY}")
