"""Mishaps while media are on their way: a client leaves, a worker is killed, pages run out; and other doors in.

Two processes that answer HTTP, /v1/responses and /v1/messages take media as the one and the chat do.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import signal
import socket
import threading
import time

import openai
import pytest

from e2e.test_omni_bad_input import BAD, CHAT, chat, clip, good, refused, url
from sglang_nemotron.cli.server import ServerProcess
from sglang_nemotron.parity.client import Client
from support.omni_media import film, photo, recording
from support.omni_requests import Wish, difference, holdings, part, tell, tell_together, text, uri, workers
from support.serving import OMNI, Served, post, running
from support.waiting import NET_S, eventually

# two processes that answer HTTP, few addresses, and pages for six pictures at most, given away as if answers were short
NARROW = Served(
    OMNI.checkpoint,
    (
        *OMNI.args,
        *("--tokenizer-worker-num", "2"),
        *("--allowed-media-domains", "media.example"),
        *("--max-total-tokens", "2048"),
        *("--schedule-conservativeness", "0.05"),
    ),
    OMNI.env,
)


# ---- somebody goes away


# no film is in the cache of another
_SEEDS = itertools.count(1000)


def long_film() -> bytes:
    return film(640, 360, seed=next(_SEEDS), num_frames=240, rate=10)


def busy(server: ServerProcess) -> bool:
    """Whether a worker is reading: its processor time rises."""
    before = {worker.pid: sum(worker.cpu_times()[:2]) for worker in workers(server)}
    time.sleep(0.1)
    after = {worker.pid: sum(worker.cpu_times()[:2]) for worker in workers(server)}
    return any(after[pid] - before[pid] >= 0.03 for pid in after.keys() & before.keys())


@pytest.mark.server(OMNI)
@pytest.mark.matrix
def test_a_client_leaves_while_its_video_is_read(server: ServerProcess) -> None:
    message = [{"role": "user", "content": [part("video", long_film(), "mp4"), text("And?")]}]
    everything = {"media_io_kwargs": {"video": {"fps": -1, "num_frames": -1}}}
    body = json.dumps({"model": "x", "max_tokens": 64, "messages": message, "stream": True, **everything}).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        client.sendall(head.encode() + body)
        assert eventually(lambda: busy(server)), "the film was never read"
    assert eventually(lambda: not busy(server) and running(server.url) == 0)
    assert eventually(lambda: holdings(server).left == ()), holdings(server)
    assert tell(server.url, Wish([{"role": "user", "content": [good(), text("Well?")]}])) is not None


@pytest.mark.server(OMNI)
@pytest.mark.matrix
def test_a_killed_worker_costs_its_own_request_alone(server: ServerProcess) -> None:
    wish = Wish([{"role": "user", "content": [good(), text("Well?")]}])
    before = tell(server.url, wish)
    assert before is not None
    everything = {"media_io_kwargs": {"video": {"fps": -1, "num_frames": -1}}}
    path, body = chat(part("video", long_film(), "mp4"), **everything)
    answers: list[tuple[int, str]] = []
    asking = threading.Thread(target=lambda: answers.append(post(server.url, path, body)), daemon=True)
    asking.start()
    assert eventually(lambda: busy(server)), "the film was never read"
    for worker in workers(server):
        os.kill(worker.pid, signal.SIGKILL)
    asking.join(NET_S)
    ((status, answer),) = answers
    assert status == 400 and "video 1: cannot be read: its reader came to an end" in answer, answer
    after = tell(server.url, wish)
    assert after is not None and difference(wish, after, before[0]) == (None, False)
    assert eventually(lambda: holdings(server).left == ()), holdings(server)


# ---- other servers


def named(server: ServerProcess) -> list[str]:
    """Files of media that have a name.

    Where several processes answer HTTP, one of them may keep the last file mapped, without a name, until the next.
    """
    return [file for file in holdings(server).left if not file.endswith("(deleted)")]


@pytest.mark.server(NARROW)
@pytest.mark.matrix
def test_two_http_workers_and_allowed_domains(server: ServerProcess) -> None:
    # each process renders, fetches and reads by itself, and says the same
    wishes = [
        Wish([{"role": "user", "content": [good(), text("Well?")]}], max_tokens=8),
        Wish([{"role": "user", "content": [part("video", clip(), "mp4"), text("Well?")]}], max_tokens=8),
        Wish([{"role": "user", "content": [part("audio", recording(1.1, seed=16), "wav"), text("Well?")]}], n=2),
    ]
    alone = [tell(server.url, Wish(wish.messages, max_tokens=wish.max_tokens)) for wish in wishes]
    for _ in range(4):
        for wish, said, answer in zip(wishes, tell_together(server.url, wishes), alone, strict=True):
            assert said is not None and answer is not None
            assert difference(wish, said, answer[0])[0] is None
    # connections go to either process
    for _ in range(4):
        for name in ("truncated PNG", "NaN samples", "video without frames", "frames", "more slots than items"):
            assert refused(server.url, BAD[name]) is None, name
        for address in ("https://elsewhere.example/a.png", "http://127.0.0.1:1/a.png"):
            message = "Media URL domain is not allowed"
            assert refused(server.url, (lambda to=address: url("image", to), ("image 1: ", message))) is None
    assert eventually(lambda: named(server) == []), holdings(server)


@pytest.mark.server(NARROW)
@pytest.mark.matrix
def test_retraction_gives_the_same_answers(server: ServerProcess) -> None:
    """Requests that are thrown out for want of pages and come back have their media embedded again."""
    # SGLang keeps room for the whole of an answer that ignores its end, but not of one that must be long
    unending = {"ignore_eos": False, "min_tokens": 300}
    wishes = [
        Wish(
            [{"role": "user", "content": [part("image", photo(200 + 10 * i, 150, seed=30 + i), "png"), text("And?")]}],
            unending,
            max_tokens=300,
        )
        for i in range(6)
    ]
    wishes += [
        Wish(
            [{"role": "user", "content": [part("video", film(64, 64, seed=40 + i, num_frames=8), "mp4"), text("?")]}],
            {**unending, "video_pruning_rate": 0.5},
            max_tokens=300,
        )
        for i in range(3)
    ]
    alone = [tell(server.url, wish) for wish in wishes]
    Client(server.url).flush()
    before = len(server.log_text())
    together = tell_together(server.url, wishes)
    assert "Retract" in server.log_text()[before:], "nothing was retracted: the server is not tight enough"
    ties = 0
    for wish, said, answer in zip(wishes, together, alone, strict=True):
        assert said is not None and answer is not None
        problem, tied = difference(wish, said, answer[0])
        assert problem is None, f"{wish}: {problem}"
        ties += tied
    assert ties <= 2


# ---- other protocols


@pytest.mark.server(OMNI)
@pytest.mark.matrix
def test_responses_and_messages_take_an_image(server: ServerProcess) -> None:
    data = uri("image", photo(300, 200, seed=1), "png")
    least = 256
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="EMPTY", max_retries=0, timeout=NET_S) as client:
        said = client.responses.create(
            model=client.models.list().data[0].id,
            max_output_tokens=8,
            temperature=0,
            input=[
                {
                    "role": "user",
                    "content": [
                        {"type": "input_image", "image_url": data, "detail": "auto"},
                        {"type": "input_text", "text": "Well?"},
                    ],
                }
            ],
        )
        assert said.usage is not None and said.usage.input_tokens > least
        assert said.usage.output_tokens > 0
    source = {"type": "base64", "media_type": "image/png", "data": data.partition(",")[2]}
    message = {"role": "user", "content": [{"type": "image", "source": source}, text("Well?")]}
    status, answer = post(
        server.url, "/v1/messages", {"model": "default", "max_tokens": 8, "temperature": 0, "messages": [message]}
    )
    assert status == 200, answer
    usage = json.loads(answer)["usage"]
    # the protocol counts what a cache had apart
    assert usage["input_tokens"] + usage.get("cache_read_input_tokens", 0) > least, answer
    broken = {**source, "data": base64.b64encode(b"no image").decode()}
    message = {"role": "user", "content": [{"type": "image", "source": broken}, text("Well?")]}
    status, answer = post(server.url, "/v1/messages", {"model": "default", "max_tokens": 8, "messages": [message]})
    assert status == 400 and "image 1: not an image" in answer, answer
