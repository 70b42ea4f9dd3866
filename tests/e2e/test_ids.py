"""Both published names served from a cache of the hub, as their folders are: sizes, headers, answers; and fetched."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.cli.demo_media import photo
from sglang_nemotron.cli.demo_omni import PHOTO_TOKENS, _data_uri
from sglang_nemotron.cli.server import ServerProcess
from support.hub import TEXT_IDS, hub
from support.serving import MAIN, OMNI, TEXT_EXAMPLES, Served, Servers, post
from support.snippets import shape
from support.waiting import NET_S

README = Path(__file__).parents[2] / "README.md"
HEADERS = re.compile(r"checkpoint: \d+ tensors as the config says")


def chat(server: ServerProcess, *parts: dict) -> dict:
    asked = [{"type": "text", "text": "What is this?"}, *parts]
    body = {"model": "x", "messages": [{"role": "user", "content": asked}], "max_tokens": 4, "temperature": 0}
    status, text = post(server.url, "/v1/chat/completions", body)
    assert status == 200, text
    return json.loads(text)["usage"]


def assert_like_a_folder(server: ServerProcess, served: Served) -> None:
    log = server.log_text()
    assert f"--model-path {served.name}" in " ".join(server.command)
    assert HEADERS.search(log) and "262144 tokens, 512 state slots" in log


@pytest.mark.server
def test_text(server: ServerProcess) -> None:
    assert_like_a_folder(server, MAIN)
    assert chat(server)["completion_tokens"] == 4


@pytest.mark.server
def test_the_readmes_question_and_answer(server: ServerProcess) -> None:
    """The `curl` of its first screen gets the answer that stands below it, but for chance, time and words."""
    text = README.read_text()
    asked = re.search(r"^curl http://127.0.0.1:30000(/\S+) -H '[^']+' -d '(.+?)'$", text, re.M | re.S)
    promised = json.loads(re.search(r"```json\n(.+?)```", text, re.S)[1])
    status, said = post(server.url, asked[1], json.loads(asked[2]))
    answer = json.loads(said)
    assert status == 200, said
    assert shape(promised["choices"][0]) == shape(answer["choices"][0])
    assert promised["usage"].items() <= answer["usage"].items() and promised.keys() <= answer.keys()
    assert promised["model"] == answer["model"] == MAIN.name


def test_the_readmes_command() -> None:
    command = re.search(r"^sglang serve (.+?[^\\])$", README.read_text(), re.M | re.S)[1].replace("\\\n", " ")
    assert command.split() == ["--model-path", MAIN.name, *TEXT_EXAMPLES.args]


@pytest.mark.server(OMNI)
def test_omni(server: ServerProcess) -> None:
    assert_like_a_folder(server, OMNI)
    seen = {"type": "image_url", "image_url": {"url": _data_uri("image/jpeg", photo())}}
    assert chat(server, seen)["prompt_tokens"] > PHOTO_TOKENS


@pytest.mark.server
@pytest.mark.matrix
def test_a_server_that_fetches(servers: Servers, tmp_path: Path) -> None:
    with hub() as there:
        # not the revision that a server takes by itself
        there.models[TEXT_IDS[0]] = {"v2": servers.checkpoint(PRESETS["toy"])}
        flags = ["--revision", "v2", "--dtype", "float32"]
        env = {**there.environment(tmp_path / "cache"), "OMP_WAIT_POLICY": "PASSIVE"}
        server = ServerProcess(TEXT_IDS[0], flags, log_path=servers.log_path(), env=env, time_limit_s=NET_S)
        with server:
            assert chat(server)["completion_tokens"] == 4
            log = server.log_text()
    assert "no weights are in the cache; SGLang fetches them" in log and not HEADERS.search(log)
    assert "262144 tokens, 512 state slots" in log
