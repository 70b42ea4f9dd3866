"""Features refuse shapes, counts and types that contradict each other; MediaError reads well and crosses processes."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
import torch

from sglang_nemotron.media.features import Picture, Sound, VideoClip
from sglang_nemotron.prompt.errors import MediaError

PICTURE = {"feature": torch.zeros(3, 32, 64), "grid_HW": (2, 4), "num_tokens": 2}
CLIP = {
    "feature": torch.zeros(4, 3, 32, 64),
    "grid_HW": (2, 4),
    "headings": ("a", "b"),
    "tokens_per_tubelet": 2,
    "pruning_rate": 0.5,
    "num_kept": 3,
}
SOUND = {"feature": torch.zeros(2, 100, 128), "num_frames_N": (100, 40), "tokens_N": (13, 5)}


def test_good_features_are_accepted_and_frozen() -> None:
    picture, clip, sound = Picture(**PICTURE), VideoClip(**CLIP), Sound(**SOUND)
    assert (picture.num_tokens, clip.num_tokens, clip.num_tubelets, sound.num_tokens) == (2, 4, 2, 18)
    with pytest.raises(dataclasses.FrozenInstanceError):
        picture.num_tokens = 3  # type: ignore[misc]
    # tensors inside: identity, not elementwise comparison, and usable as a key
    assert picture != Picture(**PICTURE) and len({picture, clip, sound}) == 3


def test_they_travel_without_their_tensor() -> None:
    clip = VideoClip(**CLIP).known_by(b"i" * 32)
    away = pickle.loads(pickle.dumps(clip.carrying("a file")))
    assert (away.feature, away.identity, away.num_embeddings, away.kind) == ("a file", b"i" * 32, 3, "video")
    assert away.carrying(clip.feature).headings == clip.headings
    assert (Picture(**PICTURE).num_embeddings, Sound(**SOUND).num_embeddings) == (2, 18)


@pytest.mark.parametrize(
    ("kind", "good", "change"),
    [
        (Picture, PICTURE, {"feature": torch.zeros(4, 32, 64)}),
        (Picture, PICTURE, {"feature": torch.zeros(3, 32, 64, dtype=torch.float64)}),
        (Picture, PICTURE, {"feature": torch.zeros(3, 32, 64, dtype=torch.uint8)}),
        (Picture, PICTURE, {"feature": torch.zeros(1, 3, 32, 64)}),
        (Picture, PICTURE, {"grid_HW": (4, 2)}),
        (Picture, PICTURE, {"grid_HW": (0, 4)}),
        (Picture, PICTURE, {"feature": torch.zeros(3, 32, 65)}),
        (Picture, PICTURE, {"num_tokens": 3}),
        (Picture, PICTURE, {"num_tokens": 0}),
        (VideoClip, CLIP, {"feature": torch.zeros(5, 3, 32, 64)}),
        (VideoClip, CLIP, {"feature": torch.zeros(0, 3, 32, 64)}),
        (VideoClip, CLIP, {"feature": torch.zeros(3, 32, 64)}),
        (VideoClip, CLIP, {"feature": torch.zeros(CLIP["feature"].shape, dtype=torch.float64)}),
        (VideoClip, CLIP, {"headings": ()}),
        (VideoClip, CLIP, {"headings": ("a", "b", "c")}),
        (VideoClip, CLIP, {"pruning_rate": 1.0}),
        (VideoClip, CLIP, {"pruning_rate": 0.0}),
        (VideoClip, CLIP, {"num_kept": 1}),
        (VideoClip, CLIP, {"num_kept": 5}),
        (VideoClip, CLIP, {"tokens_per_tubelet": 3}),
        (Sound, SOUND, {"feature": torch.zeros(100, 128)}),
        (Sound, SOUND, {"feature": torch.zeros(2, 100, 128, dtype=torch.float64)}),
        (Sound, SOUND, {"num_frames_N": (100,)}),
        (Sound, SOUND, {"num_frames_N": (101, 40)}),
        (Sound, SOUND, {"num_frames_N": (100, 0)}),
        (Sound, SOUND, {"tokens_N": (13,)}),
        (Sound, SOUND, {"tokens_N": (13, 0)}),
        (Sound, SOUND, {"tokens_N": (13, 41)}),
    ],
)
def test_contradictions_are_refused(kind: type, good: dict, change: dict) -> None:
    with pytest.raises(AssertionError):
        kind(**{**good, **change})


def test_media_error_names_item_problem_and_limit() -> None:
    error = MediaError("image 2", "60000 x 60000 pixels", "at most 178,956,970 pixels")
    assert isinstance(error, ValueError)
    assert str(error) == "image 2: 60000 x 60000 pixels (at most 178,956,970 pixels)"
    assert str(MediaError("audio 1", "no samples")) == "audio 1: no samples"


def test_media_error_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(MediaError("video 1", "no frames", "at least 1")))
    assert (error.item, error.problem, error.limit) == ("video 1", "no frames", "at least 1")
    assert str(error) == "video 1: no frames (at least 1)"
