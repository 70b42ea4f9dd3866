"""What a worker says of a fault: the item's owner learns what is wrong, and the log whatever nobody foresaw."""

from __future__ import annotations

import pytest
import torch

from sglang_nemotron.media.features import ReadRequest
from sglang_nemotron.prompt.errors import MediaError
from sglang_nemotron.prompt.options import MediaOptions
from sglang_nemotron.reader import worker
from sglang_nemotron.reader.settings import WorkerConfig
from support.published import SPEC

CONFIG = WorkerConfig(SPEC, torch.bfloat16, "sgl_shm_mm_0_worker_", memory=1024 << 20)
REQUEST = ReadRequest("image", "image 7", MediaOptions(), 13312)


def _raised(fault: Exception) -> Exception:
    try:
        raise fault
    except Exception as raised:
        return raised


@pytest.mark.parametrize(
    ("fault", "shown"),
    [
        (ValueError("operands could not be broadcast"), "image 7: operands could not be broadcast"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "invalid start byte"),
        (RuntimeError("shape '[3]' is invalid"), r"image 7: cannot be read \(RuntimeError: shape '\[3\]' is invalid\)"),
        (KeyError("x"), r"image 7: cannot be read \(KeyError: 'x'\)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_nobody_foresaw_leaves_its_traceback(
    fault: Exception, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(MediaError, match=shown):
        raise worker.media_error(REQUEST, _raised(fault), CONFIG)
    logged = capsys.readouterr().err
    assert f"{type(fault).__name__}: {fault}" in logged and "in _raised" in logged


@pytest.mark.parametrize(
    ("fault", "shown"),
    [
        (MediaError("image 7", "is no image", "PNG or JPEG"), r"^image 7: is no image \(PNG or JPEG\)$"),
        (MemoryError(), r"^image 7: needs too much memory to read \(at most 1024 MB\)$"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "^image 7: needs too much memory"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_file_can_do_is_shown_and_not_logged(
    fault: Exception, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(MediaError, match=shown):
        raise worker.media_error(REQUEST, _raised(fault), CONFIG)
    assert capsys.readouterr().err == ""
