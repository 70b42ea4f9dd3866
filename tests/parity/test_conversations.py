"""The conversations of a comparison show what their names say; files made of the package's are always the same."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
import pytest

from sglang_nemotron.checkpoint.config_files import config_json
from sglang_nemotron.checkpoint.spec import OMNI_PRESETS
from sglang_nemotron.cli import demo_media
from sglang_nemotron.config.omni import omni_spec
from sglang_nemotron.media.video.sampling import sample_indices
from sglang_nemotron.parity import conversations as told
from sglang_nemotron.parity import media_made
from sglang_nemotron.parity.media_files import frames, samples
from sglang_nemotron.parity.reference_media import Image, Sound, Video

SPEC = omni_spec(config_json(OMNI_PRESETS["toy"]))
FILES = told.Files(demo_media.photo(), demo_media.speech(), demo_media.clip())
SHELF = told.Shelf(FILES, SPEC, 32768)


@cache
def of(kind: str) -> list[told.Conversation]:
    return told.conversations(SHELF, SPEC, kind, told.QUESTIONS[0])


def test_a_mode_shows_what_it_says():
    kinds = {kind: {m.kind for one in of(kind) for m in one.media} for kind in told.KINDS}
    assert kinds == {
        "image": {"image"},
        "images": {"image"},
        "video": {"video"},
        "audio": {"audio"},
        "video-sound": {"video", "audio"},
        "mixed": {"image", "video", "audio"},
    }
    everything = [one for kind in told.KINDS for one in of(kind)]
    assert len({one.name for one in everything}) == len(everything)
    assert all(any(told.QUESTIONS[0] in parts for _, parts in one.turns) for one in everything)
    assert [len(one.media) for one in of("images")] == [4, 3]
    assert all(one.media[0].heard is not None for one in of("video-sound"))
    rates = {m.item.pruning_rate for one in of("video") for m in one.media if isinstance(m.item, Video)}
    assert rates == {0.0, 0.3, 0.5, SPEC.video.pruning_rate}


def test_images_are_of_four_sizes_and_three_formats():
    from PIL import Image as File

    opened = [File.open(io.BytesIO(medium.data)) for medium in SHELF.photos]
    assert [(one.format, one.size) for one in opened] == [
        ("JPEG", (640, 480)),
        ("PNG", (90, 300)),
        ("WEBP", (224, 224)),
        ("JPEG", (1280, 720)),
    ]
    tokens = [medium.item.num_tokens for medium in SHELF.photos if isinstance(medium.item, Image)]
    assert len(set(tokens)) == 4 and max(tokens) > 2 * min(tokens)


@pytest.mark.parametrize("place", range(4))
def test_frames_are_those_that_engines_sample(place: int):
    import av

    medium, fps = [(SHELF.clip(), 2), (SHELF.film(0.5), 3), *((film, 2) for film in SHELF.films(0.3))][place]
    with av.open(io.BytesIO(medium.data)) as container:
        assert container.streams.video[0].average_rate == 24
    shown = frames(medium.data)
    numbers = sample_indices(len(shown), 24, fps=fps, max_frames=told.sampled(fps, 0.0)["num_frames"])
    item: Any = medium.item
    assert len(item.frames_TCHW) == len(numbers)
    times = [f"sampled at {number * 41 / 1000:.2f} seconds" for number in numbers]
    assert [text in " ".join(item.headings) for text in times] == [True] * len(times)


def test_a_film_changes_everywhere():
    shown = frames(SHELF.film(0.5).data).float()
    # in eight bits; of blocks as large as a token's
    changes = (shown[8:] - shown[:-8]).abs().mean(-1).unfold(1, 32, 32).unfold(2, 32, 32).mean((-1, -2))
    assert changes.mean() > 10 and (changes > 1).float().mean() > 0.95


def test_sounds_are_of_three_lengths_and_no_band_is_silent():
    import soundfile

    lengths = [len(samples(medium.data)) / 16_000 for medium in SHELF.sounds]
    assert lengths[1] == pytest.approx(2.21, abs=0.01) and lengths[2] == pytest.approx(33.4, abs=0.01)
    assert 3 < lengths[0] < 10
    made = [soundfile.info(io.BytesIO(medium.data)) for medium in SHELF.sounds[1:]]
    assert [(one.format, one.samplerate, one.channels) for one in made] == [("FLAC", 48000, 2), ("WAV", 22050, 1)]
    for medium in SHELF.sounds:
        assert isinstance(medium.item, Sound) and np.isfinite(medium.item.mel_NMF.numpy()).all()
        assert (medium.item.mel_NMF[0, : medium.item.num_frames_N[0]].std(0) > 0.1).all()


def test_files_are_the_same_every_time():
    def made(seed: int) -> tuple[bytes, bytes, bytes]:
        return (
            media_made.film(FILES.photo, 64, 48, num_frames=6, rate=24),
            media_made.picture(FILES.photo, 32, 32, kind="WEBP"),
            media_made.recording(FILES.speech, 0.5, seed=seed, rate=16_000),
        )

    assert made(1) == made(1)
    assert made(1)[2] != made(2)[2]


def test_what_is_sent_is_in_the_order_of_the_places():
    (at_once, _) = of("mixed")
    data = at_once.data()
    assert set(data) == {"image_data", "video_data", "audio_data"}
    assert data["image_data"] == [SHELF.photos[3].encoded, SHELF.photos[2].encoded]
    assert data["audio_data"] == [SHELF.sounds[2].encoded, SHELF.sounds[0].encoded]
    (message,) = at_once.rendered()
    kinds = [part["type"] for part in message["content"]]
    assert kinds == ["text", "audio", "image", "video", "audio", "image", "video"]


def test_a_second_turn_begins_like_the_first():
    first = of("image")[0]
    second = first.followed()
    assert second.rendered()[:1] == first.rendered() and [role for role, _ in second.turns] == [
        "user",
        "assistant",
        "user",
    ]
    assert second.data() == first.data() and second.options is first.options
