"""Workers read files; one that dies, hangs or outgrows its memory costs its own item alone."""

from __future__ import annotations

import asyncio
import io
import os
import pickle
import signal
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile
import torch
from PIL import Image

from sglang_nemotron.host.http.shared_tensor import receive_inline
from sglang_nemotron.media.features import MediaFeatures, ReadRequest
from sglang_nemotron.media.image.file import read_image
from sglang_nemotron.media.image.picture import picture
from sglang_nemotron.media.video.file import read_clip
from sglang_nemotron.prompt.errors import MediaError
from sglang_nemotron.prompt.options import MediaOptions
from sglang_nemotron.reader import answers
from sglang_nemotron.reader import pool as media_pool
from sglang_nemotron.reader.pool import Pool
from sglang_nemotron.reader.scratch import SHARED
from sglang_nemotron.reader.settings import worker_config
from support.published import SPEC
from support.video_media import encode
from support.waiting import NET_S, eventually

STAMP = f"sgl_shm_mm_{os.getpid()}_pool_"
CONFIG = replace(
    worker_config({}, SPEC, pixels=torch.bfloat16, stamp=STAMP), memory=1024 << 20, max_file=1 << 31, timeout=NET_S
)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    made = Pool(CONFIG, 1, receive_inline)
    yield made
    made.close()
    assert not [name for name in os.listdir(SHARED) if name.startswith(STAMP)]


def _measure(pool: Pool, kind: Any, path: Path, **more: Any) -> list[MediaFeatures]:
    return asyncio.run(pool.measure(ReadRequest(kind, f"{kind} 7", MediaOptions(**more), 13312), str(path)))


def _png(path: Path) -> Path:
    rgb = np.arange(60 * 80 * 3, dtype=np.uint8).reshape(60, 80, 3)
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())
    return path


def test_an_image_in_the_served_dtype(pool: Pool, tmp_path: Path) -> None:
    path = _png(tmp_path / "a.png")
    (made,) = _measure(pool, "image", path)
    assert made.feature.dtype == torch.bfloat16 and made.num_embeddings >= 256
    assert made.feature.shape[1] * made.feature.shape[2] == made.num_embeddings * 4 * 256
    # a smaller one between, in the same memory
    _measure(pool, "image", _png(tmp_path / "b.png"), max_image_tokens=256)
    (again,) = _measure(pool, "image", path)
    assert again.identity == made.identity and torch.equal(again.feature, made.feature)
    rgb_HWC = read_image(path.read_bytes(), name="i")
    assert torch.equal(made.feature, picture(rgb_HWC, SPEC.image, 13312).feature.bfloat16())


def test_a_film_on_its_side_is_made_in_memory_for_an_upright_one(pool: Pool, tmp_path: Path) -> None:
    """Which the fixture finds if it is left behind, and so would be a second one."""
    data = encode(20, width=320, height=180, rate=4, rotation=90.0)
    (tmp_path / "a.mp4").write_bytes(data)
    (made,) = _measure(pool, "video", tmp_path / "a.mp4")
    clip = read_clip(data, name="v", rule=SPEC.video, options=MediaOptions(), limits=CONFIG.limits)
    assert made.feature.shape[2] > made.feature.shape[3]
    assert torch.equal(made.feature, clip.feature.bfloat16())


def test_a_video_is_made_in_the_served_dtype(pool: Pool, tmp_path: Path) -> None:
    data = encode(40, width=320, height=180, rate=4)
    (tmp_path / "a.mp4").write_bytes(data)
    (made,) = _measure(pool, "video", tmp_path / "a.mp4")
    clip = read_clip(data, name="v", rule=SPEC.video, options=MediaOptions(), limits=CONFIG.limits)
    assert made.feature.dtype == torch.bfloat16
    assert torch.equal(made.feature, clip.feature.bfloat16())


def test_a_video_that_fails_late_leaves_no_file(pool: Pool, tmp_path: Path) -> None:
    data = bytearray(encode(40, width=320, height=180, rate=4, options={"g": "1"}))
    half = data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2
    # from the middle on the frames' own bytes are gone, while the table of contents after them stays
    data[half : data.rindex(b"moov") - 4] = bytes(data.rindex(b"moov") - 4 - half)
    (tmp_path / "a.mp4").write_bytes(data)
    with pytest.raises(MediaError, match=r"video 7: .*(cannot be decoded|damaged)"):
        _measure(pool, "video", tmp_path / "a.mp4")
    assert not [name for name in os.listdir(SHARED) if name.startswith(STAMP)]


def test_a_sound_in_float32(pool: Pool, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000, dtype=np.float32) + 0.1, 16_000)
    (sound,) = _measure(pool, "sound", tmp_path / "a.wav")
    assert sound.feature.dtype == torch.float32 and sound.num_frames_N == (100,) and sound.num_tokens == 13


@pytest.mark.parametrize("kind", ["image", "video", "sound"])
@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + b"\0" * 100])
def test_files_that_are_no_media_are_named(pool: Pool, tmp_path: Path, kind: str, data: bytes) -> None:
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(MediaError, match=f"^{kind} 7: "):
        _measure(pool, kind, tmp_path / "bad")


def test_a_file_that_needs_too_much_memory(pool: Pool, tmp_path: Path) -> None:
    # a hole in the file, that takes no room on disk
    (tmp_path / "long").touch()
    os.truncate(tmp_path / "long", 1200 << 20)
    with pytest.raises(MediaError, match=r"sound 7: needs too much memory to read \(at most 1024 MB\)"):
        _measure(pool, "sound", tmp_path / "long")


def _struck(pool: Pool, how: int, path: Path) -> None:
    """Measures while the worker is struck."""

    async def both() -> None:
        (worker,) = pool.ready
        os.kill(worker, signal.SIGSTOP)
        job = asyncio.ensure_future(pool.measure(ReadRequest("image", "image 7", MediaOptions(), 13312), str(path)))
        while pool.ready:
            await asyncio.sleep(0.002)
        if how != signal.SIGSTOP:
            os.kill(worker, how)
        try:
            await job
        finally:
            assert not psutil.pid_exists(worker)

    asyncio.run(both())


def test_an_image_that_breaks_off_leaves_no_file(pool: Pool, tmp_path: Path) -> None:
    """Its pixels' memory is made while it is decoded."""
    whole = _png(tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MediaError, match="image 7: damaged or incomplete image file"):
        _measure(pool, "image", tmp_path / "b.png")
    assert not [name for name in os.listdir(SHARED) if name.startswith(STAMP)]


def test_a_worker_that_dies_is_replaced(pool: Pool, tmp_path: Path) -> None:
    path = _png(tmp_path / "a.png")
    _measure(pool, "image", path)
    with pytest.raises(MediaError, match="image 7: cannot be read: its reader came to an end"):
        _struck(pool, signal.SIGKILL, path)
    assert len(_measure(pool, "image", path)) == 1


def test_a_worker_that_dies_over_a_video_leaves_no_file(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(encode(400, width=640, height=360, rate=4))
    _measure(pool, "image", _png(tmp_path / "a.png"))

    async def struck() -> None:
        (worker,) = pool.ready
        request = ReadRequest("video", "video 7", MediaOptions(fps=4.0, max_frames=400), 13312)
        job = asyncio.ensure_future(pool.measure(request, str(tmp_path / "a.mp4")))
        # the frames' memory is there, and they are being made
        while not left():
            assert not job.done()
            await asyncio.sleep(0.002)
        os.kill(worker, signal.SIGKILL)
        await job

    def left() -> list[str]:
        return [name for name in os.listdir(SHARED) if name.startswith(STAMP)]

    with pytest.raises(MediaError, match="video 7: cannot be read: its reader came to an end"):
        asyncio.run(struck())
    assert left() == []


def test_a_worker_that_hangs_is_ended(pool: Pool, tmp_path: Path, monkeypatch: Any) -> None:
    path = _png(tmp_path / "a.png")
    _measure(pool, "image", path)
    monkeypatch.setattr(pool, "_config", replace(CONFIG, timeout=0.5))
    with pytest.raises(MediaError, match=r"image 7: takes too long to read \(at most 0.5 s\)"):
        _struck(pool, signal.SIGSTOP, path)
    monkeypatch.undo()
    assert len(_measure(pool, "image", path)) == 1


def test_broken_photos_are_let_go(tmp_path: Path) -> None:
    """Each takes 101 MB of the worker's 260, until its error is let go."""
    whole = tmp_path / "a.jpg"
    Image.effect_noise((5200, 4850), 30).convert("RGB").save(whole)
    broken = tmp_path / "b.jpg"
    broken.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    pool = Pool(replace(CONFIG, memory=260_000_000), 1, receive_inline)
    try:
        for _ in range(4):
            with pytest.raises(MediaError, match="image 7: damaged or incomplete"):
                _measure(pool, "image", broken)
        assert len(_measure(pool, "image", whole)) == 1
    finally:
        pool.close()


def test_a_large_photo_is_in_memory_once(tmp_path: Path) -> None:
    """At four bytes a pixel, 182 MB of the worker's 260; the larger one would need 268."""
    Image.new("RGB", (7000, 6500), (1, 2, 3)).save(tmp_path / "a.jpg")
    Image.new("RGB", (8192, 8192), (1, 2, 3)).save(tmp_path / "b.jpg")
    pool = Pool(replace(CONFIG, memory=260_000_000), 1, receive_inline)
    try:
        assert len(_measure(pool, "image", tmp_path / "a.jpg")) == 1
        with pytest.raises(MediaError, match="image 7: .*memory"):
            _measure(pool, "image", tmp_path / "b.jpg")
    finally:
        pool.close()


@pytest.fixture
def several() -> Iterator[Pool]:
    made = Pool(CONFIG, 2, receive_inline)
    yield made
    made.close()


def _promptly(held: Callable[[], bool]) -> None:
    assert eventually(held, poll_s=0.01)


def test_workers_start_before_there_is_work_and_one_at_a_time(several: Pool) -> None:
    most = 0

    def all_there() -> bool:
        nonlocal most
        most = max(most, len(several.starting))
        return len(several.ready) == 2

    _promptly(all_there)
    assert most == 1


def test_items_take_the_worker_that_is_ready_not_one_that_starts(tmp_path: Path, monkeypatch: Any) -> None:
    ready, last = media_pool._Worker.wait_ready, threading.Event()
    waits: list[None] = []

    def late(worker: Any) -> None:
        waits.append(None)
        if len(waits) > 1:
            assert last.wait(NET_S)
        ready(worker)

    monkeypatch.setattr(media_pool._Worker, "wait_ready", late)
    path, pool = _png(tmp_path / "a.png"), Pool(CONFIG, 2, receive_inline)

    async def burst() -> list[list[MediaFeatures]]:
        request = ReadRequest("image", "image 7", MediaOptions(), 13312)
        return await asyncio.gather(*(pool.measure(request, str(path)) for _ in range(12)))

    try:
        assert [len(measured) for measured in asyncio.run(burst())] == [1] * 12
        assert len(pool.ready) == 1
        last.set()
        _promptly(lambda: len(pool.ready) == 2)
    finally:
        last.set()
        pool.close()


def test_workers_that_cannot_start_are_tried_again(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(media_pool, "_PROGRAM", "raise SystemExit(3)")
    path, pool = _png(tmp_path / "a.png"), Pool(CONFIG, 2, receive_inline)
    try:
        for _ in range(3):
            with pytest.raises(RuntimeError, match="a media worker cannot start"):
                _measure(pool, "image", path)
        _promptly(lambda: pool.missing == 2)
        monkeypatch.undo()
        assert len(_measure(pool, "image", path)) == 1
    finally:
        pool.close()


def test_a_worker_that_waits_comes_before_a_place_without_one(tmp_path: Path, monkeypatch: Any) -> None:
    """Nor does an item wait for the start of another if one that waited has died."""
    path, pool = _png(tmp_path / "a.png"), Pool(CONFIG, 2, receive_inline)
    try:
        _promptly(lambda: len(pool.ready) == 2)
        with monkeypatch.context() as patch:
            patch.setattr(media_pool, "_PROGRAM", "raise SystemExit(3)")
            os.kill(dead := pool.ready[0], signal.SIGKILL)
            # until it is gone; its pool may look for itself
            os.waitid(os.P_PID, dead, os.WEXITED | os.WNOWAIT)
            for _ in range(4):
                assert len(_measure(pool, "image", path)) == 1
            _promptly(lambda: pool.missing == 1)
            for _ in range(4):
                assert len(_measure(pool, "image", path)) == 1
    finally:
        pool.close()


def test_an_answer_that_cannot_be_read_costs_its_item_alone(several: Pool, tmp_path: Path, monkeypatch: Any) -> None:
    path = _png(tmp_path / "a.png")
    _promptly(lambda: len(several.ready) == 2)
    with monkeypatch.context() as patch, pytest.raises(pickle.UnpicklingError):
        patch.setattr(answers, "receive", _unreadable)
        _measure(several, "image", path)
    _promptly(lambda: len(several.ready) == 2)
    assert len(_measure(several, "image", path)) == 1


def test_an_answer_of_another_kind_is_not_made(pool: Pool, tmp_path: Path, monkeypatch: Any) -> None:
    """As of a worker that a file has taken over."""
    called: list[str] = []
    monkeypatch.setattr(os, "system", called.append)
    for answer in (os.system, _Calls(), torch.device("cpu"), Path("/etc/passwd"), [{"a": subprocess.Popen}]):
        ours, theirs = Pipe()
        theirs.send(answer)
        with pytest.raises(pickle.UnpicklingError, match="which is no answer"):
            answers.receive(ours)
    assert called == []


class _Calls:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def test_a_worker_has_no_password_of_the_server(tmp_path: Path, monkeypatch: Any) -> None:
    secrets = ("HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "https_proxy", "GITHUB_AUTH")
    for name in secrets:
        monkeypatch.setenv(name, "s3cret")
    pool = Pool(CONFIG, 1, receive_inline)
    try:
        _promptly(lambda: len(pool.ready) == 1)
        inside = Path(f"/proc/{pool.ready[0]}/environ").read_bytes()
        assert b"s3cret" not in inside and b"PILLOW_BLOCK_SIZE" in inside and b"PATH=" in inside
    finally:
        pool.close()


def test_files_of_features_are_the_servers_alone(pool: Pool, tmp_path: Path) -> None:
    path, modes = _png(tmp_path / "a.png"), []

    def looked(shared: Any) -> Any:
        modes.append(stat.S_IMODE(os.stat(shared.path).st_mode))
        return receive_inline(shared)

    receive, pool._receive = pool._receive, looked
    mask = os.umask(0)
    try:
        _measure(pool, "image", path)
    finally:
        os.umask(mask)
        pool._receive = receive
    assert modes == [0o600]


def _unreadable(connection: Any) -> Any:
    for made in pickle.loads(connection.recv_bytes()):
        os.unlink(made.feature.path)
    raise pickle.UnpicklingError("not ours")


def test_a_pool_that_closes_keeps_nobody_waiting(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(media_pool, "_PROGRAM", "import time; time.sleep(1000)")
    pool = Pool(CONFIG, 2, receive_inline)

    async def both() -> None:
        request = ReadRequest("image", "image 7", MediaOptions(), 13312)
        jobs = [asyncio.ensure_future(pool.measure(request, str(tmp_path / "a.png"))) for _ in range(2)]
        await asyncio.sleep(0.2)
        pool.close()
        told = await asyncio.wait_for(asyncio.gather(*jobs, return_exceptions=True), NET_S)
        assert [type(error) for error in told] == [RuntimeError, RuntimeError]

    asyncio.run(both())
    _promptly(lambda: not pool.starting)
    with pytest.raises(RuntimeError):
        _measure(pool, "image", tmp_path / "a.png")
