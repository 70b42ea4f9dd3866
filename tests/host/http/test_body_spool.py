"""Long base64 leaves a body wherever chunks are cut, everything else stays as it was; no request reads another's."""

from __future__ import annotations

import base64
import gc
import json
import os
import stat
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_nemotron.host.http import body_spool
from sglang_nemotron.host.http.body_spool import REFERENCE, BodySpool, let_go, spooled
from sglang_nemotron.host.http.fetch import fetch
from sglang_nemotron.prompt.errors import MediaError
from sglang_nemotron.reader.origins import Origins
from support.full_place import opened

LONG = 64
STAMP = f"sgl_shm_mm_{os.getpid()}_spool_"


@pytest.fixture(autouse=True, scope="module")
def _short_strings_count() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body_spool, "LONG", LONG)
        yield


def _read(body: bytes, size: int) -> tuple[bytes, list[Any]]:
    taken = BodySpool(STAMP)
    for start in range(0, len(body), size):
        taken.add(body[start : start + size])
    return taken.finish(), taken.spools


def _restored(value: Any) -> Any:
    """A parsed body with what references mean."""
    if isinstance(value, dict):
        return {key: _restored(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_restored(item) for item in value]
    if isinstance(value, str) and REFERENCE in value:
        head, _, name = value.partition(REFERENCE)
        spool = spooled(REFERENCE + name)
        assert spool is not None
        # kept as it was sent
        return head + json.loads(b'"' + os.pread(spool.file.fileno(), spool.size(), 0) + b'"')
    return value


@given(st.text('AZaz09+/=-_% "\\\n', max_size=40).map(str.encode))
def test_what_may_be_base64_is_known_by_its_characters_alone(data: bytes) -> None:
    assert body_spool._all_base64(data) == (set(data) <= set(body_spool._BASE64))


spelled = st.sampled_from([base64.b64encode, base64.encodebytes, base64.urlsafe_b64encode])
b64 = st.builds(lambda n, spell: spell(bytes(i % 251 for i in range(n))).decode(), st.integers(0, 2000), spelled)
types = st.sampled_from(["video/mp4", "video/webm;codecs=vp9,opus", 'video/webm;codecs="vp9, opus"'])
uris = st.builds("data:{};base64,{}".format, types, b64)
texts = st.one_of(st.text(max_size=300), b64, uris, uris.map(lambda uri: f'see "url": "{uri}" there'))
parts = st.one_of(
    texts.map(lambda text: {"type": "text", "text": text}),
    uris.map(lambda uri: {"type": "video_url", "video_url": {"url": uri}}),
    b64.map(lambda data: {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(parts, max_size=5), st.integers(1, 500), st.booleans(), st.sampled_from([None, 1]), st.booleans())
def test_a_body_means_what_it_meant(
    content: list[Any], size: int, ascii_only: bool, indent: int | None, slashes: bool
) -> None:
    body = {"messages": [{"role": "user", "content": content}], "n": 1}
    raw = json.dumps(body, ensure_ascii=ascii_only, indent=indent).encode()
    if slashes:
        # as PHP writes them
        raw = raw.replace(b"/", b"\\/")
    short, spools = _read(raw, size)
    parsed = json.loads(short)
    # texts are never touched, whatever they look like
    for part in parsed["messages"][0]["content"]:
        if part["type"] == "text":
            assert REFERENCE not in part["text"]
    assert _restored(parsed) == body
    assert len(short) <= len(raw) + 64 * len(spools)


def test_a_long_file_leaves_the_body() -> None:
    data = os.urandom(5000)
    url = "data:video/mp4;base64," + base64.b64encode(data).decode()
    short, spools = _read(json.dumps({"video_url": {"url": url}, "x": "y"}).encode(), 50)
    assert len(short) < 200 and len(spools) == 1
    sent = json.loads(short)["video_url"]["url"]
    fetched = fetch(sent, name="video 1", max_file=10_000, seconds=1, stamp=STAMP, origins=Origins())
    assert Path(fetched.path).read_bytes() == data
    fetched.drop()
    with pytest.raises(MediaError, match="video 1: the file has about .*at most 1000"):
        fetch(sent, name="video 1", max_file=1000, seconds=1, stamp=STAMP, origins=Origins())
    # with the request goes what it brought, and nobody else can name it
    del spools
    gc.collect()
    with pytest.raises(MediaError, match="no base64"):
        fetch(sent, name="video 1", max_file=10_000, seconds=1, stamp=STAMP, origins=Origins())
    assert not [name for name in os.listdir("/dev/shm") if name.startswith(STAMP)]


def test_a_request_that_fails_lets_go_of_its_files_though_its_error_keeps_it() -> None:
    data = os.urandom(5000)
    url = "data:video/mp4;base64," + base64.b64encode(data).decode()
    short, spools = _read(json.dumps({"video_url": {"url": url}}).encode(), 50)
    request = SimpleNamespace(nemotron_spools=spools)
    spool = spooled(json.loads(short)["video_url"]["url"].partition(",")[2])
    assert spool is not None
    number = spool.file.fileno()
    let_go(request)
    # who reads it just now reads on
    assert base64.b64decode(os.pread(number, 10_000, 0)) == data
    del spool
    with pytest.raises(OSError):
        os.fstat(number)
    # a request without a body of ours
    let_go(SimpleNamespace())
    let_go(None)


@pytest.mark.parametrize("size", [1, 7, 64, 300, 700, 10_000])
@pytest.mark.parametrize(
    "spell", [base64.encodebytes, base64.urlsafe_b64encode, lambda data: base64.b64encode(data) + b"\n"]
)
@pytest.mark.parametrize("type_", ["data:video/mp4;base64,", 'data:video/webm;codecs="vp9,opus";base64,', ""])
def test_a_file_is_the_same_however_it_is_written_and_cut(size: int, spell: Any, type_: str) -> None:
    data = os.urandom(3000)
    body = json.dumps({"url": type_ + spell(data).decode()})
    for raw in (body, body.replace("/", "\\/"), body.replace("\\n", "\\r\\n"), body.replace("\\n", "\\u000A")):
        short, spools = _read(raw.encode(), size)
        assert len(spools) == (size < 10_000)
        fetched = fetch(
            json.loads(short)["url"], name="video 1", max_file=3000, seconds=1, stamp=STAMP, origins=Origins()
        )
        assert Path(fetched.path).read_bytes() == data
        fetched.drop()


@pytest.mark.parametrize("size", [1, 7, 64, 300, 700])
@pytest.mark.parametrize("tail", ["A", "=", "!", "\v", "ü", '\\"', "\\\\", '\\\\\\"x\\'])
def test_base64_that_turns_out_to_be_none_costs_its_item_alone(tail: str, size: int) -> None:
    """Wherever chunks are cut; what follows in the body is read as ever."""
    wrong = "data:a/b;base64," + "A" * 500 + tail + "A" * 100
    other = "data:a/b;base64," + base64.b64encode(b"B" * 300).decode()
    body = json.dumps([{"url": wrong}, {"url": other}, {"text": "so"}], ensure_ascii=False).encode()
    short, spools = _read(body, size)
    first, second, third = json.loads(short)
    assert third == {"text": "so"} and _restored(second) == {"url": other}
    with pytest.raises(MediaError, match=rf"^video 1: '{'A' * 12}\.\.\.' is no URL, no file here and no base64"):
        fetch(first["url"], name="video 1", max_file=10_000, seconds=1, stamp=STAMP, origins=Origins())
    del spools
    assert not [name for name in os.listdir("/dev/shm") if name.startswith(STAMP)]


@pytest.mark.parametrize("text", ["QUJD=" + "A" * 300, "A" * 301])
def test_wrong_padding_is_refused(text: str) -> None:
    short, spools = _read(json.dumps({"url": "data:a/b;base64," + text}).encode(), 40)
    assert spools
    with pytest.raises(MediaError, match="no base64"):
        fetch(json.loads(short)["url"], name="video 1", max_file=10_000, seconds=1, stamp=STAMP, origins=Origins())


def test_a_body_that_breaks_off_is_refused() -> None:
    short, spools = _read(b'{"url": "data:a/b;base64,' + b"A" * 500, 64)
    assert spools
    with pytest.raises(json.JSONDecodeError, match="Unterminated string"):
        json.loads(short)


@pytest.mark.parametrize("room", [0, 1, 700, 6000])
def test_a_full_shared_memory_goes_on_on_disk(room: int, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(body_spool, "_PIECE", 64)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(body_spool.os, "fdopen", lambda file, mode, buffering: opened(file, mode, room))
    data = os.urandom(5000)
    url = "data:video/mp4;base64," + base64.b64encode(data).decode()
    assert room < len(url)
    short, spools = _read(json.dumps({"video_url": {"url": url}, "x": "y"}).encode(), 333)
    assert len(short) < 200
    (spool,) = spools
    assert os.readlink(f"/proc/self/fd/{spool.file.fileno()}").startswith(f"{tmp_path}/")
    url = json.loads(short)["video_url"]["url"]
    monkeypatch.undo()
    fetched = fetch(url, name="video 1", max_file=10_000, seconds=1, stamp=STAMP, origins=Origins())
    assert Path(fetched.path).read_bytes() == data
    fetched.drop()
    # without a name from the start, so that nothing can stay
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    def full(file: int, mode: str, buffering: int) -> Any:
        made = opened(file, mode, 100)
        made.room = min(made.room, 500)
        return made

    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(body_spool.os, "fdopen", full)
    with pytest.raises(OSError, match="No space left"):
        _read(b'{"url": "data:a/b;base64,' + b"A" * 600 + b'"}', 64)
    assert list(tmp_path.iterdir()) == []


def test_a_spool_is_the_servers_alone() -> None:
    """Whatever the umask: in the moment in which it has a name, another user of the machine could open it."""
    mask = os.umask(0)
    try:
        _, spools = _read(b'{"url": "data:a/b;base64,' + b"A" * 500 + b'"}', 64)
    finally:
        os.umask(mask)
    assert [stat.S_IMODE(os.fstat(spool.file.fileno()).st_mode) for spool in spools] == [0o600]
