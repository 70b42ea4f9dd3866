"""Every Omni example runs as it is, in a process of its own, against a real server, with the package's own media."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from sglang_nemotron.cli.demo_media import clip, photo, speech
from sglang_nemotron.cli.server import ServerProcess
from support.clip_sound import trailing_tokens
from support.examples import names, output
from support.serving import OMNI

# the server keeps random weights to words, so they think to the end: reasoning comes back, and what went in is counted
_THOUGHTS = r"reasoning: (?!None)\s*\S(.|\n)*content: (.|\n)*"
# content is never None; it is empty where thoughts take all tokens
_TEXT = r"(?!None\n)[\s\S]*"
_MODES = (
    rf"== thinking on\nreasoning: {_TEXT}\S{_TEXT}\ncontent: {_TEXT}"
    rf"\n== thinking on, at most 40 tokens of it\nreasoning: (?P<thought>{_TEXT}\S{_TEXT})\ncontent: {_TEXT}\S{_TEXT}"
    rf"\n== thinking off\nreasoning: None\ncontent: {_TEXT}\S{_TEXT}\Z"
)

# what the output of each must show without arguments, and its numbers of prompt tokens, of which the photo has 300
EXPECTED: dict[str, tuple[str, list[int]]] = {
    "omni_text.py": (_THOUGHTS, []),
    "omni_image_url.py": (_THOUGHTS, [358]),
    "omni_image_base64.py": (_THOUGHTS, [391]),
    "omni_video.py": (_THOUGHTS, [616]),
    # more frames make a longer prompt, and hearing the clip as well the longest
    "omni_video_options.py": (_THOUGHTS, [425, 1303, 1355 + trailing_tokens()]),
    "omni_audio.py": (_THOUGHTS, [134]),
    "omni_mixed.py": (_THOUGHTS, [995]),
    "omni_streaming.py": (r"\[(\d{2,}|[2-9]) pieces after", [374]),
    "omni_reasoning.py": (_MODES, []),
    # words alone call no tool; that a call comes back parsed is shown by the demo
    "omni_tools.py": (r"reasoning: (?!None)(.|\n)+tool calls: None", []),
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
    assert sorted(EXPECTED) == names("omni_*.py")


@pytest.mark.server(OMNI)
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_example(name: str, server: ServerProcess, tmp_path: Path):
    shown, counts = EXPECTED[name]
    # from a folder that holds nothing: what it needs comes with the package
    said = output(name, server.url, cwd=tmp_path)
    found = re.search(shown, said)
    assert found, said
    assert _counts(said) == counts, said
    if name == "omni_reasoning.py":
        # no token of this tokenizer spans two words
        assert 0 < len(found["thought"].split()) <= 40, said


@pytest.mark.server(OMNI)
def test_files_and_addresses_of_a_users_own(server: ServerProcess, folder: Path, url: str):
    assert _counts(output("omni_image_url.py", server.url, f"{url}/photo.jpg")) == [358]
    media = ("photo.jpg", "speech.mp3", "clip.mp4", "photo.jpg")
    assert _counts(output("omni_mixed.py", server.url, *media, cwd=folder)) == [1316]


def _counts(said: str) -> list[int]:
    return [int(number) for number in re.findall(r"(\d+) prompt tokens\]", said)]
