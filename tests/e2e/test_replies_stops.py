"""Stop strings through a real server and client: the same reply streamed and not, and /v1/messages tells which."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sglang_nemotron.cli.server import ServerProcess
from support.scripted import SCRIPTED, ask, asks, script, streams
from support.serving import Servers, post

pytestmark = pytest.mark.server(SCRIPTED)

ALPHABET = "a b c d e f g h i j k l m n o p q r s t u v w x y z "


def test_no_part_of_a_stop_string_is_left(server: ServerProcess) -> None:
    """SGLang sends every 50th token of a whole reply on: at some length, a stop string lies across that."""
    texts = [(ALPHABET * 3)[:length] for length in range(40, 60)]
    wanted = [(f"r\n</think>\n{text}</hall/x", {"stop": ["</hall"]}) for text in texts]
    for heard in (asks(server, wanted), streams(server, wanted)):
        assert [reply.content for reply in heard] == texts
        assert {reply.finish for reply in heard} == {"stop"}


@pytest.mark.parametrize("thoughts", ["The Question: is 2+2.", "Question:", "Quest"])
def test_stop_strings_are_for_the_answer(thoughts: str, server: ServerProcess) -> None:
    wanted = [(f"{thoughts}\n</think>\nFour.\nQuestion: next", {"stop": ["Question:"]})]
    for heard in (*asks(server, wanted), *streams(server, wanted)):
        assert (heard.reasoning, heard.content, heard.finish) == (thoughts, "Four.\n", "stop")


def test_thoughts_that_stay_in_the_content_stop(server: ServerProcess) -> None:
    wanted = [("one Stop\n</think>\ntwo", {"stop": "Stop", "separate_reasoning": False})]
    for heard in (*asks(server, wanted), *streams(server, wanted)):
        assert heard.content == "one "


def test_a_stop_string_that_never_comes_changes_nothing(server: ServerProcess) -> None:
    text = "r\n</think>\nall of it </hal"
    wanted = [(text, {"stop": ["</hall", "zz"]}), (text, {})]
    for with_stop, without in (asks(server, wanted), streams(server, wanted)):
        assert with_stop.said == without.said == ("r", "all of it </hal", [])


def test_it_may_be_kept(server: ServerProcess) -> None:
    heard = ask(server, "r END\n</think>\nso END of", stop=["END"], no_stop_trim=True)
    assert heard.content == "so END"


def test_several_answers(server: ServerProcess) -> None:
    body = {"model": "default", "messages": [{"role": "user", "content": script("END\n</think>\nso END of")}]}
    status, text = post(server.url, "/v1/chat/completions", {**body, "stop": ["END"], "n": 3, "max_tokens": 80})
    assert status == 200
    assert [choice["message"]["content"] for choice in json.loads(text)["choices"]] == ["so "] * 3


def messages(server: ServerProcess, text: str, **options: Any) -> list[tuple[str, str | None, str]]:
    """(stop reason, stop sequence, text) of /v1/messages, whole and streamed."""
    user = {"role": "user", "content": script(text)}
    body = {"model": "default", "max_tokens": 80, "messages": [user], **options}
    status, whole = post(server.url, "/v1/messages", body)
    assert status == 200, whole
    reply = json.loads(whole)
    told = "".join(block.get("text", "") for block in reply["content"])
    found = [(reply["stop_reason"], reply.get("stop_sequence"), told)]
    _, streamed = post(server.url, "/v1/messages", {**body, "stream": True})
    events = [json.loads(line[len("data: ") :]) for line in streamed.splitlines() if line.startswith("data: ")]
    told = "".join(event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta")
    (end,) = [event["delta"] for event in events if event["type"] == "message_delta"]
    return [*found, (end["stop_reason"], end.get("stop_sequence"), told)]


def test_messages_tell_which(server: ServerProcess) -> None:
    asked = {"stop_sequences": ["else", "World"]}
    assert messages(server, "r\n</think>\nHello World again", **asked) == [("stop_sequence", "World", "Hello ")] * 2
    # neither the end of a turn, nor its length
    assert messages(server, "r\n</think>\nHello", **asked) == [("end_turn", None, "Hello")] * 2
    assert [end for end, *_ in messages(server, "r\n</think>\n" + ALPHABET * 4, **asked)] == ["max_tokens"] * 2
    assert messages(server, "r\n</think>\nHello World") == [("end_turn", None, "Hello World")] * 2


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_empty_stop_string_is_refused(path: str, stream: bool, server: ServerProcess, servers: Servers) -> None:
    name = "stop_sequences" if path == "/v1/messages" else "stop"
    said = script("Hello")
    body: dict[str, Any] = {"max_tokens": 8, "messages": [{"role": "user", "content": said}]}
    if path == "/v1/responses":
        body = {"max_output_tokens": 8, "input": said, "store": False}
    body |= {"model": str(servers.checkpoint(SCRIPTED.checkpoint)), "stream": stream}
    # a list is all that /v1/messages takes
    asked: list[Any] = [["a", ""], *([""] if name == "stop" else [])]
    for number, stops in enumerate(asked):
        status, text = post(server.url, path, body | {name: stops})
        assert status == 400, text
        assert ("stop string 2 of 2 is empty", "stop string 1 of 1 is empty")[number] in text and "None" not in text


def test_a_raw_prompt_keeps_the_meaning_of_sglang(server: ServerProcess) -> None:
    """Thoughts are nothing special there, whatever the client sends under our private name."""
    params = {"max_new_tokens": 60, "stop": ["END"], "temperature": 0, "custom_params": {"__nemotron_stops": []}}
    prompt = f"<|im_start|>user\n{script('one END</think>two')}<|im_end|>\n<|im_start|>assistant\n<think>\n"
    status, text = post(server.url, "/generate", {"text": prompt, "sampling_params": params})
    assert status == 200 and json.loads(text)["text"] == "one "
