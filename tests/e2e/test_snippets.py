"""What README, docs and `--help` ask of a server, asked as a reader does of one that the docs' own command started.

A reader's server listens on port 30000 and has the published weights; here another port, and a tiny checkpoint of
random weights under the published id, in a cache of the hub. Nothing else of a command is changed.
"""

from __future__ import annotations

import base64
import csv
import importlib.util
import io
import itertools
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from sglang_nemotron.bench import sets
from sglang_nemotron.checkpoint.spec import OMNI_PRESETS, PRESETS
from sglang_nemotron.cli import main
from sglang_nemotron.cli.demo_media import clip, photo, speech
from sglang_nemotron.cli.server import ServerProcess
from sglang_nemotron.reader.settings import WorkerConfig
from support.hub import OMNI_IDS, TEXT_IDS
from support.omni_media import recording
from support.omni_requests import part, text
from support.serving import MAIN, OFFLINE, OMNI, TEXT_EXAMPLES, Served, Servers, post
from support.snippets import PORT_30000, Snippet, adapted, found, of, shape, shell

pytestmark = pytest.mark.matrix


def served(snippet: Snippet) -> Served:
    """The server that a `sglang serve` of the docs starts."""
    words = shlex.split(snippet.key)
    env = tuple(tuple(word.split("=", 1)) for word in itertools.takewhile(lambda word: word != "sglang", words))
    _, _, *flags = words[len(env) :]
    if "--model-path" not in flags:
        assert flags == ["..."], flags
        return Served(PRESETS["toy"], env=env)
    at = flags.index("--model-path")
    model, rest = flags[at + 1], [*flags[:at], *flags[at + 2 :]]
    if "--port" in rest:
        # of two on one machine
        at = rest.index("--port")
        del rest[at : at + 2]
    rest = tuple(rest)
    if model in TEXT_IDS:
        # keeps sampled replies of random weights to words
        return Served(args=rest, env=(*env, *TEXT_EXAMPLES.env), name=model)
    if model in OMNI_IDS:
        return Served(OMNI_PRESETS["tiny"], rest, (*env, *TEXT_EXAMPLES.env), name=model)
    # what `sglang-nemotron make-checkpoint /tmp/toy` writes
    assert model in ("/tmp/toy", "DIR"), model
    return Served(PRESETS["toy"], rest, env)


SERVES = of("serve")
# of a command that several pages show, any of them
(README,) = {
    served(snippet)
    for snippet in found()
    if snippet.place == "README.md" and "sglang serve --model-path" in snippet.key
}


@pytest.mark.parametrize(
    "snippet", [pytest.param(one, id=one.key[:80], marks=pytest.mark.server(served(one))) for one in SERVES]
)
def test_it_serves(snippet: Snippet, server: ServerProcess) -> None:
    body = {"model": "x", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    status, said = post(server.url, "/v1/chat/completions", body)
    assert status == 200 and json.loads(said)["usage"]["completion_tokens"] <= 4, said
    for op, form in re.findall(r"SGLANG_NEMOTRON_OPS=(\w+)=(\w+)", snippet.key):
        assert re.search(rf"op {op} on cpu: {form} ", server.log_text())


@pytest.mark.server(README)
def test_curl_gets_the_answer_that_is_shown(server: ServerProcess, tmp_path: Path) -> None:
    (snippet,), (block,) = of("curl"), of("answer")
    done = shell(adapted(snippet.text, {PORT_30000: server.url}), tmp_path)
    assert done.returncode == 0, done.stderr
    answer, promised = json.loads(done.stdout), json.loads(block.text)
    assert promised.keys() <= answer.keys() and promised["model"] == answer["model"]
    assert shape(promised["choices"][0]) == shape(answer["choices"][0])
    assert promised["usage"].items() <= answer["usage"].items()


# one in float32: tiny random weights in bfloat16 are so noisy that `verify` says that it can prove nothing
@pytest.mark.server(MAIN)
@pytest.mark.parametrize("snippet", [pytest.param(one, id=one.key[:80]) for one in of("asking")])
def test_a_command_asks_a_running_server(
    snippet: Snippet, server: ServerProcess, servers: Servers, tmp_path: Path
) -> None:
    command, changes = re.subn(r"\bURL\b|http://127\.0\.0\.1:\d+", server.url, snippet.key)
    assert changes == 1
    done = shell(command, tmp_path, HF_HUB_CACHE=servers.cached(MAIN), **OFFLINE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().splitlines()[-1] == ("AGREES" if "verify" in command else "PASS")
    for name in re.findall(r"--json (\S+)", command):
        assert json.loads((tmp_path / name).read_text())["passed"] is True


# a reader's server is larger: the same commands with fewer and shorter requests
_LITTLE = {
    "speed": "--rounds 1 --num-prompts 2 --input-len 16 --output-len 4 --image-size 64x48 --audio-seconds 1 "
    "--video-size 64x48",
    "accuracy": "--num-questions 6 --max-tokens 32",
}
# flag -> (what it needs, what is said where that is not installed)
_EXTRAS = {"--plot": ("matplotlib", "matplotlib>=3.9"), "--lm-eval": ("lm_eval", "lm-eval[api]")}


def data_of_ones_own(folder: Path) -> None:
    """Files under the names that the docs give to GSM8K's, MMLU's and media sets."""
    (folder / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in sets.sums()))
    for at, kind in enumerate(("dev", "test")):
        (folder / "data" / kind).mkdir(parents=True)
        for name, rows in sets.choices().items():
            with (folder / "data" / kind / f"{name}_{kind}.csv").open("w", newline="") as file:
                csv.writer(file).writerows(rows[at])
    (folder / "photo.jpg").write_bytes(photo())
    line = {
        "image": "photo.jpg",
        "question": "What is over the lake? Answer with one word.",
        "answer": ["sun", "the sun"],
    }
    (folder / "pictures.jsonl").write_text(json.dumps(line) + "\n")


@pytest.mark.server(OMNI)
@pytest.mark.parametrize("snippet", [pytest.param(one, id=one.key[:80]) for one in of("bench")])
def test_a_benchmark_of_a_server(snippet: Snippet, server: ServerProcess, servers: Servers, tmp_path: Path) -> None:
    data_of_ones_own(tmp_path)
    # the second server of a reader is this one under another name
    command = adapted(snippet.key, {PORT_30000: server.url}).replace(
        "http://127.0.0.1:30001", server.url.replace("127.0.0.1", "localhost")
    )
    _, _, kind, *_ = shlex.split(command)
    done = shell(f"{command} {_LITTLE[kind]}", tmp_path, HF_HUB_CACHE=servers.cached(OMNI), **OFFLINE)
    lacking = [
        said for flag, (name, said) in _EXTRAS.items() if flag in command and importlib.util.find_spec(name) is None
    ]
    if lacking:
        assert done.returncode == 2 and f"pip install '{lacking[0]}'" in done.stderr, done.stderr
        return
    if "--expect" in command:
        # random weights are not right that often
        assert done.returncode == 1 and "BELOW" in done.stdout, done.stdout + done.stderr
    else:
        assert done.returncode == 0, done.stdout + done.stderr
    assert ("Serving Benchmark Result" if kind == "speed" else "Accuracy: ") in done.stdout
    for name in re.findall(r"--json (\S+)", command):
        assert json.loads((tmp_path / name).read_text())["date"]


@pytest.mark.server(OMNI)
@pytest.mark.parametrize("snippet", [pytest.param(one, id=one.key[:80]) for one in of("compared")])
def test_two_benchmarks_are_compared(snippet: Snippet, server: ServerProcess, tmp_path: Path) -> None:
    little = f"{_LITTLE['speed']} --concurrency 1 --client own --vocab 2048"
    against = f"--against {server.url.replace('127.0.0.1', 'localhost')} --rounds 1"
    files = [word for word in shlex.split(snippet.key, comments=True) if word.endswith(".json")]
    for name in files:
        more = against if len(files) == 1 else ""
        done = shell(f"sglang-nemotron bench speed {server.url} {little} --json {name} {more}", tmp_path)
        assert done.returncode == 0, done.stderr
    done = shell(snippet.key, tmp_path)
    if "--plot" in snippet.key and importlib.util.find_spec("matplotlib") is None:
        assert done.returncode == 2 and "pip install 'matplotlib>=3.9'" in done.stderr, done.stderr
    else:
        assert done.returncode == 0 and "B/A" in done.stdout, done.stdout + done.stderr


@pytest.mark.server
@pytest.mark.parametrize("key", sorted({re.sub(r"\bMODEL\b", "/tmp/toy", one.key) for one in of("parity")}))
def test_parity_with_a_server_of_its_own(key: str, tmp_path: Path) -> None:
    if "make-checkpoint" not in key:
        kind = ["--omni"] if "/tmp/omni" in key else []
        assert main(["make-checkpoint", str(tmp_path / ("omni" if kind else "toy")), *kind]) == 0
    done = shell(adapted(key, {"/tmp/": f"{tmp_path}/"} if "/tmp/" in key else {}), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().splitlines()[-1] == "PASS" and "server: ready after" in done.stderr
    for name in re.findall(r"--json (\S+)", key):
        assert json.loads((tmp_path / name).read_text())["passed"] is True


# ---- what docs/media.md says that a 400 says


def m4a() -> bytes:
    """Speech as phones record it."""
    import av

    made = io.BytesIO()
    with av.open(io.BytesIO(speech())) as source, av.open(made, "w", format="ipod") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=16_000)
        for frame in source.decode(audio=0):
            for converted in resampler.resample(frame):
                container.mux(stream.encode(converted))
        container.mux(stream.encode(None))
    return made.getvalue()


def chat(*parts: dict[str, Any], **options: Any) -> tuple[str, dict[str, Any]]:
    messages = [{"role": "user", "content": [*parts, text("What is it?")]}]
    return "/v1/chat/completions", {"model": "x", "max_tokens": 4, "messages": messages, **options}


def too_few() -> tuple[str, dict[str, Any]]:
    data = f"data:video/mp4;base64,{base64.b64encode(clip()).decode()}"
    return "/generate", {"text": "<video> and <video>", "video_data": [data], "sampling_params": {"max_new_tokens": 2}}


# a line of the docs -> the request that gets it
REQUESTS: dict[str, Callable[[], tuple[str, dict[str, Any]]]] = {
    "image 2: not an image": lambda: chat(part("image", photo(), "jpeg"), part("image", bytes(range(256)), "png")),
    "video 2: has no video track": lambda: chat(part("video", clip(), "mp4"), part("video", m4a(), "mp4")),
    "audio 1: lasts": lambda: chat(part("audio", recording(0.01, seed=5), "wav")),
    "video 1: the file is empty": lambda: chat(part("video", b"", "mp4")),
    "videos: the prompt has": too_few,
    "video_max_frames is 9999": lambda: chat(part("image", photo(), "jpeg"), video_max_frames=9999),
}


@pytest.mark.server(OMNI)
def test_refusals_are_those_of_the_docs(server: ServerProcess) -> None:
    (block,) = of("refusals")
    # a file that takes so long would take the test as long; tests/reader/test_pool.py has one with a shorter limit
    (seconds,) = (field.default for field in fields(WorkerConfig) if field.name == "timeout")
    waits = f"takes too long to read (at most {seconds:g} s)"
    lines = [line for line in block.text.splitlines() if waits not in line]
    assert len(lines) == len(block.text.splitlines()) - 1 == len(REQUESTS)
    for line in lines:
        (request,) = (make for begin, make in REQUESTS.items() if line.startswith(begin))
        status, said = post(server.url, *request())
        error = json.loads(said)
        message = error.get("message") or error["error"]["message"]
        assert (status, message) == (400, line)
