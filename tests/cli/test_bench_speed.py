"""`sglang-nemotron bench speed` and `bench compare` against a fake server whose tokens are known, faults planted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sglang_nemotron.bench import bench_serving, sweep
from sglang_nemotron.cli import bench_speed, main
from support.children import end_with_parent
from support.fake_bench import MODEL, FakeBench, fake_bench
from support.waiting import NET_S

FEW = ["--num-prompts", "5", "--input-len", "8", "--output-len", "6", "--range-ratio", "1", "--concurrency", "2"]
SGLANG = {"model_path": "some/model", "tokenizer_path": "some/tokenizer"}


def speed(fake: FakeBench, *more: str) -> int:
    with fake_bench(fake) as url:
        return main(["bench", "speed", url, *FEW, *more])


def refused(err: str) -> str:
    said, remedy = err.splitlines()[-2:]
    assert said.startswith("sglang-nemotron bench ") and remedy.startswith("  remedy: ") and "Traceback" not in err
    return said + remedy


@pytest.mark.parametrize("along", [True, False])
def test_tokens_are_the_servers(along: bool, tmp_path: Path, capsys):
    """Answers end two tokens early: what was asked for is not what is counted."""
    file = tmp_path / "x.json"
    assert speed(fake := FakeBench(counts_along=along, ends_early=2), "--json", str(file), "--api-key", "s3cret") == 0
    out, err = capsys.readouterr()
    assert "Successful requests:                     5" in out and "Total input tokens:                      40" in out
    assert "Total generated tokens:                  20" in out and "our own client" in err
    said = json.loads(file.read_text())
    (run,) = said["runs"]
    assert [(one["prompt_tokens"], one["output_tokens"], len(one["itl_s"])) for one in run["requests"]] == [
        (8, 4, 3)
    ] * 5
    assert said["versions"]["aiohttp"] and said["date"] and said["load"]["input_len"] == 8
    assert "s3cret" not in file.read_text() and "secret" not in file.read_text()
    # one that warms and is not counted, and is none of the others
    prompts = [tuple(body["prompt"]) for body in fake.asked("/v1/completions")]
    assert len(prompts) == len(set(prompts)) == 6
    assert all(body["stream_options"]["include_usage"] and body["model"] == MODEL for _, body in fake.bodies)


def test_many_concurrencies_and_rounds(tmp_path: Path, capsys):
    assert speed(fake := FakeBench(), "--concurrency", "1,3", "--rounds", "2", "--json", str(tmp_path / "x")) == 0
    out = capsys.readouterr().out
    assert out.count("Serving Benchmark Result") == 2 and "round " in out and "medians over rounds" in out
    runs = json.loads((tmp_path / "x").read_text())["runs"]
    assert [(run["concurrency"], run["round"]) for run in runs] == [(1, 0), (1, 1), (3, 0), (3, 1)]
    prompts = [tuple(body["prompt"]) for body in fake.asked("/v1/completions")]
    assert len(set(prompts)) == len(prompts) == 24


def test_a_second_measurement_asks_something_else():
    """What the first asked may be in the server's cache."""
    with fake_bench(fake := FakeBench()) as url:
        assert main(["bench", "speed", url, *FEW]) == main(["bench", "speed", url, *FEW]) == 0
        asked = [tuple(body["prompt"]) for body in fake.asked("/v1/completions")]
        assert len(set(asked)) == len(asked)
        fake.bodies.clear()
        assert [main(["bench", "speed", url, *FEW, "--seed", "7"]) for _ in range(2)] == [0, 0]
        asked = [tuple(body["prompt"]) for body in fake.asked("/v1/completions")]
        assert len(set(asked)) == len(asked) / 2


def test_two_servers_are_asked_the_same_in_turn(tmp_path: Path, capsys):
    file = tmp_path / "x.json"
    with fake_bench(a := FakeBench()) as url, fake_bench(b := FakeBench()) as other:
        assert main(["bench", "speed", url, "--against", other, *FEW, "--rounds", "2", "--json", str(file)]) == 0
    assert len(a.bodies) == 12
    assert sorted(map(json.dumps, a.bodies)) == sorted(map(json.dumps, b.bodies))
    order = [(run["round"], run["server"] == url) for run in json.loads(file.read_text())["runs"]]
    assert order == [(0, True), (0, False), (1, False), (1, True)]
    out = capsys.readouterr().out
    assert f"A is {url}, B is {other}" in out and "B/A" in out and "33.3% of numbers" in out
    assert main(["bench", "compare", str(file)]) == 0
    assert "33.3% of numbers" in capsys.readouterr().out


def test_two_files_are_compared(tmp_path: Path, capsys):
    files = [str(tmp_path / name) for name in ("a.json", "b.json")]
    for file in files:
        assert speed(FakeBench(), "--json", file) == 0
    capsys.readouterr()
    assert main(["bench", "compare", *files]) == 0
    out = capsys.readouterr().out
    assert f"A: {files[0]}" in out and f"{MODEL} at http" in out and "one round: spread unknown" in out
    assert "NOT THE SAME" not in out
    said = json.loads(Path(files[1]).read_text())
    said["load"]["input_len"] = 9
    Path(files[1]).write_text(json.dumps(said))
    assert main(["bench", "compare", *files]) == 0
    assert "NOT THE SAME QUESTION: input_len: 8 against 9" in capsys.readouterr().out
    assert main(["bench", "compare", files[0]]) == 2
    assert "is of 1 server(s), where 2 would be compared" in refused(capsys.readouterr().err)


def test_a_side_of_which_nothing_was_answered(tmp_path: Path, capsys):
    """Which file, whose server, and why: not that no concurrency was measured on both sides."""
    good, bad = (str(tmp_path / name) for name in ("good.json", "bad.json"))
    assert speed(FakeBench(), "--json", good) == 0
    assert speed(FakeBench(fails=99), "--json", bad) == 2
    for files in ((good, bad), (bad, good), (bad, bad)):
        capsys.readouterr()
        assert main(["bench", "compare", *files]) == 2
        said = refused(capsys.readouterr().err)
        assert (
            f"{bad}: all 5 requests of http" in said and "failed, the first with: /v1/completions answered 500" in said
        )
    # one that was interrupted before anything came
    raw = json.loads(Path(bad).read_text())
    raw["runs"][0]["requests"] = []
    Path(bad).write_text(json.dumps(raw))
    assert main(["bench", "compare", good, bad]) == 2
    assert f"{bad}: no request was answered" in refused(capsys.readouterr().err)


def test_a_concurrency_at_which_nothing_was_answered_is_told(tmp_path: Path, capsys):
    files = [str(tmp_path / name) for name in ("a.json", "b.json")]
    for file in files:
        assert speed(FakeBench(), "--concurrency", "1,2", "--json", file) == 0
    raw = json.loads(Path(files[1]).read_text())
    (lost,) = [run for run in raw["runs"] if run["concurrency"] == 2]
    lost |= {"requests": [one | {"error": "gone"} for one in lost["requests"]], "summary": None}
    Path(files[1]).write_text(json.dumps(raw))
    capsys.readouterr()
    assert main(["bench", "compare", *files]) == 0
    out = capsys.readouterr().out
    assert "FAILED: 5 of 10 requests of B\nNOTHING ANSWERED by B with 2 at once\n" in out and "by A" not in out


def test_some_fail_and_are_told(capsys):
    assert speed(FakeBench(fails=2)) == 1
    out, err = capsys.readouterr()
    assert "Successful requests:                     3" in out and "Failed requests:                         2" in out
    assert "2 of 5 requests failed, the first with: /v1/completions answered 500" in refused(err)


@pytest.mark.parametrize(
    ("fake", "said"),
    [
        (FakeBench(breaks_off=True), "broke off before its end"),
        (FakeBench(uncounted=True, counts_along=False), "counts no tokens"),
    ],
    ids=("broken", "uncounted"),
)
def test_the_first_request_tells(fake: FakeBench, said: str, capsys):
    assert speed(fake) == 2
    assert said in refused(capsys.readouterr().err) and len(fake.bodies) == 1


def test_all_fail(capsys):
    assert speed(FakeBench(fails=99)) == 2
    out, err = capsys.readouterr()
    assert "5 of 5 requests failed" in refused(err) and "Result" not in out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--audios", "1", "--audio-seconds", "0.01"], "--audio-seconds is 0.01"),
        (["--videos", "1", "--video-seconds", "-1"], "--video-seconds is -1"),
        (["--timeout", "0"], "--timeout is 0"),
        (["--timeout", "-3"], "--timeout is -3"),
        (["--json", "/"], "--json / is a folder"),
        (["--concurrency", "0"], "--concurrency is '0'"),
        (["--concurrency", "a,b"], "--concurrency is 'a,b'"),
        (["--num-prompts", "0"], "--num-prompts is 0"),
        (["--images", "1", "--image-size", "8x720"], "--image-size is 8"),
        (["--range-ratio", "2"], "--range-ratio is 2"),
        (["--json", "nowhere/x.json"], "nowhere is no folder"),
        (["--plot", "x.bmp"], "'x.bmp' is no name of a picture"),
        (["--plot", "nowhere/x.svg"], "nowhere is no folder"),
        (["--client", "bench_serving"], "needs the tokenizer of the server"),
    ],
)
def test_bad_words(more: list[str], said: str, capsys):
    assert speed(fake := FakeBench(), *more) == 2
    assert said in refused(capsys.readouterr().err) and not fake.bodies


def test_no_server_and_the_same_twice(capsys):
    assert main(["bench", "speed", "http://127.0.0.1:1"]) == 2
    assert "does not answer" in refused(capsys.readouterr().err)
    assert main(["bench", "speed", "http://x y"]) == 2
    assert "http://x y/v1/models does not answer" in refused(capsys.readouterr().err)
    assert main(["bench", "speed", "127.0.0.1:1"]) == 2
    assert "is no address of a server" in refused(capsys.readouterr().err)
    with fake_bench(FakeBench()) as url:
        assert main(["bench", "speed", url, "--against", url + "/v1"]) == 2
    assert "the same server" in refused(capsys.readouterr().err)


def test_media_without_their_libraries(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr("sglang_nemotron.media.libraries.missing", lambda: ["av"])
    assert speed(FakeBench(), "--images", "1") == 2
    assert "pip install '.[omni]' in a clone" in refused(capsys.readouterr().err)


def test_media_are_sent(capsys):
    more = ["--images", "1", "--image-size", "32x32", "--audios", "1", "--audio-seconds", "0.2", "--num-prompts", "2"]
    assert speed(fake := FakeBench(), *more) == 0
    # two that find how many tokens words take, one that warms, two that are measured
    chats = fake.asked("/v1/chat/completions")
    assert len(chats) == 5
    contents = [body["messages"][0]["content"] for body in chats[2:]]
    assert all([part["type"] for part in content] == ["text", "image_url", "input_audio"] for content in contents)
    assert len({json.dumps(content[1:]) for content in contents}) == 3
    # of a prompt with media, text and media are not told apart
    assert "Total input text tokens" not in capsys.readouterr().out


# ---- SGLang's own client


def _program(script: str, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Has this run in the place of bench_serving; the commands that were asked for."""
    asked: list[list[str]] = []
    right = bench_serving.command

    def command(*args: Any) -> list[str]:
        asked.append(right(*args))
        return [sys.executable, "-c", script]

    monkeypatch.setattr(sweep.bench_serving, "command", command)
    return asked


def test_sglang_is_asked_by_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    told = {name: 1.0 for name in ("duration", "request_throughput", "input_throughput", "output_throughput")}
    told |= {"completed": 1, "total_throughput": 1.0, "max_output_tokens_per_s": 1.0, "max_concurrent_requests": 1}
    told |= {"concurrency": 1.0, "total_input_tokens": 8, "total_input_text_tokens": 8, "total_output_tokens": 2}
    told |= {"total_input_vision_tokens": 0, "total_output_tokens_retokenized": 2}
    for kind in ("e2e_latency", "ttft", "tpot", "itl"):
        told |= {f"{part}_{kind}_ms": 1.0 for part in ("mean", "median", "p90", "p95", "p99")}
    told |= {"input_lens": [8], "output_lens": [2], "ttfts": [0.5], "itls": [[0.25]], "errors": [""]}
    script = f"import json, sys\nprint('1/1 [', file=sys.stderr)\nopen(sys.argv[-1], 'w').write(json.dumps({told!r}))"
    asked = _program(script, monkeypatch)
    assert speed(fake := FakeBench(model_info=SGLANG), "--json", str(tmp_path / "x")) == 0
    out, err = capsys.readouterr()
    assert "Backend:                                 sglang" in out and "SGLang's bench_serving asks" in err
    assert "Max ITL (ms):                            250.00" in out
    ((command),) = asked
    assert command[command.index("--tokenizer") + 1] == "some/tokenizer" and "--tokenize-prompt" in command
    assert not fake.bodies and json.loads((tmp_path / "x").read_text())["bench_serving"][0]["command"]


def test_what_it_says_when_it_fails(monkeypatch: pytest.MonkeyPatch, capsys):
    _program("import sys; print('no such tokenizer', file=sys.stderr); sys.exit(1)", monkeypatch)
    assert speed(FakeBench(model_info=SGLANG)) == 2
    assert "ended without a result: no such tokenizer" in refused(capsys.readouterr().err)


@pytest.mark.parametrize("more", [["--audios", "1"], ["--videos", "1"], ["--chat"]])
def test_what_it_cannot_do_is_done_by_ours(more: list[str], capsys):
    assert speed(FakeBench(model_info=SGLANG), *more, "--audio-seconds", "0.2", "--video-size", "32x32") == 0
    assert "our own client" in capsys.readouterr().err


# ---- ctrl-C


def test_ctrl_c_shows_what_was_measured(tmp_path: Path):
    file = tmp_path / "x.json"
    # one that warms and three that are answered; two wait for ever
    with fake_bench(fake := FakeBench(stalls_after=4)) as url:
        command = [sys.executable, "-m", "sglang_nemotron", "bench", "speed", url, *FEW, "--json", str(file)]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, preexec_fn=end_with_parent, env=dict(os.environ), **pipes) as process:
            assert fake.stalled.wait(NET_S)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=NET_S)
    assert process.returncode == 130, err
    assert "Successful requests:" in out and "interrupted; the numbers are of" in err and "Traceback" not in err
    said = json.loads(file.read_text())
    # what came at the very moment may be in it or not
    assert said["interrupted"] and 2 <= len(said["runs"][0]["requests"]) <= 3


def test_help_names_every_flag_of_the_examples():
    import argparse

    parser = argparse.ArgumentParser()
    bench_speed.add_arguments(parser)
    flags = {word for word in (parser.epilog or "").split() if word.startswith("--")}
    assert {flag.rstrip(",.:") for flag in flags} <= set(parser._option_string_actions)
