"""Whatever a client may send for one media item becomes a file, or an error that names the item; nothing stays."""

from __future__ import annotations

import base64
import io
import os
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from full_place import opened
from PIL import Image
from sglang.srt.utils.common import ImageData, VideoData, configure_media_url_security

from sglang_nemotron.host import media_source
from sglang_nemotron.host.media_places import SHARED
from sglang_nemotron.host.media_source import Fetched, fetch
from sglang_nemotron.host.media_worker import read_file
from sglang_nemotron.prompt.cargo import MediaError

DATA = bytes(range(256)) * 9000
STAMP = f"sgl_shm_mm_{os.getpid()}_test_"


def _left() -> list[str]:
    return [name for name in os.listdir(SHARED) if name.startswith(STAMP)]


@pytest.fixture(autouse=True)
def _nothing_left() -> Any:
    yield
    assert _left() == []


def _fetch(item: Any, *, max_file: int = 1 << 22, seconds: float = 5) -> Fetched:
    return fetch(item, name="video 2", max_file=max_file, seconds=seconds, stamp=STAMP)


def _bytes(item: Any, **more: Any) -> bytes:
    fetched = _fetch(item, **more)
    data = Path(fetched.path).read_bytes()
    fetched.drop()
    return data


def test_every_form_of_the_same_bytes(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(media_source, "_PIECE", 1024)
    text = base64.b64encode(DATA).decode()
    file = tmp_path / "a clip.mp4"
    file.write_bytes(DATA)
    url = f"data:video/mp4;base64,{text}"
    forms = [url, text, DATA, ImageData(url=text), VideoData(url=url), {"url": url}, str(file), file.as_uri()]
    # wrapped into lines, for URLs, without padding, percent-encoded; types of browsers; one data URI inside another
    wrapped, safe = base64.encodebytes(DATA).decode(), base64.urlsafe_b64encode(DATA).decode()
    forms += [wrapped, wrapped.replace("\n", "\r\n"), safe, safe.rstrip("="), f"{text}\n", f"\n  {url}\n"]
    forms += [f"DATA:a/b;charset=x; Base64 ,{safe}", f"data:video/mp4;base64,{text.replace('/', '%2F')}"]
    forms += [f"data:video/webm;codecs=vp9,opus;base64,{wrapped}", f"data:audio/wav;base64,{url}", f"data:,{text}"]
    assert all(_bytes(form) == DATA for form in forms)
    # a file of the user's is never removed
    assert file.exists()


@pytest.mark.parametrize("length", [1, 2, 3, 4, 1023, 1024, 1025, 2047])
def test_base64_of_any_length_survives_its_pieces(length: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(media_source, "_PIECE", 16)
    assert _bytes(base64.b64encode(DATA[:length]).decode()) == DATA[:length]


def test_a_file_of_the_most_bytes_is_read_however_it_is_written() -> None:
    text = base64.b64encode(DATA[:4096]).decode()
    for form in (text, text + "\r\n", base64.encodebytes(DATA[:4096]).decode(), "data:a/b;base64," + text + "%0D%0A"):
        assert _bytes(form, max_file=4096) == DATA[:4096]


def test_a_picture_of_pillow() -> None:
    picture = Image.new("RGB", (3, 2), (1, 2, 3))
    assert Image.open(io.BytesIO(_bytes(picture))).getpixel((2, 1)) == (1, 2, 3)


@pytest.mark.parametrize("room", [0, 1, 5000, len(DATA) - 1])
def test_a_full_shared_memory_falls_back_to_disk(room: int, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(media_source, "_PIECE", 1024)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(media_source.os, "fdopen", lambda file, mode, buffering: opened(file, mode, room))
    text = base64.b64encode(DATA).decode()
    for item in (f"data:video/mp4;base64,{text}", text, DATA):
        fetched = _fetch(item)
        # from its first byte, whatever memory had taken
        assert Path(fetched.path).parent == tmp_path and _left() == []
        assert Path(fetched.path).read_bytes() == DATA
        fetched.drop()
    # what is wrong with an item is said, and not tried twice
    with pytest.raises(MediaError, match="no base64"):
        _fetch("QUJD=RUZH")
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_nothing_stays(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))

    def full(file: int, mode: str, buffering: int) -> Any:
        made = opened(file, mode, 100)
        made.room = 100
        return made

    monkeypatch.setattr(media_source.os, "fdopen", full)
    with pytest.raises(OSError, match="No space left"):
        _fetch(DATA)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ("data:image/png;base64,", "empty"),
        ("", "empty"),
        ("data:image/png;base64", "no comma"),
        ("data:image/png;base64,!!!!", "no base64"),
        ("QUJD=RUZH", "no base64"),
        ("QUJDR", "no base64"),
        ("QUJDRA=", "no base64"),
        ("QUJDRA===", "no base64"),
        ("QUJD\u00a0", "no base64"),
        ("QUJD%3D", "no base64"),
        (" \n\t", "empty"),
        ("data:image/png;base64,%20", "empty"),
        ("/no/such/file.png", "no file here"),
        ("\0", "no base64"),
        (17, "from a int"),
        ({"feature": [1]}, "from a dict"),
        (base64.b64encode(b"x" * 5000).decode(), "about 5001 bytes .at most 4096"),
        (base64.encodebytes(b"x" * 5000).decode(), "bytes or more .at most 4096"),
        (b"x" * 5000, "at most 4096"),
    ],
)
def test_bad_items_are_named(item: Any, told: str) -> None:
    with pytest.raises(MediaError, match=f"video 2: .*{told}"):
        _fetch(item, max_file=4096)


@pytest.fixture
def server() -> Any:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            self.send_response(404 if self.path == "/gone" else 200)
            self.end_headers()
            self.wfile.write(DATA)

        def log_message(self, *_: Any) -> None:
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    configure_media_url_security()


def test_urls(server: str) -> None:
    assert _bytes(f"{server}/clip.mp4") == DATA
    with pytest.raises(MediaError, match="video 2: cannot be fetched: 404"):
        _fetch(f"{server}/gone")
    with pytest.raises(MediaError, match="at most 1000"):
        _fetch(f"{server}/clip.mp4", max_file=1000)


def test_sglangs_rules_for_urls_hold(server: str) -> None:
    configure_media_url_security(["example.org"])
    with pytest.raises(MediaError, match=r"video 2: cannot be fetched: Media URL domain is not allowed"):
        _fetch(f"{server}/clip.mp4")
    configure_media_url_security(None, 1)
    with pytest.raises(MediaError, match="download limit"):
        _fetch(f"{server}/clip.mp4")


@pytest.mark.parametrize(
    ("path", "told"), [("/dev/zero", "no regular file"), ("/tmp", "no regular file"), ("/nope", "cannot be opened")]
)
def test_only_regular_files_are_read(path: str, told: str) -> None:
    with pytest.raises(MediaError, match=f"image 1: .*{told}"):
        read_file(path, "image 1", 100)


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MediaError, match="no regular file"):
        read_file(str(tmp_path / "pipe"), "image 1", 100)


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 101)
    with pytest.raises(MediaError, match="has 101 bytes.*at most 100"):
        read_file(str(tmp_path / "large"), "image 1", 100)
