"""A bad request is a 400 for its sender alone: a stream beside it goes on to the same end, and nothing leaks."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from typing import Any

import pytest

from sglang_nemotron.cli.server import ServerProcess
from support.waiting import NET_S

CHAT, COMPLETION, GENERATE = "/v1/chat/completions", "/v1/completions", "/generate"
MESSAGES = [{"role": "user", "content": "hi there"}]
# what the checkpoint of the shared server has
CONTEXT, TOP_ID = 4096, 1_000_000
# of the stream beside them: more than can come while everything is refused
STREAM_TOKENS = 2400


def chat(**fields: Any) -> tuple[str, bytes]:
    return CHAT, json.dumps({"model": "x", "max_tokens": 4, "messages": MESSAGES, **fields}).encode()


def completion(**fields: Any) -> tuple[str, bytes]:
    return COMPLETION, json.dumps({"model": "x", "max_tokens": 4, **fields}).encode()


def generate(**fields: Any) -> tuple[str, bytes]:
    return GENERATE, json.dumps({"sampling_params": {"max_new_tokens": 2}, **fields}).encode()


def raw(text: str) -> tuple[str, bytes]:
    return CHAT, text.replace(
        "$", '"model": "x", "max_tokens": 4, "messages": [{"role": "user", "content": "a"}]'
    ).encode()


# name -> (path and body, words of the message)
BAD: dict[str, tuple[tuple[str, bytes], str]] = {
    "chat beyond the context": (chat(messages=[{"role": "user", "content": "word " * CONTEXT}]), "context length"),
    "text beyond the context": (completion(prompt="word " * CONTEXT), "context length"),
    "ids beyond the context": (generate(input_ids=[1001] * (CONTEXT + 1)), "context length"),
    "answer beyond the context": (chat(max_tokens=10 * CONTEXT), "context length"),
    "empty prompt": (completion(prompt=""), "Prompt cannot be empty"),
    "prompt of no ids": (completion(prompt=[]), "Prompt cannot be empty"),
    "empty text": (generate(text=""), "the prompt is empty"),
    "no ids": (generate(input_ids=[]), "input_ids cannot be empty"),
    "no messages": (chat(messages=[]), "Messages cannot be empty"),
    "prompt absent": (completion(), "'loc': ('body', 'prompt'), 'msg': 'Field required'"),
    "negative id": (completion(prompt=[1001, -1]), "input_ids holds -1"),
    "huge id": (completion(prompt=[1001, TOP_ID]), f"input_ids holds {TOP_ID}"),
    "id beyond 64 bits": (completion(prompt=[1001, 2**70]), f"input_ids holds {2**70}"),
    "negative id, generate": (generate(input_ids=[-1]), "input_ids holds -1"),
    "huge id, generate": (generate(input_ids=[1001, TOP_ID]), f"input_ids holds {TOP_ID}"),
    "huge id in a batch": (generate(input_ids=[[1001], [TOP_ID]]), f"input_ids holds {TOP_ID}"),
    "fractional id": (completion(prompt=[1001, 1.5]), "validation error"),
    "id of another type": (generate(input_ids=[1001, None]), "validation error"),
    "a hundred thousand answers": (chat(n=100_000), "n is 100000; allowed: 1 to 1024"),
    "temperature": (chat(temperature=-1), "temperature must be"),
    "temperature NaN": (raw('{$, "temperature": NaN}'), "json_invalid"),
    "temperature infinite": (raw('{$, "temperature": Infinity}'), "json_invalid"),
    "top_p": (chat(top_p=2), "top_p must be"),
    "top_p of nothing": (chat(top_p=0), "top_p must be"),
    "top_k": (chat(top_k=-5), "top_k must be"),
    "min_p": (chat(min_p=3), "min_p must be"),
    "repetition penalty": (chat(repetition_penalty=-1), "repetition_penalty must be"),
    "presence penalty": (chat(presence_penalty=9), "presence_penalty must be"),
    "frequency penalty": (chat(frequency_penalty=-9), "frequency_penalty must be"),
    "n of nothing": (chat(n=0), "n is 0; allowed: 1 to 1024"),
    "n below nothing": (chat(n=-1), "n is -1; allowed: 1 to 1024"),
    "fractional n": (chat(n=2.5), "validation error"),
    "max_tokens": (chat(max_tokens=-1), "max_new_tokens must be"),
    "min_tokens above max_tokens": (chat(min_tokens=10), "min_new_tokens must be"),
    "stop that is no text": (chat(stop=[1]), "validation error"),
    "seed that is no number": (chat(seed="x"), "validation error"),
    "more top logprobs than tokens": (chat(logprobs=True, top_logprobs=TOP_ID), "top_logprobs is"),
    "negative top logprobs": (chat(logprobs=True, top_logprobs=-1), "top_logprobs is -1"),
    "more logprobs than tokens, completion": (completion(prompt="a", logprobs=TOP_ID), "top_logprobs is"),
    "logit_bias of an unknown id": (chat(logit_bias={str(TOP_ID): 1}), "logit_bias must"),
    "logit_bias of a negative id": (chat(logit_bias={"-1": 1}), "logit_bias must"),
    "logit_bias of a word": (chat(logit_bias={"word": 1}), "invalid literal"),
    "logit_bias NaN": (raw('{$, "logit_bias": {"1001": NaN}}'), "json_invalid"),
    "logprob of an unknown id": (
        generate(text="a", return_logprob=True, token_ids_logprob=[TOP_ID]),
        "out-of-vocabulary token id",
    ),
    "cut-off JSON": (raw('{"model": "x", '), "json_invalid"),
    "bytes that are no text": ((CHAT, b"\xff\xfe{"), "json_invalid"),
    "unknown role": (chat(messages=[{"role": "wizard", "content": "x"}]), "validation error"),
    "content of a number": (chat(messages=[{"role": "user", "content": 5}]), "validation error"),
    "image": (
        chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}]),
        "only supports text",
    ),
    "broken regex": (chat(regex="(["), "Failed to compile"),
    "broken schema": (
        chat(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "zzz"}}}),
        "Failed to compile",
    ),
    "unknown response format": (chat(response_format={"type": "zzz"}), "validation error"),
    "tools that are no list": (chat(tools="no"), "validation error"),
    "adapter that is not there": (chat(lora_path="nope"), "LoRA is not enabled"),
    "embeddings of a text model": (
        ("/v1/embeddings", b'{"model": "x", "input": "a"}'),
        "not appear to be an embedding model",
    ),
}


def post(url: str, path: str, body: bytes) -> tuple[int, str]:
    request = urllib.request.Request(url + path, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=NET_S) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class Stream(threading.Thread):
    """One request of many tokens, read to its end beside the others."""

    def __init__(self, url: str) -> None:
        super().__init__()
        sampling = {"temperature": 0, "max_new_tokens": STREAM_TOKENS, "ignore_eos": True}
        body = {"input_ids": [1001, 1002, 1003], "stream": True, "sampling_params": sampling}
        self.request = urllib.request.Request(
            url + GENERATE, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        self.begun = threading.Event()
        self.output_ids: list[int] = []

    def run(self) -> None:
        with urllib.request.urlopen(self.request, timeout=NET_S) as reply:
            for line in reply:
                if line.startswith(b"data: {"):
                    self.output_ids = json.loads(line[len(b"data: ") :])["output_ids"]
                    self.begun.set()


@pytest.mark.server
def test_bad_requests_beside_a_stream(server: ServerProcess) -> None:
    alone = Stream(server.url)
    alone.start()
    alone.join()
    assert len(alone.output_ids) == STREAM_TOKENS

    beside = Stream(server.url)
    beside.start()
    assert beside.begun.wait(NET_S)
    before = len(beside.output_ids)
    wrong = []
    for name, ((path, body), words) in BAD.items():
        status, text = post(server.url, path, body)
        # OpenAI's clients read the message from here, top-level or inside `error`
        error = json.loads(text)
        message = error.get("message") or error.get("error", {}).get("message", "") if status == 400 else ""
        if status != 400 or words not in message:
            wrong.append(f"{name}: {status} {text[:300]}")
    during = len(beside.output_ids)
    assert wrong == []
    # 20 to 900 come meanwhile: clients and server share the cores
    assert before < during < STREAM_TOKENS, "the stream was not running meanwhile"
    beside.join()
    assert beside.output_ids == alone.output_ids
    assert server.returncode is None


@pytest.mark.server
def test_unknown_fields_are_ignored(server: ServerProcess) -> None:
    # as OpenAI-compatible servers do, so that newer clients keep working
    status, _ = post(server.url, *chat(field_of_next_year=1))
    assert status == 200


@pytest.mark.server
def test_json_that_is_no_object_harms_nobody(server: ServerProcess) -> None:
    status, answer = post(server.url, CHAT, b"[1, 2]")
    assert status == 400 and "the body is a list; a chat is a JSON object" in str(answer)
    status, _ = post(server.url, *chat())
    assert status == 200
