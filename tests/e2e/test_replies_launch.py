"""The published command lines: both launchers, every name of our parser, HTTP workers, and what is refused at start."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from scripted import PLUGIN, ask, stream
from serving import Servers

from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.cli.server import ServerFailed, ServerProcess
from support.waiting import NET_S

pytestmark = [pytest.mark.server, pytest.mark.matrix]

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CALL = "<tool_call>\n<function=f>\n</function>\n</tool_call>"
NO_OVERLAP = ["--disable-overlap-schedule", "--chunked-prefill-size=64"]
LAUNCH = [sys.executable, "-m", "sglang.launch_server"]


def prepared(servers: Servers, args: list[str], launcher: list[str] | None = None) -> ServerProcess:
    server = ServerProcess(
        servers.checkpoint(PRESETS["tiny"]),
        ["--dtype", "float32", *args],
        log_path=servers.log_path(),
        env={"OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": PLUGIN},
        time_limit_s=NET_S,
    )
    if launcher is not None:
        server.command = [*launcher, *server.command[server.command.index("--model-path") :]]
    return server


@pytest.mark.parametrize(
    ("launcher", "args"),
    [
        # the Nano cookbook's
        (LAUNCH, ["--trust-remote-code", "--tp", "1", "--reasoning-parser=nano_v3", "--tool-call-parser=qwen3_coder"]),
        (LAUNCH, ["--reasoning-parser", "auto", "--tool-call-parser", "auto"]),
        # the Omni cookbook's launcher, vLLM's name, and HTTP workers, which load plugins in a way of their own
        (
            None,
            ["--reasoning-parser=nemotron_v3", "--tool-call-parser=qwen3_coder", "--tokenizer-worker-num=2"],
        ),
        # the other schedule, and prompts read in several chunks
        (None, ["--reasoning-parser=nemotron_3", "--tool-call-parser=auto", *NO_OVERLAP]),
    ],
    ids=["launch_server nano_v3", "launch_server auto", "serve nemotron_v3 workers", "serve nemotron_3 no overlap"],
)
def test_a_published_command_line(launcher: list[str] | None, args: list[str], servers: Servers) -> None:
    with prepared(servers, args, launcher) as server:
        for hear in (ask, stream):
            # enough of them that each worker answers some
            for _ in range(6):
                heard = hear(server, f"a `<tool_call>`\n{CALL}</think>b", tools=[TOOL])
                assert heard.said == ("a `<tool_call>`", "</think>b", [("f", "{}")])
                limited = hear(server, "abc\nxyz\n</think>\nyes", custom_params={"thinking_budget": 1})
                assert limited.said == ("abc", "yes", [])


def test_no_flag_is_no_parser(servers: Servers) -> None:
    """As SGLang has it; budgets are kept all the same."""
    with prepared(servers, []) as server:
        assert ask(server, f"r\n</think>\n{CALL}", tools=[TOOL]).said == ("", f"r\n</think>\n{CALL}", [])
        limited = stream(server, "abc\nxyz\n</think>\nyes", custom_params={"thinking_budget": 1})
        assert limited.said == ("", "abc\n</think>\nyes", [])


def test_a_template_without_think_tags_ends_the_start(servers: Servers, tmp_path: Path) -> None:
    plain = tmp_path / "plain.jinja"
    plain.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    server = prepared(servers, ["--reasoning-parser", "nano_v3", "--chat-template", str(plain)])
    with pytest.raises(ServerFailed) as failed:
        server.start()
    assert failed.value.returncode not in (None, 0)
    last = failed.value.log_tail.strip().splitlines()[-1]
    assert "--reasoning-parser nano_v3" in last and "<think>" in last and "allowed: a template with both" in last


def test_an_unknown_name_ends_the_start(servers: Servers) -> None:
    server = prepared(servers, ["--reasoning-parser", "nano_v4"])
    with pytest.raises(ServerFailed) as failed:
        server.start()
    assert failed.value.returncode == 2
    said = server.log_text()
    assert "invalid choice: 'nano_v4'" in said and "'nano_v3'" in said and "'qwen3'" in said
