"""`sglang-nemotron bench` against real servers: tokens as the server counts them, media, scores of known replies."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from sglang_nemotron.cli import main
from sglang_nemotron.cli.server import ServerProcess
from support.scripted import SCRIPTED, script
from support.serving import OFFLINE, OMNI, Servers
from support.waiting import NET_S

pytestmark = pytest.mark.matrix


def counted(server: ServerProcess) -> tuple[int, int]:
    """Tokens of all prompts and of all replies so far, by the server's own word."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=NET_S) as reply:
        text = reply.read().decode()
    prompts, replies = (
        sum(int(float(number)) for number in re.findall(rf"^sglang:{kind}_tokens_total\{{[^}}]*\}} (\S+)$", text, re.M))
        for kind in ("prompt", "generation")
    )
    return prompts, replies


def measured(server: ServerProcess, file: Path, *more: str) -> tuple[dict[str, Any], tuple[int, int]]:
    """(the one run of a measurement, tokens that the server counted meanwhile)."""
    before = counted(server)
    assert main(["bench", "speed", server.url, "--concurrency", "2", "--json", str(file), *more]) == 0
    after = counted(server)
    (run,) = json.loads(file.read_text())["runs"]
    return run, (after[0] - before[0], after[1] - before[1])


@pytest.mark.server(OMNI)
@pytest.mark.parametrize("client", ["own", "bench_serving"])
def test_tokens_of_texts(
    client: str, server: ServerProcess, servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"HF_HUB_CACHE": servers.cached(OMNI), **OFFLINE}.items():
        monkeypatch.setenv(name, value)
    lengths = ["--num-prompts", "4", "--input-len", "40", "--output-len", "12", "--range-ratio", "1"]
    run, (prompts, replies) = measured(server, tmp_path / "x.json", *lengths, "--client", client, "--vocab", "2048")
    summary = run["summary"]
    assert run["client"] == client and summary["completed"] == 4
    assert (summary["total_input"], summary["total_output"]) == (160, 48)
    # either client sends one more, which warms the server
    assert (prompts, replies) == (200, 60)
    assert all(len(one["itl_s"]) == 11 or client == "bench_serving" for one in run["requests"])


@pytest.mark.server(OMNI)
def test_tokens_of_media(server: ServerProcess, tmp_path: Path) -> None:
    media = ["--images", "1", "--image-size", "640x360", "--audios", "1", "--audio-seconds", "2"]
    media += ["--videos", "1", "--video-seconds", "1", "--video-size", "64x64"]
    lengths = ["--num-prompts", "3", "--input-len", "30", "--output-len", "5", "--range-ratio", "1"]
    run, (prompts, _) = measured(server, tmp_path / "x.json", *media, *lengths)
    totals = [one["prompt_tokens"] for one in run["requests"]]
    assert run["client"] == "own" and run["summary"]["completed"] == 3 and run["summary"]["total_output"] == 15
    # an image of 640 x 360 has 40 x 22 patches, four to a token
    assert min(totals) >= 220 and sum(totals) < prompts


@pytest.mark.server(OMNI)
@pytest.mark.parametrize("task", ["vision", "audio"])
def test_media_are_asked_about(task: str, server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    more = ["--max-tokens", "16", "--thinking", "off", "--json", str(file)]
    assert main(["bench", "accuracy", server.url, "--task", task, *more]) == 0
    said = json.loads(file.read_text())
    assert said["failed"] == 0 and said["asked"] == said["of"] >= 3
    # random weights say something, and it is scored
    assert all(one["text"] for one in said["questions"]) and said["accuracy"] < 0.5


def written(folder: Path, replies: list[tuple[str, int]]) -> Path:
    """A file of GSM8K's form whose questions make the scripted model say what is wanted."""
    file = folder / "test.jsonl"
    lines = [
        {"question": f"{number}: {script(said)}", "answer": f"#### {right}"}
        for number, (said, right) in enumerate(replies)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.mark.server(SCRIPTED)
def test_known_replies_to_raw_prompts(server: ServerProcess, tmp_path: Path) -> None:
    replies = [(" 3+4=7\n#### 7", 7), (" 1,200 it is", 1200), (" 8", 7), (" none", 7), (" 7\nQuestion 9", 7)]
    data, file = written(tmp_path, replies), tmp_path / "x.json"
    more = ["--data", str(data), "--shots", "1", "--json", str(file), "--expect", "0.6"]
    assert main(["bench", "accuracy", server.url, *more]) == 0
    said = json.loads(file.read_text())
    assert [one["right"] for one in said["questions"]] == [1, 1, 0, 0, 1]
    # the script's stop keeps the model from asking itself
    assert said["questions"][4]["text"].strip() == "7" and said["questions"][3]["found"] is None
    assert main(["bench", "accuracy", server.url, *more[:-1], "0.61"]) == 1


@pytest.mark.server(SCRIPTED)
def test_known_replies_of_chats_that_think(server: ServerProcess, tmp_path: Path) -> None:
    replies = [
        ("It may be 9.</think>The answer is 7", 7),
        ("It is 7.</think>I cannot say", 7),
        ("It is 7.\n" * 40 + "</think>So 8", 7),
        ("Easy. " * 60 + "</think>7", 7),
    ]
    data, file = written(tmp_path, replies), tmp_path / "x.json"
    more = ["--data", str(data), "--shots", "1", "--json", str(file), "--max-tokens", "600"]
    assert main(["bench", "accuracy", server.url, *more, "--thinking", "on"]) == 0
    said = json.loads(file.read_text())["questions"]
    assert [(one["found"], one["right"]) for one in said] == [("7", 1), (None, 0), ("8", 0), ("7", 1)]
    assert all(one["thoughts"] for one in said) and "It is 7." in said[1]["thoughts"]
    # a budget ends thoughts, and the answer comes behind them all the same
    budget = ["--thinking-budget", "8"]
    assert main(["bench", "accuracy", server.url, *more, *budget]) == 0
    short = json.loads(file.read_text())["questions"]
    assert [one["found"] for one in short] == ["7", None, "8", "7"]
    assert len(short[2]["thoughts"]) < len(said[2]["thoughts"])
    # cut off while it thinks: none of what it thought is an answer
    assert main(["bench", "accuracy", server.url, *more[:-1], "20", "--thinking", "on"]) == 0
    cut = json.loads(file.read_text())["questions"]
    assert (cut[2]["found"], cut[2]["finish"], cut[2]["right"]) == (None, "length", 0)


@pytest.mark.server(SCRIPTED)
def test_without_thinking(server: ServerProcess, tmp_path: Path) -> None:
    data, file = written(tmp_path, [("7", 7), ("It is 8", 7)]), tmp_path / "x.json"
    more = ["--data", str(data), "--shots", "1", "--json", str(file), "--thinking", "off"]
    assert main(["bench", "accuracy", server.url, *more]) == 0
    assert [(one["found"], one["thoughts"]) for one in json.loads(file.read_text())["questions"]] == [
        ("7", ""),
        ("8", ""),
    ]
