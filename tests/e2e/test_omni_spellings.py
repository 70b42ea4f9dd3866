"""The same file in every spelling of base64 is the same item to a server: its prompt is found in the cache."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sglang_nemotron.cli.server import ServerProcess
from support.omni_media import film, photo, recording
from support.serving import OMNI
from support.waiting import NET_S

SPELLINGS: dict[str, Callable[[bytes], str]] = {
    "lines": lambda data: base64.encodebytes(data).decode(),
    "lines of MIME": lambda data: base64.encodebytes(data).decode().replace("\n", "\r\n"),
    "URL-safe": lambda data: base64.urlsafe_b64encode(data).decode(),
    "URL-safe, unpadded": lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
    "a last line end": lambda data: base64.b64encode(data).decode() + "\n",
}


def noise(number: int) -> bytes:
    """A picture whose base64 is long enough to leave the body while it arrives."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (420, 420, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def ask(server: ServerProcess, part: dict[str, Any], *, slashes: bool = False) -> dict[str, int]:
    """The prompt's tokens, and those that were in the cache. slashes: escaped, as PHP writes them."""
    content = [part, {"type": "text", "text": "What is it?"}]
    body = json.dumps({"model": "x", "max_tokens": 1, "messages": [{"role": "user", "content": content}]})
    data = (body.replace("/", "\\/") if slashes else body).encode()
    request = urllib.request.Request(
        f"{server.url}/v1/chat/completions", data, {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=NET_S) as reply:
        usage = json.load(reply)["usage"]
    return {"prompt": usage["prompt_tokens"], "cached": (usage["prompt_tokens_details"] or {}).get("cached_tokens", 0)}


def in_url(kind: str, label: str, text: str) -> dict[str, Any]:
    return {"type": f"{kind}_url", f"{kind}_url": {"url": f"data:{label};base64,{text}"}}


def alone(kind: str, label: str, text: str) -> dict[str, Any]:
    return {"type": f"{kind}_url", f"{kind}_url": {"url": text}}


def as_input(kind: str, label: str, text: str) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": text, "format": "wav"}}


def as_input_with_its_head(kind: str, label: str, text: str) -> dict[str, Any]:
    return as_input(kind, label, f"data:{label};base64,{text}")


FILES: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    "image": ("image", "image/png", lambda: photo(120, 90, seed=71)),
    "long image": ("image", "image/png", lambda: noise(71)),
    "video": ("video", "video/webm;codecs=vp9,opus", lambda: film(64, 48, seed=71, num_frames=12)),
    "audio": ("audio", "audio/wav", lambda: recording(1.0, seed=71)),
}


@pytest.mark.server(OMNI)
@pytest.mark.parametrize("name", FILES)
def test_every_spelling_is_the_same_item(name: str, server: ServerProcess) -> None:
    kind, label, make = FILES[name]
    data = make()
    assert (len(data) > 2**19) == (name == "long image")
    plain = base64.b64encode(data).decode()
    # where prompts part, a state is kept the second time at the latest
    for _ in range(2):
        ask(server, in_url(kind, label, plain))
    again = ask(server, in_url(kind, label, plain))
    assert again["cached"] > again["prompt"] // 2
    ways = [in_url, alone] + [as_input, as_input_with_its_head] * (kind == "audio")
    for way in ways:
        for spell in SPELLINGS.values():
            assert ask(server, way(kind, label, spell(data))) == again
        assert ask(server, way(kind, label, plain), slashes=True) == again
    other = bytearray(data)
    other[-1] ^= 1
    # the comparison can fail: another file's tokens are not in the cache
    try:
        assert ask(server, in_url(kind, label, base64.b64encode(bytes(other)).decode()))["cached"] < again["cached"]
    except urllib.error.HTTPError as refused:
        assert refused.code == 400
