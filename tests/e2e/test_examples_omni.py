"""Every Omni example runs as it is, in a process of its own, against a real server; local files replace remote ones."""

from __future__ import annotations

import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from clip_sound import trailing_tokens
from serving import OMNI

from sglang_nemotron.cli.demo_media import clip, photo, speech
from sglang_nemotron.cli.server import ServerProcess
from support.waiting import NET_S

EXAMPLES = Path(__file__).parents[2] / "examples"

# the server keeps random weights to words, so they think to the end: reasoning comes back, and what went in is counted
_THOUGHTS = r"reasoning: (?!None)\s*\S(.|\n)*content: (.|\n)*"
# content is never None; it is empty where thoughts take all tokens
_TEXT = r"(?!None\n)[\s\S]*"
_MODES = (
    rf"== thinking on\nreasoning: {_TEXT}\S{_TEXT}\ncontent: {_TEXT}"
    rf"\n== thinking on, at most 40 tokens of it\nreasoning: (?P<thought>{_TEXT}\S{_TEXT})\ncontent: {_TEXT}\S{_TEXT}"
    rf"\n== thinking off\nreasoning: None\ncontent: {_TEXT}\S{_TEXT}\Z"
)

# arguments, what the output must show, and its numbers of prompt tokens, of which a photo of 640x480 has 300
EXPECTED: dict[str, tuple[tuple[str, ...], str, list[int]]] = {
    "omni_text.py": ((), _THOUGHTS, []),
    "omni_image_url.py": (("{url}/photo.jpg",), _THOUGHTS, [358]),
    "omni_image_base64.py": (("photo.jpg",), _THOUGHTS, [391]),
    "omni_video.py": (("clip.mp4",), _THOUGHTS, [616]),
    # more frames make a longer prompt, and hearing the clip as well the longest
    "omni_video_options.py": (("clip.mp4",), _THOUGHTS, [425, 1303, 1355 + trailing_tokens()]),
    "omni_audio.py": (("speech.mp3",), _THOUGHTS, [134]),
    "omni_mixed.py": (("photo.jpg", "speech.mp3", "clip.mp4", "photo.jpg"), _THOUGHTS, [1316]),
    "omni_streaming.py": (("photo.jpg",), r"\[(\d{2,}|[2-9]) pieces after", [374]),
    "omni_reasoning.py": (("photo.jpg",), _MODES, []),
    # words alone call no tool; that a call comes back parsed is shown by the demo
    "omni_tools.py": (("photo.jpg",), r"reasoning: (?!None)(.|\n)+tool calls: None", []),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's media under the names that the examples are given."""
    folder = tmp_path_factory.mktemp("media")
    for name, data in (("photo.jpg", photo()), ("speech.mp3", speech()), ("clip.mp4", clip())):
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """A web server with the media, in place of the remote one of the cookbook."""
    handler = partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_every_example_is_run():
    assert sorted(EXPECTED) == sorted(path.name for path in EXAMPLES.glob("omni_*.py"))


@pytest.mark.server(OMNI)
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_example(name: str, server: ServerProcess, folder: Path, url: str):
    arguments, shown, counts = EXPECTED[name]
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *(word.format(url=url) for word in arguments)],
        env={**os.environ, "OPENAI_BASE_URL": f"{server.url}/v1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=NET_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = re.search(shown, done.stdout)
    assert found, done.stdout
    assert [int(number) for number in re.findall(r"(\d+) prompt tokens\]", done.stdout)] == counts, done.stdout
    if name == "omni_reasoning.py":
        # no token of this tokenizer spans two words
        assert 0 < len(found["thought"].split()) <= 40, done.stdout
