"""SGLang's own benchmark against a server of Omni: it counts the tokens that the server prefills."""

from __future__ import annotations

import json
import os
import re
import sys
import urllib.request
from pathlib import Path

import pytest

from sglang_nemotron.cli.server import ServerProcess
from support import children
from support.serving import OFFLINE, OMNI, Servers
from support.waiting import NET_S


def prefilled(server: ServerProcess) -> int:
    """Prompt tokens of all requests so far, by the server's own word."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=NET_S) as reply:
        text = reply.read().decode()
    return sum(int(float(number)) for number in re.findall(r"^sglang:prompt_tokens_total\{[^}]*\} (\S+)$", text, re.M))


@pytest.mark.matrix
@pytest.mark.server(OMNI)
def test_both_count_the_same(server: ServerProcess, servers: Servers, tmp_path: Path) -> None:
    out, before = tmp_path / "out.jsonl", prefilled(server)
    command = [
        *(sys.executable, "-m", "sglang.bench_serving", "--backend", "sglang-oai-chat", "--base-url", server.url),
        *("--model", OMNI.name, "--dataset-name", "image", "--num-prompts", 3),
        *("--image-count", 2, "--image-resolution", "360p", "--random-input-len", 20, "--random-output-len", 4),
        *("--warmup-requests", 0, "--output-file", out),
    ]
    done = children.run(command, {**os.environ, "HF_HUB_CACHE": servers.cached(OMNI), **OFFLINE})
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text().splitlines()[-1])
    assert result["completed"] == 3
    # two images of 640 x 360 each, of 40 x 22 patches, four to a token
    assert result["total_input_vision_tokens"] >= 3 * 2 * 220
    assert result["total_input_tokens"] == prefilled(server) - before


@pytest.mark.server(OMNI)
def test_the_log_has_no_alarm_that_means_nothing(server: ServerProcess) -> None:
    log = server.log_text()
    alarms = ("[EVS] no model matches", "Failed to load multimodal processor", "TokenizersBackend")
    assert [alarm for alarm in alarms if alarm in log] == []
