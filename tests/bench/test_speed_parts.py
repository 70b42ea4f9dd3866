"""What a speed benchmark sends and what it reads of a stream; how numbers are printed, kept, compared and drawn."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sglang_nemotron.bench import bench_serving, compare, records, table
from sglang_nemotron.bench.load import Load, questions
from sglang_nemotron.bench.records import Run, Timed
from sglang_nemotron.bench.statistics import summarise
from sglang_nemotron.bench.stream import Heard
from sglang_nemotron.bench.sweep import order
from sglang_nemotron.verify.server import Unfit

# of the Omni cookbook's section 5.2, beside the line about texts that media add to
COOKBOOK = (
    *("Backend:", "Traffic request rate:", "Max request concurrency:", "Successful requests:"),
    *("Benchmark duration (s):", "Total input tokens:", "Total input text tokens:", "Total generated tokens:"),
    *("Total generated tokens (retokenized):", "Request throughput (req/s):", "Input token throughput (tok/s):"),
    *("Output token throughput (tok/s):", "Peak output token throughput (tok/s):", "Peak concurrent requests:"),
    *("Total token throughput (tok/s):", "Concurrency:", "Mean E2E Latency (ms):", "Median E2E Latency (ms):"),
    *("P90 E2E Latency (ms):", "P99 E2E Latency (ms):", "Mean TTFT (ms):", "Median TTFT (ms):", "P99 TTFT (ms):"),
    *("Mean TPOT (ms):", "Median TPOT (ms):", "P99 TPOT (ms):", "Mean ITL (ms):", "Median ITL (ms):"),
    *("P95 ITL (ms):", "P99 ITL (ms):", "Max ITL (ms):"),
)


def some_run(server: str = "http://a", concurrency: int = 4, round_: int = 0, slow: float = 1.0) -> Run:
    requests = tuple(
        Timed(10, 3, start_s=float(number), ttft_s=0.5 * slow, latency_s=1.5 * slow, itl_s=(0.5 * slow, 0.5 * slow))
        for number in range(4)
    )
    return Run(server, concurrency, round_, "own", 4, requests, summarise(requests, 6.0 * slow))


def made(load: Load, count: int = 6, seed: int = 1) -> list[dict]:
    load.check()
    return [one.body for one in questions(load, count, seed, 0.5, lambda load, seed: [{"seed": seed}], lambda: None)]


# ---- what is sent


def test_ids_lengths_and_wishes():
    load = Load(input_len=30, output_len=8, vocab=1100)
    bodies = made(load, 300)
    prompts, outputs = [body["prompt"] for body in bodies], [body["max_tokens"] for body in bodies]
    assert {id_ for prompt in prompts for id_ in prompt} <= set(range(1000, 1100))
    # from one token to all, each of them
    assert {len(prompt) for prompt in prompts} == set(range(1, 31)) and set(outputs) == set(range(1, 9))
    assert all(body["ignore_eos"] and body["temperature"] == 0 for body in bodies)
    fixed = made(replace(load, range_ratio=1.0))
    assert {(len(body["prompt"]), body["max_tokens"]) for body in fixed} == {(30, 8)}


def test_the_same_seed_asks_the_same_and_another_something_else():
    load = Load(input_len=40, range_ratio=1.0)
    assert made(load) == made(load) != made(load, seed=2)
    starts = [tuple(body["prompt"][:8]) for seed in (1, 2) for body in made(load, 50, seed)]
    assert len(set(starts)) == 100
    assert made(replace(load, seed=7)) != made(load)


def test_chats_and_media():
    load = Load(input_len=40, range_ratio=1.0, chat=True)
    texts = [body["messages"][0]["content"] for body in made(load)]
    # half a word a token, as the server was found to count
    assert {len(text.split()) for text in texts} == {20} and len(set(texts)) == 6
    contents = [body["messages"][0]["content"] for body in made(replace(load, images=1))]
    assert [content[0]["type"] for content in contents] == ["text"] * 6
    assert len({content[1]["seed"] for content in contents}) == 6


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (Load(input_len=0), "--input-len is 0"),
        (Load(range_ratio=1.5), "--range-ratio is 1.5"),
        (Load(vocab=900), "--vocab is 900"),
        (Load(images=1, image_size=(640, 2)), "--image-size is 2"),
        (Load(clips=1, clip_size=(640, 361)), "--video-size is 640x361"),
    ],
)
def test_what_cannot_be_asked(load: Load, said: str):
    with pytest.raises(ValueError, match=said):
        load.check()


def test_made_media_differ_and_can_be_read():
    import base64
    import io

    from PIL import Image

    from sglang_nemotron.bench.media import Sources
    from sglang_nemotron.cli.demo_media import photo, speech
    from sglang_nemotron.parity.media_files import RATE_HZ, frames, samples

    sources = Sources(photo(), speech())
    load = Load(images=2, image_size=(64, 48), sounds=1, sound_s=0.5, clips=1, clip_size=(32, 48), clip_s=1.0)
    first, again, other = (sources.parts(load, seed) for seed in (1, 1, 9))
    assert first == again and all(a != b for a, b in zip(first, other, strict=True))
    assert [part["type"] for part in first] == ["image_url", "image_url", "input_audio", "video_url"]
    assert first[0] != first[1]
    urls = [first[0]["image_url"]["url"], first[3]["video_url"]["url"]]
    image, clip = (base64.b64decode(url.partition(",")[2]) for url in urls)
    assert Image.open(io.BytesIO(image)).size == (64, 48)
    assert frames(clip).shape == (8, 48, 32, 3)
    assert len(samples(base64.b64decode(first[2]["input_audio"]["data"]))) == RATE_HZ // 2


def test_as_many_connections_as_the_system_allows(monkeypatch: pytest.MonkeyPatch):
    from sglang_nemotron.bench import server

    limits: list[tuple[int, int]] = [(1024, 4096)]
    monkeypatch.setattr(server.resource, "getrlimit", lambda kind: limits[-1])
    monkeypatch.setattr(server.resource, "setrlimit", lambda kind, limit: limits.append(limit))
    server.make_room(256)
    assert limits == [(1024, 4096)]
    server.make_room(2000)
    assert limits[-1] == (2256, 4096)
    with pytest.raises(ValueError, match="5000 requests at once need 5256 open files, and the system allows 4096"):
        server.make_room(5000)


# ---- what is read


def lines(*chunks: object) -> list[bytes]:
    return [f"data: {chunk if isinstance(chunk, str) else json.dumps(chunk)}\n".encode() for chunk in chunks]


def heard(*chunks: object) -> Timed:
    stream = Heard()
    for at, line in enumerate(lines(*chunks)):
        stream.take(line, 10.0 + at)
    return stream.timed(9.0)


def chunk(text: str, finish: str | None = None, **more: object) -> dict:
    return {"choices": [{"delta": {"content": text}, "finish_reason": finish}], **more}


USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}


def test_a_stream():
    found = heard(chunk(""), chunk("a"), chunk("b", "stop"), USAGE, "[DONE]")
    # text came at 11 and 12; the end of the stream is the end of the request
    assert found == Timed(7, 3, start_s=9.0, ttft_s=2.0, latency_s=5.0, itl_s=(1.0,))


def test_thoughts_are_tokens():
    thought = {"choices": [{"delta": {"reasoning_content": "hm"}, "finish_reason": None}]}
    assert heard(thought, chunk("a", "stop"), USAGE).ttft_s == 1.0


def test_a_reply_without_text_came_at_its_end():
    assert heard(chunk("", "stop"), USAGE).ttft_s == 2.0


@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        ([chunk("a"), USAGE], "broke off"),
        ([chunk("a", "stop")], "counts no tokens"),
        ([{"error": {"message": "out of memory"}}], "out of memory"),
    ],
)
def test_streams_that_failed(chunks: list[object], said: str):
    assert said in (heard(*chunks).error or "")


# ---- what bench_serving wrote


def wrote(file: Path, **changes: object) -> Path:
    summary = some_run().summary
    assert summary is not None
    names = {"total_input", "total_input_text", "total_input_vision", "total_output", "total_output_retokenized"}
    said = {f"{name}_tokens" if name in names else name: value for name, value in vars(summary).items()}
    said |= {"total_output_tokens_retokenized": 5, "total_input_vision_tokens": 0}
    del said["total_output_retokenized_tokens"], said["max_itl_ms"]
    details = {"input_lens": [12, 13], "output_lens": [3, 3], "ttfts": [0.5, 0.5], "itls": [[0.5, 0.9], []]}
    said |= details | {"errors": ["", ""], "generated_texts": ["", ""], "server_info": {"api_key": "secret"}} | changes
    file.write_text(json.dumps(said) + "\n")
    return file


def test_its_file_is_a_run(tmp_path: Path):
    run, rest = bench_serving.run_of(
        wrote(tmp_path / "x", errors=["", "Traceback\nOSError: gone"]), server="s", concurrency=1, round_=0, count=2
    )
    assert run.summary is not None and run.failed == 1 and run.first_error == "OSError: gone"
    # by the server's count of what was answered, not by what was meant to be sent; it writes no longest gap
    assert (run.summary.total_input, run.summary.max_itl_ms, run.summary.total_output_retokenized) == (12, 900, 5)
    assert run.summary.input_throughput == pytest.approx(12 / 6) and "secret" not in json.dumps(rest)


def test_a_file_that_is_none(tmp_path: Path):
    with pytest.raises(Unfit, match="wrote no result"):
        bench_serving.run_of(tmp_path / "none", server="s", concurrency=1, round_=0, count=2)
    file = wrote(tmp_path / "x")
    file.write_text(
        json.dumps({name: value for name, value in json.loads(file.read_text()).items() if name != "ttfts"})
    )
    with pytest.raises(Unfit, match="wrote no 'ttfts'"):
        bench_serving.run_of(file, server="s", concurrency=1, round_=0, count=2)


def test_progress_is_read_of_its_bar():
    assert bench_serving.progress(" 25%|##5       | 4/16 [00:01<00:03,  3.9it/s]") == (4, 16)
    assert bench_serving.progress("Starting warmup with 1 sequences...") is None


def test_its_arguments_are_known_to_it():
    """The installed SGLang's parser takes the commands, and reads a picture's height and width as we mean them."""
    image = pytest.importorskip("sglang.benchmark.datasets.image")
    serving = pytest.importorskip("sglang.benchmark.serving")

    class Known:
        url, model = "http://127.0.0.1:1", "m"

    taken = {}
    for load in (Load(), Load(images=1, image_size=(640, 360))):
        words = bench_serving.command("python", load, Known(), "t", 4, 8, 1)  # type: ignore[arg-type]
        monkey = pytest.MonkeyPatch()
        with monkey.context() as patched:
            patched.setattr(sys, "argv", words[2:])
            patched.setattr(serving, "run_benchmark", lambda args: taken.update({args.dataset_name: args}))
            serving.cli_main()
    assert taken["random-ids"].tokenize_prompt and taken["random-ids"].backend == "sglang"
    assert image.parse_image_resolution(taken["image"].image_resolution) == (640, 360)


# ---- what is printed and kept


def test_the_table_is_the_cookbooks():
    run = some_run()
    assert run.summary is not None
    shown = table.result(replace(run, summary=replace(run.summary, total_output_retokenized=11)))
    labels = [line[:40].strip() for line in shown.splitlines() if ":" in line]
    assert tuple(labels) == COOKBOOK
    assert shown.splitlines()[0] == "============ Serving Benchmark Result ============"
    assert "----------------End-to-End Latency----------------" in shown
    assert "Output token throughput (tok/s):         2.00" in shown and "Failed" not in shown
    lost = replace(run, requests=(*run.requests, Timed(error="x")))
    assert "Failed requests:                         1" in table.result(lost)


def test_the_middle_round_stands_for_all():
    rounds = [some_run(round_=number, slow=slow) for number, slow in enumerate((3.0, 1.0, 2.0))]
    assert table.middle(rounds) is rounds[2] and table.middle(rounds[:2]) is rounds[0]
    (row,) = table.rows(rounds)
    assert row[:5] == ("http://a", "4", "3", "1.0", "0.7-2.0")


def test_what_is_kept_is_read_again(tmp_path: Path):
    runs = [some_run(), replace(some_run(round_=1), requests=(Timed(error="x"),), summary=None)]
    file = tmp_path / "x.json"
    about = {"date": "today", "servers": [{"url": "http://x", "model": "m"}]}
    file.write_text(json.dumps(records.raw(runs, about)))
    assert records.read(file) == ({"format": records.FORMAT, **about}, runs)


@pytest.mark.parametrize(
    "about", [{}, {"date": "today"}, {"date": "today", "servers": "x"}, {"date": "today", "servers": [{}]}]
)
def test_a_file_that_does_not_say_of_whom_it_is(about: dict, tmp_path: Path):
    file = tmp_path / "x.json"
    file.write_text(json.dumps(records.raw([some_run()], about)))
    with pytest.raises(ValueError, match=r"does not say when and of whom it is\n  remedy: measure again"):
        records.read(file)


@pytest.mark.parametrize(
    ("text", "said"), [("{", "is no JSON"), ("[]", "holds 'list'"), ('{"format": "other"}', "holds 'other'")]
)
def test_files_of_others(text: str, said: str, tmp_path: Path):
    (tmp_path / "x").write_text(text)
    with pytest.raises(ValueError, match=said):
        records.read(tmp_path / "x")
    with pytest.raises(ValueError, match="cannot be read"):
        records.read(tmp_path / "y")


# ---- what is compared


def test_apart_and_within():
    a = [some_run(round_=number, slow=slow) for number, slow in enumerate((1.0, 1.1))]
    b = [some_run("http://b", round_=number, slow=slow) for number, slow in enumerate((2.0, 2.2))]
    found = {row[1]: row for row in compare.rows(a, b)}
    assert found["output tok/s"][-1] == "B lower" and found["median TTFT, ms"][-1] == "B higher"
    assert found["median E2E, ms"][4] == "2.000"
    assert {row[-1] for row in compare.rows(a, [a[1], b[0]])} == {"within the rounds' spread"}
    assert {row[-1] for row in compare.rows(a[:1], b)} == {"one round: spread unknown"}
    # two of two beside two: 2 of 6 orders
    assert "33.3% of numbers" in compare.chance(a, b) and "no spread" in compare.chance(a[:1], b)
    with pytest.raises(ValueError, match=r"A has \[4\], B has \[8\]"):
        compare.rows(a, [some_run(concurrency=8)])


def test_other_questions_are_told():
    assert compare.differences({"input_len": 1}, {"input_len": 2}, ("input_len", "clips")) == ["input_len: 1 against 2"]


def test_the_first_server_changes():
    servers = ["a", "b"]
    assert [order(servers, number) for number in range(3)] == [["a", "b"], ["b", "a"], ["a", "b"]]  # type: ignore[arg-type]
