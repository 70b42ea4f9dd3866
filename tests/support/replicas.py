"""Replicas of one server behind SGLang's router, and clients that count: what was answered, by whom, from which cache.

The router is `smg`, which has grown out of `sglang-router`; it lives in an environment of its own (`.router-venv`, made
by `make`), or where the variable SMG says.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import subprocess
import threading
import urllib.error
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.cli.server import ServerProcess, free_port
from support.children import end_with_parent
from support.serving import get, post
from support.waiting import NET_S, eventually

ROOT = Path(__file__).resolve().parents[2]
# in which the tiny checkpoint's states are kept
STEP = PRESETS["tiny"].chunk_size
_JSON = {"Content-Type": "application/json"}
PROGRAM = Path(os.environ.get("SMG", ROOT / ".router-venv" / "bin" / "smg"))
# a replica that is gone is out after one look, and in again after one
LOOKS = (
    *("--health-check-interval-secs", "1", "--health-failure-threshold", "1", "--health-success-threshold", "1"),
    *("--worker-startup-check-interval", "1"),
)


def router_command(port: int, urls: Sequence[str], policy: str) -> list[str]:
    """The command of docs/replicas.md, with quicker looks, and nothing of it open to other machines."""
    command = [str(PROGRAM), "launch", "--worker-urls", *urls, "--policy", policy]
    command += ["--host", "127.0.0.1", "--port", str(port), "--prometheus-host", "127.0.0.1"]
    # a comment in a stream that waits is no byte of the server's
    return [*command, "--prometheus-port", str(free_port()), "--sse-keepalive-secs", "0", *LOOKS]


@contextmanager
def router(urls: Sequence[str], log: Path, policy: str = "cache_aware") -> Iterator[str]:
    """The address of a router that has found all of these servers; it ends with the block."""
    assert PROGRAM.exists(), f"no router at {PROGRAM}: run `make .router-venv/.ready`, or say in SMG where it is"
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with open(log, "wb") as out:
        command = router_command(port, urls, policy)
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, preexec_fn=end_with_parent)
        try:
            assert eventually(lambda: process.poll() is not None or healthy(address) == len(urls)), log.read_text()
            assert process.poll() is None, log.read_text()
            yield address
        finally:
            process.kill()
            process.wait(NET_S)


def healthy(address: str) -> int:
    """Replicas that a router sends requests to."""
    try:
        workers = json.loads(get(address + "/workers"))["workers"]
    except (OSError, urllib.error.URLError):
        return 0
    return sum(bool(worker.get("is_healthy")) for worker in workers)


def requests_of(server: ServerProcess) -> int:
    """Requests that a server has ended, by its own count."""
    found = re.findall(r"^sglang:num_requests_total(?:\{[^}]*\})? (\S+)$", get(server.url + "/metrics"), re.M)
    return int(sum(float(value) for value in found))


# ---- conversations


@dataclass
class Turn:
    """One answer of a conversation. `start`: prompt tokens before it that the conversation had already computed."""

    conversation: int
    number: int
    prompt: int
    cached: int
    start: int
    answer: int


def words(count: int, seed: str) -> str:
    """Made-up words, the same for the same seed."""
    digest = hashlib.sha256(seed.encode()).digest()
    return " ".join(f"w{digest[i % 32]}{i % 7}" for i in range(count))


def converse(address: str, num: int, turns: int, *, tag: str, shared: bool = False, at_once: int = 2) -> list[Turn]:
    """Conversations, a turn of each in turn, `at_once` at a time; their long system prompt is the same if `shared`."""
    chats = [[{"role": "system", "content": words(120, tag if shared else f"{tag} {n}")}] for n in range(num)]
    before = [0] * num

    def turn(number: int, conversation: int) -> Turn:
        chat = chats[conversation]
        chat.append({"role": "user", "content": words(40, f"{tag} {conversation} {number}")})
        # without thoughts, which a template drops from a history, the last prompt is a prefix of the next one
        template = {"chat_template_kwargs": {"enable_thinking": False}}
        body = {"model": "default", "messages": chat, "max_tokens": 16, "temperature": 0, **template}
        status, text = post(address, "/v1/chat/completions", body)
        assert status == 200, text
        reply = json.loads(text)
        chat.append({"role": "assistant", "content": reply["choices"][0]["message"]["content"] or ""})
        usage = reply["usage"]
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        start, before[conversation] = before[conversation], usage["prompt_tokens"]
        return Turn(conversation, number, usage["prompt_tokens"], cached, start, usage["completion_tokens"])

    found: list[Turn] = []
    with ThreadPoolExecutor(at_once) as pool:
        for number in range(turns):
            found += pool.map(lambda one, number=number: turn(number, one), range(num))
    return found


def missed(turns: Sequence[Turn]) -> list[Turn]:
    """Later turns that did not find all of the one before in a cache, but for the last step that a state is kept in."""
    return [turn for turn in turns if turn.number and turn.cached <= turn.start - 2 * STEP]


# ---- raw replies


def raw(address: str, body: dict[str, Any], path: str = "/v1/chat/completions") -> tuple[int, str, bytes]:
    """Status, content type and bytes of an answer, without what differs between any two: its id and its time."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=NET_S)
    try:
        connection.request("POST", path, json.dumps(body), _JSON)
        reply = connection.getresponse()
        text = reply.read()
    finally:
        connection.close()
    text = re.sub(rb'"id":"[0-9a-f]{32}"', b'"id":""', text)
    text = re.sub(rb'"id":"call_[0-9a-zA-Z]+"', b'"id":""', text)
    return reply.status, reply.headers.get_content_type(), re.sub(rb'"created":\d+', b'"created":0', text)


# ---- a load that outlives a replica


@dataclass
class Heard:
    """What clients saw: right answers and wrong ones, by kind of request, and errors by their text."""

    right: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


def load(address: str, expected: dict[str, list[int]], num: int, at_once: int, after: Callable[[int], None]) -> Heard:
    """`num` requests, whole ones and streams in turn, compared with what is right; `after` hears how many ended."""
    heard, lock = Heard(), threading.Lock()
    prompts = list(expected)

    def one(number: int) -> None:
        prompt, streams = prompts[number % len(prompts)], number % 2 == 1
        kind = "stream" if streams else "whole"
        said = _stream(address, prompt) if streams else _whole(address, prompt)
        with lock:
            if isinstance(said, str):
                heard.errors[f"{kind}: {said}"] += 1
            elif said == expected[prompt]:
                heard.right[kind] += 1
            else:
                heard.wrong.append(f"{kind} {prompt!r}: {said}")
            ended = sum(heard.right.values()) + sum(heard.errors.values()) + len(heard.wrong)
        after(ended)

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, range(num)))
    return heard


def _body(prompt: str, *, stream: bool) -> dict[str, Any]:
    sampling = {"temperature": 0, "max_new_tokens": 48, "ignore_eos": True}
    return {"text": prompt, "sampling_params": sampling, "stream": stream}


def _whole(address: str, prompt: str) -> list[int] | str:
    try:
        status, text = post(address, "/generate", _body(prompt, stream=False))
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    return json.loads(text)["output_ids"] if status == 200 else f"{status} {_code(text)}"


def _code(text: str) -> str:
    """What an error of the router says, without addresses and numbers that differ."""
    try:
        error = json.loads(text)["error"]
        return str(error.get("code") or error.get("type"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return text[:60]


def _stream(address: str, prompt: str) -> list[int] | str:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=NET_S)
    ids: list[int] = []
    try:
        connection.request("POST", "/generate", json.dumps(_body(prompt, stream=True)), _JSON)
        reply = connection.getresponse()
        if reply.status != 200:
            return f"{reply.status} {_code(reply.read().decode(errors='replace'))}"
        for line in reply:
            if line.strip() == b"data: [DONE]":
                return ids
            if line.startswith(b"data: "):
                piece = json.loads(line[6:])
                if "output_ids" not in piece:
                    return f"in the stream: {_code(line[6:].decode())}"
                ids = piece["output_ids"]
        return "ended without [DONE]"
    except (OSError, http.client.HTTPException) as error:
        return f"cut: {type(error).__name__}"
    finally:
        connection.close()


def answers(address: str, prompts: Sequence[str]) -> dict[str, list[int]]:
    """What a server says to each, alone."""
    found = {}
    for prompt in prompts:
        said = _whole(address, prompt)
        assert not isinstance(said, str), said
        found[prompt] = said
    return found
