"""What a worker says of a fault: the item's owner learns what is wrong, and the log whatever nobody foresaw."""

from __future__ import annotations

import pytest
import torch

from sglang_nemotron.media.features import MediaError
from sglang_nemotron.prompt.options import MediaOptions
from sglang_nemotron.reader import worker
from sglang_nemotron.reader.service import Order
from sglang_nemotron.reader.settings import media_settings
from sglang_nemotron.reader.worker import Terms
from support.published import SPEC

SETTINGS = media_settings({}, SPEC.image)
TERMS = Terms(SPEC, SETTINGS.bounds, torch.bfloat16, 1024 << 20, 1 << 31, 20.0, "sgl_shm_mm_0_worker_")
ORDER = Order("image", "image 7", MediaOptions(), 13312)


def _raised(fault: Exception) -> Exception:
    try:
        raise fault
    except Exception as raised:
        return raised


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (ValueError("operands could not be broadcast"), "image 7: operands could not be broadcast"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "invalid start byte"),
        (RuntimeError("shape '[3]' is invalid"), r"image 7: cannot be read \(RuntimeError: shape '\[3\]' is invalid\)"),
        (KeyError("x"), r"image 7: cannot be read \(KeyError: 'x'\)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_nobody_foresaw_leaves_its_traceback(
    fault: Exception, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(MediaError, match=told):
        raise worker._told(ORDER, _raised(fault), TERMS)
    logged = capsys.readouterr().err
    assert f"{type(fault).__name__}: {fault}" in logged and "in _raised" in logged


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (MediaError("image 7", "is no image", "PNG or JPEG"), r"^image 7: is no image \(PNG or JPEG\)$"),
        (MemoryError(), r"^image 7: needs too much memory to read \(at most 1024 MB\)$"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "^image 7: needs too much memory"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_file_can_do_is_told_and_not_logged(
    fault: Exception, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(MediaError, match=told):
        raise worker._told(ORDER, _raised(fault), TERMS)
    assert capsys.readouterr().err == ""
