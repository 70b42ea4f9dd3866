"""`sglang-nemotron demo`: shows what it promises and leaves nothing; fails loudly; ends its server when it is ended."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from support.children import end_with_parent, run
from support.waiting import NET_S, eventually

DEMO = [str(Path(sys.executable).parent / "sglang-nemotron"), "demo"]
# half a minute on an idle machine of two cores


def _servers_of(folder: Path) -> list[int]:
    """Processes that serve from this folder."""
    return [p.pid for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or [])]


@pytest.mark.server
@pytest.mark.parametrize("only", [["--only", "text"], pytest.param([], marks=pytest.mark.matrix)], ids=["text", "both"])
def test_demo_shows_every_request_and_cleans_up(only: list[str], tmp_path: Path):
    done = run([*DEMO, *only, "--dir", tmp_path, "--size", "toy"])
    assert done.returncode == 0, done.stdout + done.stderr
    table = done.stdout
    for request in ("chat", "chat, streamed", "thinking on", "thinking off", "tool offered", "n=2"):
        assert re.search(rf"^   {request} +\d+ +[1-9]\d* +\d+ +[\d.]+  (stop|length)", table, re.MULTILINE), request
    assert re.search(r"tool demanded .* tool_calls +calculate_tip\(\{", table)
    assert re.search(r'JSON schema .* stop +\{ ?"city"', table)
    cached = [int(n) for n in re.findall(r"of 8 at once +\d+ +\d+ +(\d+)", table)]
    assert len(cached) == 8 and min(cached) > 0
    assert "NemotronHForCausalLM: sglang_nemotron.models.nemotron_h.NemotronHForCausalLM" in table
    assert list(tmp_path.iterdir()) == []
    assert _servers_of(tmp_path) == []


@pytest.mark.server
@pytest.mark.matrix
def test_demo_whose_server_cannot_start_shows_its_last_lines(tmp_path: Path):
    done = run([*DEMO, "--dir", tmp_path], {**os.environ, "SGLANG_NEMOTRON_CPU_MEMORY_GIB": "plenty"})
    assert done.returncode == 1
    said, remedy = done.stderr.rstrip().splitlines()[-2:]
    assert said.startswith("sglang-nemotron demo: the server ended with exit code")
    assert remedy == f"  remedy: look into the server's log, {tmp_path / 'server.log'}"
    assert "SGLANG_NEMOTRON_CPU_MEMORY_GIB='plenty'" in done.stderr.split("last lines of its log:")[1]
    assert (tmp_path / "server.log").is_file()
    assert _servers_of(tmp_path) == []


def test_demo_on_a_port_in_use_says_so_at_once(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run([*DEMO, "--dir", tmp_path, "--port", port])
    assert done.returncode == 1
    said = f"sglang-nemotron demo: port {port} is in use\n  remedy: choose another with --port, or none for a free one"
    assert done.stderr.strip() == said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.server
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_that_is_ended_ends_its_server(number: signal.Signals, tmp_path: Path):
    demo = subprocess.Popen(
        [*DEMO, "--dir", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=end_with_parent,
    )
    try:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "importing SGLang" in line:
                break
        # the demo itself and at least the server's main process
        assert eventually(lambda: len(_servers_of(tmp_path)) >= 2)
        demo.send_signal(number)
        rest, _ = demo.communicate(timeout=NET_S)
    finally:
        demo.kill()
    assert demo.returncode == 128 + number, rest
    if number == signal.SIGINT:
        assert list(tmp_path.iterdir()) == []
    assert _servers_of(tmp_path) == []
