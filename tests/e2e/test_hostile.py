"""One hostile request of each class against real servers: a 400 that names what is wrong, or an honest answer.

Beside them and after them an honest request gets the tokens that it got alone. The whole corpus is in `tests/hostile/`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from e2e.test_omni_bad_input import audio, chat, image, url, video
from hostile.chats import ALL_SPECIAL, HIDDEN, PLACES, as_tools, bodies, many_messages, with_text
from hostile.media_cases import CASES
from sglang_nemotron.cli.server import ServerProcess
from support.loopback import QuietHandler, listening
from support.serving import OMNI, get, post

CHAT = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "hi there"}]
SIGNATURE = "X-Amz-Signature-of-a-secret"


def ask(server: ServerProcess, **fields: Any) -> tuple[int, str]:
    return post(server.url, CHAT, {"model": "x", "max_tokens": 4, "temperature": 0, "messages": QUESTION, **fields})


def said(server: ServerProcess) -> str:
    """An honest answer, with its log probabilities."""
    status, answer = ask(server, max_tokens=12, logprobs=True)
    assert status == 200, answer
    (choice,) = json.loads(answer)["choices"]
    return json.dumps([choice["message"]["content"], [one["token"] for one in choice["logprobs"]["content"]]])


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = {"a": value}
    return value


# what a chat of a text model brings, and words of its refusal
TOO_MUCH: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "10,000 messages": (lambda: {"messages": many_messages(10_000)}, "context length"),
    "1,000 tools": (lambda: {"tools": as_tools(1000)}, "context length"),
    "a body 500 deep": (lambda: {"chat_template_kwargs": nested(500)}, "'chat_template_kwargs' is nested more than"),
    "tools 500 deep": (lambda: {"tools": [nested(500)]}, "'tools' is nested more than"),
    "names that are none": (
        lambda: {
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"required": [*range(9000), "a"]}}}]
        },
        "`required` that lists something else than names",
    ),
    "special tokens beyond the context": (
        lambda: {"messages": [{"role": "user", "content": ALL_SPECIAL * 2000}]},
        "context length",
    ),
}


@pytest.mark.server
def test_too_much_of_everything(server: ServerProcess) -> None:
    before = said(server)
    wrong = []
    for name, (make, words) in TOO_MUCH.items():
        status, answer = ask(server, **make())
        if status != 400 or words not in answer:
            wrong.append(f"{name}: {status} {answer[:300]}")
    for name, make, words in bodies():
        status, answer = ask(server, **make())
        if status not in ((400,) if words else (200, 400)) or (words or "") not in answer:
            wrong.append(f"{name}: {status} {answer[:300]}")
    assert wrong == []
    assert said(server) == before and server.returncode is None


@pytest.mark.server
def test_special_tokens_in_every_field(server: ServerProcess) -> None:
    """Each is served; what the template does not show changes nothing; and a later request gets nobody's tokens."""
    before = said(server)
    plain = {place: ask(server, **with_text(place, "x")) for place in HIDDEN}
    for place in PLACES:
        status, answer = ask(server, **with_text(place, ALL_SPECIAL))
        if place == "name of a called function":
            assert status in (200, 400), answer
            continue
        assert status == 200, (place, answer)
        if place in HIDDEN:
            shown, other = (json.loads(text)["choices"][0]["message"] for text in (answer, plain[place][1]))
            assert shown == other, place
    assert said(server) == before


# ---- Omni

OF_A_CLASS = (
    *("GIF of a million frames, a video", "WebP of 16,384 x 16,384", "a gigabyte in zTXt", "JPEG of 20,000 scans"),
    *("FLAC that claims 2**36 samples", "FLAC at 1 Hz", "SVG, sent as image", "ZIP, sent as video"),
    *("a playlist, sent as sound", "MP4 whose header is packed", "AVI of lists in lists", "a pickle, sent as image"),
)


class _Elsewhere(QuietHandler):
    """At 127.0.0.1, which the server may ask, unlike others of this machine: leads on to where its path says."""

    def do_GET(self) -> None:  # noqa: N802
        self.send_response(302)
        self.send_header("Location", self.path.partition("?")[2] or self.path)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _blanks() -> tuple[str, dict[str, Any]]:
    return url("image", "data:image/png;base64," + " " * (10 << 20))


@pytest.mark.server(OMNI)
def test_hostile_media_and_where_they_come_from(server: ServerProcess) -> None:
    before = said(server)
    senders = {"image": image, "video": video, "sound": audio}
    names = {"image": "image 1: ", "video": "video 1: ", "sound": "audio 1: "}
    requests: dict[str, tuple[tuple[str, dict[str, Any]], tuple[str, ...]]] = {
        name: (senders[CASES[name].kind](CASES[name].make()), (names[CASES[name].kind],)) for name in OF_A_CLASS
    }
    with listening(_Elsewhere) as here:
        forbidden, other = "is at no address that may be asked", here.replace("127.0.0.1", "127.0.0.2")
        requests |= {
            "ten megabytes of blanks": (_blanks(), ("image 1: the file is empty",)),
            "this machine": (url("image", f"{other}/a.png"), ("image 1: cannot be fetched: 127.0.0.2 ", forbidden)),
            "led to this machine": (url("video", f"{here}/to?{other}/a.mp4"), ("video 1: ", "127.0.0.2", forbidden)),
            "led to a file": (url("image", f"{here}/to?file:///etc/passwd"), ("image 1: ", "allowed: http, https")),
            "led for ever": (url("image", f"{here}/again"), ("image 1: ", "more than 5 redirects")),
            "a cloud": (url("audio", f"http://me:{SIGNATURE}@169.254.169.254/latest"), ("audio 1: ", forbidden)),
            "a file": (url("image", "file:///etc/passwd"), ("image 1: it names a file of the server",)),
            "a path": (url("image", "/etc/hosts.allow"), ("image 1: ", "no file here")),
            "a store": (url("image", f"s3://key:{SIGNATURE}@bucket/a.png"), ("image 1: s3: is no scheme",)),
        }
        wrong = []
        for name, ((path, body), words) in requests.items():
            status, answer = post(server.url, path, body)
            if status != 400 or any(word not in answer for word in words):
                wrong.append(f"{name}: {status} {answer[:300]}")
        assert wrong == []
    assert said(server) == before and server.returncode is None


@pytest.mark.server(OMNI)
def test_nothing_secret_is_logged(server: ServerProcess) -> None:
    """Signatures and passwords of URLs, bytes that were sent, and the token with which the server started."""
    data = base64.b64encode(b"nobody's business " * 40).decode()
    for path, body in (
        url("image", f"http://me:{SIGNATURE}@127.0.0.1:1/a.png?{SIGNATURE}"),
        url("image", f"data:image/png;base64,{data}"),
        url("image", f"{data}*"),
        chat({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}),
    ):
        status, answer = post(server.url, path, body)
        assert status == 400 and SIGNATURE not in answer and data[20:60] not in answer, answer
    log = server.log_text()
    token = dict(OMNI.env)["HF_TOKEN"]
    assert token and token not in log and token not in get(server.url + "/server_info")
    assert SIGNATURE not in log and data[20:60] not in log


@pytest.mark.server
def test_what_processes_share_is_their_users_alone(server: ServerProcess) -> None:
    """Sockets between SGLang's processes, over which it sends pickles: who may not write to one cannot connect."""
    import os
    import stat

    import psutil

    tree = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    paths = {
        connection.laddr
        for process in tree
        for connection in process.net_connections("unix")
        if isinstance(connection.laddr, str) and connection.laddr.startswith("/")
    }
    modes = {path: stat.S_IMODE(os.stat(path).st_mode) for path in paths if os.path.exists(path)}
    assert modes and not {path: oct(mode) for path, mode in modes.items() if mode & 0o022}
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for process in tree
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    # torch's store of process groups listens everywhere, whatever address it is given: SECURITY.md says so
    assert len([ip for ip, _ in listening if ip not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")]) <= 1, listening
