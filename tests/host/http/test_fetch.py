"""Whatever a client may send for one media item becomes a file, or an error that names the item; nothing stays."""

from __future__ import annotations

import base64
import io
import ipaddress
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sglang.srt.utils.common import ImageData, VideoData

from sglang_nemotron.host.http import fetch as fetching
from sglang_nemotron.host.http.fetch import Fetched, fetch
from sglang_nemotron.prompt.errors import MediaError
from sglang_nemotron.reader.origins import Origins
from sglang_nemotron.reader.scratch import SHARED
from sglang_nemotron.reader.worker import read_file
from support.full_place import opened
from support.waiting import NET_S

DATA = bytes(range(256)) * 9000
STAMP = f"sgl_shm_mm_{os.getpid()}_test_"


def _left() -> list[str]:
    return [name for name in os.listdir(SHARED) if name.startswith(STAMP)]


@pytest.fixture(autouse=True)
def _nothing_left() -> Any:
    yield
    assert _left() == []


HERE = Origins(others=(ipaddress.ip_network("127.0.0.0/8"),), any_file=True)


def _fetch(item: Any, *, max_file: int = 1 << 22, origins: Origins = HERE) -> Fetched:
    return fetch(item, name="video 2", max_file=max_file, seconds=NET_S, stamp=STAMP, origins=origins)


def _bytes(item: Any, **more: Any) -> bytes:
    fetched = _fetch(item, **more)
    data = Path(fetched.path).read_bytes()
    fetched.drop()
    return data


def test_every_form_of_the_same_bytes(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(fetching, "_PIECE", 1024)
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
    monkeypatch.setattr(fetching, "_PIECE", 16)
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
    monkeypatch.setattr(fetching, "_PIECE", 1024)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(fetching.os, "fdopen", lambda file, mode, buffering: opened(file, mode, room))
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

    monkeypatch.setattr(fetching.os, "fdopen", full)
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
        ("ftp://somebody:secret@example.org/a.png", "ftp: is no scheme that is read"),
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


# ---- files of the server


def test_files_are_read_from_the_folders_that_the_operator_named_and_from_no_other(tmp_path: Path) -> None:
    inside, outside = tmp_path / "media", tmp_path / "mediaeval"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "a.png").write_bytes(DATA)
    (inside / "link.png").symlink_to(outside / "a.png")
    allowed = Origins(folders=(str(inside),))
    for item in (str(inside / "a.png"), (inside / "a.png").as_uri(), f"{outside}/../media/a.png"):
        assert _bytes(item, origins=allowed) == DATA
    forbidden = [outside / "a.png", inside / "link.png", inside / ".." / "mediaeval" / "a.png", Path("/etc/host.conf")]
    for path in (*forbidden, tmp_path / "no-such-file.png"):
        # the same whether it exists or not
        with pytest.raises(MediaError, match=r"^video 2: it names a file of the server.*MEDIA_FOLDERS"):
            _fetch(path.absolute().as_uri(), origins=allowed)
        with pytest.raises(MediaError, match=r"^video 2: .* is no URL, no file here and no base64"):
            _fetch(f"{path}", origins=allowed)


def test_without_folders_nobody_learns_which_files_there_are(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(DATA)
    said = set()
    for path in (tmp_path / "a.png", tmp_path / "b.png", tmp_path / "\0"):
        with pytest.raises(MediaError) as one:
            _fetch(f"file://{path}", origins=Origins())
        said.add(str(one.value))
    assert len(said) == 1
    for name in ("a.png", "b.png"):
        with pytest.raises(MediaError, match="is no URL, no file here and no base64"):
            _fetch(f"{tmp_path}/{name}", origins=Origins())


def test_a_file_of_ours_is_the_servers_alone() -> None:
    mask = os.umask(0)
    try:
        fetched = _fetch(DATA)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(os.stat(fetched.path).st_mode) == 0o600
    fetched.drop()


def test_an_error_shows_little_of_what_was_sent() -> None:
    secret = base64.b64encode(b"The quick brown fox jumps over the lazy dog").decode()
    for item in (f"{secret}*", f"data:image/png;base64,{secret}*", f"s3://key:{secret}@bucket/a.png"):
        with pytest.raises(MediaError) as refusal:
            _fetch(item)
        assert secret[12:20] not in str(refusal.value)


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
