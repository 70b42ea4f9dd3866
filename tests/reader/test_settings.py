"""What an operator says about the reading of media is read once, and refused by name where it means nothing."""

from __future__ import annotations

import pytest
import torch

from sglang_nemotron.prompt.options import MediaLimits
from sglang_nemotron.reader.settings import WorkerConfig, worker_config
from support.published import SPEC


def _read(environment: dict[str, str]) -> WorkerConfig:
    return worker_config(environment, SPEC, pixels=torch.bfloat16, stamp="s_")


@pytest.mark.parametrize(
    ("name", "text"),
    [("MEDIA_WORKERS", "0"), ("MEDIA_TIMEOUT", "soon"), ("MEDIA_MEMORY_MB", "nan"), ("VIDEO_FPS", "-2")],
)
def test_settings_that_mean_nothing_are_refused(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"SGLANG_NEMOTRON_{name} is"):
        _read({f"SGLANG_NEMOTRON_{name}": text})


def test_settings_are_read() -> None:
    made = _read({"SGLANG_NEMOTRON_MEDIA_WORKERS": "3", "SGLANG_NEMOTRON_VIDEO_FPS": "1"})
    assert (made.workers, made.options.fps, made.limits.max_image_tokens) == (3, 1.0, 3328)


def test_limits_of_sounds_are_not_to_be_set_but_their_length() -> None:
    made = _read({"SGLANG_NEMOTRON_MAX_AUDIO_SECONDS": "90", "SGLANG_NEMOTRON_MAX_AUDIO_RATE": "5"})
    assert (made.limits.max_audio_seconds, made.limits.max_audio_rate) == (90.0, MediaLimits().max_audio_rate)
    with pytest.raises(ValueError, match="SGLANG_NEMOTRON_MAX_AUDIO_SECONDS is '0'"):
        _read({"SGLANG_NEMOTRON_MAX_AUDIO_SECONDS": "0"})
