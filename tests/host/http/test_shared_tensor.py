"""A tensor in shared memory reaches a scheduler without being copied, as often as it is sent; nothing is left."""

from __future__ import annotations

import gc
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from sglang.srt.managers import io_struct, mm_utils
from sglang.srt.managers.schedule_batch import Modality, MultimodalDataItem
from sglang.srt.utils.msgpack_utils import enc_hook, ext_hook

from sglang_nemotron.host.http.shared_tensor import SharedTensorPointer, receive_inline, receive_shared
from sglang_nemotron.reader import arena, scratch
from sglang_nemotron.reader.arena import SharedTensor, reserve
from sglang_nemotron.reader.scratch import SHARED

STAMP = f"sgl_shm_mm_{os.getpid()}_"
TENSOR = torch.arange(24, dtype=torch.float32).view(2, 3, 4)


def share(tensor: torch.Tensor, dtype: torch.dtype, stamp: str) -> SharedTensor:
    """A file that holds the tensor."""
    shared, mapped = reserve(tuple(tensor.shape), dtype, stamp)
    torch.frombuffer(mapped, dtype=dtype).view(tensor.shape).copy_(tensor)
    return shared


def _left() -> list[str]:
    return [name for name in os.listdir(SHARED) if name.startswith(STAMP)]


@pytest.fixture(autouse=True)
def _nothing_left() -> Any:
    yield
    gc.collect()
    assert _left() == []


def _msgpack(item: Any) -> Any:
    import msgspec

    data = msgspec.msgpack.Encoder(enc_hook=enc_hook).encode(item)
    return msgspec.msgpack.Decoder(MultimodalDataItem, ext_hook=ext_hook).decode(data)


@pytest.mark.parametrize("send", [_msgpack, lambda item: pickle.loads(pickle.dumps(item))])
def test_it_is_sent_any_number_of_times(send: Any) -> None:
    assert io_struct.enc_hook is enc_hook
    item = MultimodalDataItem(modality=Modality.IMAGE, feature=receive_shared(share(TENSOR, torch.bfloat16, STAMP)))
    received = [send(item) for _ in range(3)]
    assert len(_left()) == 4
    for copy in received:
        # SGLang's own class arrives, and its own code maps it
        assert type(copy.feature) is mm_utils.ShmPointerMMData
        got = mm_utils._unwrap_tensor_or_list(copy.feature)
        assert got.dtype == torch.bfloat16 and torch.equal(got.float(), TENSOR)
        got.zero_()
    assert len(_left()) == 1
    del item


def test_what_is_never_sent_goes_with_its_object() -> None:
    feature = receive_shared(share(TENSOR, torch.float32, STAMP))
    assert len(_left()) == 1 and isinstance(feature, mm_utils.ShmPointerMMData)
    feature.release()
    assert _left() == []
    feature = receive_shared(share(TENSOR, torch.float32, STAMP))
    del feature
    assert _left() == []


def test_sglang_does_not_copy_it() -> None:
    feature = receive_shared(share(TENSOR, torch.float32, STAMP))
    assert mm_utils._wrap_tensor_or_list(feature) is feature
    assert type(feature) is SharedTensorPointer


def test_inline_is_an_ordinary_tensor_without_a_file() -> None:
    got = receive_inline(share(TENSOR, torch.float32, STAMP))
    assert _left() == [] and torch.equal(got, TENSOR)
    got += 1


def test_a_full_shared_memory_falls_back_to_disk(tmp_path: Path, monkeypatch: Any) -> None:
    def full(_: int, __: int, size: int) -> None:
        if size and not (tmp_path / "tried").exists():
            (tmp_path / "tried").touch()
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(arena.os, "posix_fallocate", full)
    monkeypatch.setattr(scratch.tempfile, "gettempdir", lambda: str(tmp_path))
    # what posix_fallocate would have sized
    monkeypatch.setattr(arena.mmap, "mmap", _Sized(arena.mmap.mmap))
    shared = share(TENSOR, torch.float32, STAMP)
    assert Path(shared.path).parent == tmp_path and _left() == []
    assert torch.equal(receive_shared(shared), TENSOR)


class _Sized:
    def __init__(self, original: Any) -> None:
        self._original = original

    def __call__(self, descriptor: int, size: int) -> Any:
        os.ftruncate(descriptor, size)
        return self._original(descriptor, size)
