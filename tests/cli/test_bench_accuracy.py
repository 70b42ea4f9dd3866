"""`sglang-nemotron bench accuracy` against a fake server that knows the answers, or some of them, or thinks aloud."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sglang_nemotron.bench import sets
from sglang_nemotron.cli import main
from support.children import end_with_parent
from support.fake_bench import Answer, FakeBench, fake_bench
from support.waiting import NET_S

# question -> what a model that knows it would say
SUMS = {line["question"]: line["answer"] for line in sets.sums()}
CHOICES = {row[0]: row[5] for both in sets.choices().values() for row in both[1]}


def knowing(known: dict[str, str], *, wrong: int = 0, say: Callable[[str], Answer] | None = None) -> FakeBench:
    """Answers the last question of a prompt that it knows. wrong: so many of all get an answer to another."""
    off = dict(list(known.items())[:wrong])

    def answer(text: str) -> Answer:
        found = max(known, key=text.rfind)
        assert text.rfind(found) >= 0, text
        said = "no idea: 123456" if found in off else known[found]
        return say(said) if say else (said, "", "stop")

    return FakeBench(answers=answer)


def accuracy(fake: FakeBench, *more: str) -> int:
    with fake_bench(fake) as url:
        return main(["bench", "accuracy", url, *more])


def refused(err: str) -> str:
    said, remedy = err.splitlines()[-2:]
    assert said.startswith("sglang-nemotron bench accuracy: ") and remedy.startswith("  remedy: ")
    assert "Traceback" not in err
    return said + remedy


def test_all_right(capsys):
    assert accuracy(fake := knowing(SUMS), "--expect", "1") == 0
    out, err = capsys.readouterr()
    assert "12 sums of our own, not GSM8K" in out and "Accuracy: 1.000" in out and "MET: 1.0000" in out
    assert "Invalid: 0.000" in out and "raw prompts" in err
    bodies = fake.asked("/v1/completions")
    assert len(bodies) == len(fake.bodies) == 12
    assert all(body["prompt"].count("Question: ") == 6 and body["max_tokens"] == 512 for body in bodies)


@pytest.mark.parametrize(("expect", "code"), [("0.75", 0), ("0.76", 1)])
def test_a_quarter_wrong(expect: str, code: int, tmp_path: Path, capsys):
    file = tmp_path / "x.json"
    assert accuracy(knowing(SUMS, wrong=3), "--expect", expect, "--json", str(file)) == code
    out = capsys.readouterr().out
    assert "Accuracy: 0.750 (standard error 0.125, 12 questions)" in out
    # the three stand with their answers in the prompt: of those that do not all are right
    assert "Without the 5 that the prompts show with their answers: 1.000" in out
    assert ("MET" if code == 0 else "BELOW") in out
    said = json.loads(file.read_text())
    assert [one["right"] for one in said["questions"]] == [0, 0, 0, *[1] * 9]
    assert said["questions"][0]["found"] == "123456" and said["server"]["dtype"] == "float32"


def test_a_file_of_ones_own(tmp_path: Path, capsys):
    known = {f"How many is {number} and one?": f"It is so. #### {number + 1}" for number in range(7)}
    file = tmp_path / "test.jsonl"
    file.write_text("".join(json.dumps({"question": ask, "answer": say}) + "\n" for ask, say in known.items()))
    assert accuracy(fake := knowing(known), "--data", str(file), "--shots", "2", "--num-questions", "4") == 0
    assert len(fake.bodies) == 4 and f"GSM8K from {file}" in capsys.readouterr().out


def test_mmlu(capsys):
    assert accuracy(fake := knowing(CHOICES, wrong=6), "--task", "mmlu") == 0
    out = capsys.readouterr().out
    assert "subject: capital_cities, #q:6, acc: 0.000" in out and "subject: plain_facts, #q:6, acc: 1.000" in out
    assert "Accuracy: 0.500" in out and {body["max_tokens"] for _, body in fake.bodies} == {1}


# ---- thoughts


def test_thoughts_apart_are_not_read(capsys):
    fake = knowing(SUMS, say=lambda said: ("I cannot say.", said, "stop"))
    assert accuracy(fake, "--thinking", "on", "--thinking-budget", "64") == 0
    out, err = capsys.readouterr()
    assert "Accuracy: 0.000" in out and "Invalid: 1.000" in out and "thinking on, 64 tokens of it at most" in err
    bodies = fake.asked("/v1/chat/completions")
    assert len(bodies) == 12
    assert all(body["chat_template_kwargs"] == {"enable_thinking": True} for body in bodies)
    assert {body["thinking_budget"] for body in bodies} == {64} and {body["max_tokens"] for body in bodies} == {16384}


def test_thoughts_within_are_not_read(capsys):
    fake = knowing(SUMS, say=lambda said: (f"perhaps 99 or {said}</think>\n{said}", "", "stop"))
    assert accuracy(fake, "--thinking", "on") == 0
    assert "Accuracy: 1.000" in capsys.readouterr().out
    assert accuracy(knowing(SUMS, say=lambda said: (f"{said}</think>", "", "stop")), "--chat") == 0
    assert "Accuracy: 0.000" in capsys.readouterr().out


def test_thoughts_that_never_end(capsys):
    fake = knowing(SUMS, say=lambda said: (said, "", "length"))
    assert accuracy(fake, "--chat") == 0
    out = capsys.readouterr().out
    assert "Invalid: 1.000" in out and "12 of them were cut off: more --max-tokens, or a --thinking-budget" in out
    # with thinking off there are none, and what was cut is an answer
    assert accuracy(fake, "--thinking", "off") == 0
    assert "Accuracy: 1.000" in capsys.readouterr().out
    assert fake.bodies[-1][1]["max_tokens"] == 512


def test_letters_of_chats(capsys):
    fake = knowing(CHOICES, say=lambda said: (f"A hard one. The answer is {said}.", "B or C?", "stop"))
    assert accuracy(fake, "--task", "mmlu", "--thinking", "on") == 0
    assert "Accuracy: 1.000" in capsys.readouterr().out


# ---- media


@pytest.mark.parametrize(("say", "share"), [("The {}.", "0.083"), ("{}", "0.083")])
def test_pictures(say: str, share: str, capsys):
    fake = FakeBench(answers=lambda text: (say.format("red"), "", "stop"))
    assert accuracy(fake, "--task", "vision", "--expect", "0.08") == 0
    # one of twelve is red
    assert f"Accuracy: {share}" in capsys.readouterr().out
    assert {body["messages"][0]["content"][0]["type"] for _, body in fake.bodies} == {"image_url"}


def test_recordings(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(sets.shutil, "which", lambda name: None)
    said = "the ferry leaves the harbor at 7 and the bridge is closed until noon"
    fake = FakeBench(answers=lambda text: (said, "", "stop"))
    assert accuracy(fake, "--task", "audio", "--expect", "0.92") == 0
    # one of fourteen words, in each of three
    assert "Accuracy: 0.929 (word error rate 0.071, 42 words of 3 recordings)" in capsys.readouterr().out
    assert {body["messages"][0]["content"][0]["type"] for _, body in fake.bodies} == {"input_audio"}


def test_a_set_of_pictures_of_ones_own(tmp_path: Path, capsys):
    (tmp_path / "a.png").write_bytes(sets.pictures().items[0].media[0][1])
    lines = [
        {"image": "a.png", "question": "What?", "answer": ["A cat", "a kitten"]},
        {"image": "a.png", "answer": "dog"},
    ]
    (tmp_path / "set.jsonl").write_text("\n".join(map(json.dumps, lines)))
    fake = FakeBench(answers=lambda text: ("Kitten!", "", "stop"))
    assert accuracy(fake, "--task", "vision", "--data", str(tmp_path / "set.jsonl")) == 0
    assert "Accuracy: 0.500" in capsys.readouterr().out


# ---- what goes wrong


def test_failures_are_counted_and_told(capsys):
    fake = knowing(SUMS)
    fake.fails = 2
    assert accuracy(fake, "--parallel", "1", "--expect", "0.9") == 1
    out = capsys.readouterr().out
    assert "FAILED: 2 of 12, counted as wrong; first: /v1/completions answered 500" in out and "Accuracy: 0.833" in out


def test_nothing_but_failures(capsys):
    fake = knowing(SUMS)
    fake.fails = 99
    fake.bodies.append(("/", {}))
    assert accuracy(fake) == 2
    assert "all 12 requests failed, the first with: /v1/completions answered 500" in refused(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--expect", "83"], "--expect is 83; it is a share"),
        (["--data", "nowhere.jsonl"], "--data nowhere.jsonl is not there"),
        (["--task", "mmlu", "--data", __file__], "is a file"),
        (["--data", __file__], "line 1: no JSON"),
        (["--shots", "-1"], "--shots is -1"),
        (["--shots", "12"], "has 12 questions, 12 of them examples"),
        (["--thinking", "off", "--thinking-budget", "5"], "--thinking-budget is 5 where --thinking is off"),
        (["--lm-eval", "--thinking", "on"], "--lm-eval asks gsm8k and mmlu as raw prompts"),
        (["--json", "nowhere/x.json"], "nowhere is no folder"),
        (["--temperature", "-0.5"], "--temperature is -0.5"),
    ],
)
def test_bad_words(more: list[str], said: str, capsys):
    assert accuracy(fake := knowing(SUMS), *more) == 2
    assert said in refused(capsys.readouterr().err) and not fake.bodies


@pytest.mark.parametrize(
    "more",
    [
        ["--data", "nowhere.jsonl"],
        ["--data", __file__],
        ["--task", "mmlu", "--data", __file__],
        ["--task", "vision", "--data", __file__],
        ["--shots", "12"],
        ["--temperature", "-1"],
    ],
    ids=" ".join,
)
def test_what_is_wrong_here_needs_no_server(more: list[str], capsys):
    """Nothing listens there, and that is not what is said."""
    assert main(["bench", "accuracy", "http://127.0.0.1:1", *more]) == 2
    assert "does not answer" not in refused(capsys.readouterr().err)


def test_no_server(capsys):
    assert main(["bench", "accuracy", "http://127.0.0.1:1"]) == 2
    assert "does not answer" in refused(capsys.readouterr().err)


def test_ctrl_c_shows_what_was_measured(tmp_path: Path):
    fake = knowing(SUMS)
    fake.stalls_after = 4
    with fake_bench(fake) as url:
        command = [sys.executable, "-m", "sglang_nemotron", "bench", "accuracy", url, "--parallel", "2"]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, preexec_fn=end_with_parent, env=dict(os.environ), **pipes) as process:
            assert fake.stalled.wait(NET_S)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=NET_S)
    assert process.returncode == 130, err
    assert "INTERRUPTED after " in out and "of 12 questions" in out and "Accuracy: 1.000" in out
    assert "Traceback" not in err


# ---- lm-eval


def test_without_lm_eval(monkeypatch: pytest.MonkeyPatch, capsys):
    import importlib.metadata

    def none(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", none)
    assert accuracy(knowing(SUMS), "--lm-eval") == 2
    assert "pip install 'lm-eval[api]'" in refused(capsys.readouterr().err)


# asks what its task says, and writes what lm-eval writes
_LM_EVAL = """
import json, pathlib, sys, urllib.request
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
model = dict(pair.split("=", 1) for pair in words["--model_args"].split(","))
folder = pathlib.Path(words["--include_path"])
task = json.loads((folder / (words["--tasks"] + ".yaml")).read_text())
right = 0
lines = pathlib.Path(task["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines()
for line in map(json.loads, lines):
    body = json.dumps({"prompt": line["prompt"], "max_tokens": task["generation_kwargs"]["max_gen_toks"]}).encode()
    request = urllib.request.Request(model["base_url"], body, {"Content-Type": "application/json"})
    said = json.loads(urllib.request.urlopen(request).read())["choices"][0]["text"]
    right += line["target"] == said.replace(",", "").split()[-1]
out = pathlib.Path(words["--output_path"]) / "model"
out.mkdir(parents=True)
result = {"results": {words["--tasks"]: {"exact_match,answer": right / len(lines)}}}
(out / "results_x.json").write_text(json.dumps(result))
"""


def test_through_lm_eval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """The real one is not installed here: a program in its place takes the same words and files."""
    (tmp_path / "lm_eval.py").write_text(_LM_EVAL)
    meta = tmp_path / "lm_eval-9.9.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: lm_eval\nVersion: 9.9\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
    file = tmp_path / "x.json"
    more = ["--lm-eval", "--json", str(file)]
    assert accuracy(knowing(SUMS, wrong=3), *more, "--expect", "0.75") == 0
    out = capsys.readouterr().out
    assert "12 sums of our own, not GSM8K, by lm-eval 9.9" in out and "Accuracy: 0.750 (12 questions)" in out
    assert json.loads(file.read_text())["lm_eval"] == "9.9"
    (tmp_path / "lm_eval.py").write_text("print('planted'); raise SystemExit(3)")
    assert accuracy(knowing(SUMS), "--lm-eval") == 2
    err = capsys.readouterr().err
    assert "lm-eval ended with exit code 3" in refused(err) and "planted" in err
