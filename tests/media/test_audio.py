"""Mel clips and token counts equal transformers' extractor and SGLang's, and are at least as exact as either.

Shape letters: S samples, T mel frames, F mel bands, N clips, K points of the spectrum.
"""

from __future__ import annotations

import functools
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_nemotron.config.omni import SoundRule
from sglang_nemotron.media.audio import mel
from sglang_nemotron.media.audio.mel import SoundMeasure, clip_mel, clip_samples, sound, sound_tokens
from support.published import SPEC

RULE = SPEC.audio
CLIP = 480_000
# float32: the mel is normalised, so relative to 1
TOLERANCE = 1e-4
SPEECH = Path(__file__).parent.parent / "data" / "media" / "speech.mp3"


@functools.cache
def speech() -> np.ndarray:
    return librosa.load(SPEECH, sr=16_000)[0]


def recording(num_samples: int) -> np.ndarray:
    """Speech over a room's noise, as a microphone gives it: no band is ever quite still."""
    noise = np.random.default_rng(num_samples).normal(0, 1e-3, num_samples)
    return (np.resize(speech(), num_samples) + noise).astype(np.float32)


def sweep(num_samples: int) -> np.ndarray:
    seconds = np.arange(num_samples) / 16_000
    noise = np.random.default_rng(1).normal(0, 1e-2, num_samples)
    return (0.5 * np.sin(2 * np.pi * (100 + 100 * seconds) * seconds) + noise).astype(np.float32)


def loud_noise(num_samples: int) -> np.ndarray:
    return np.random.default_rng(2).normal(0, 3, num_samples).astype(np.float32)


@functools.cache
def extractor():
    from transformers import ParakeetFeatureExtractor

    return ParakeetFeatureExtractor(feature_size=128)


def transformers_mel(samples_S: np.ndarray) -> np.ndarray:
    made = extractor()([samples_S], sampling_rate=16_000, return_tensors="pt")
    return made["input_features"][0][made["attention_mask"][0].bool()].numpy()


def exact_log(samples_S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The formula's log mel before normalising, in float64 by a plain table of cosines and sines; and float32's error.

    A float32 transform errs by about epsilon times the root mean square of the whole frame in every point, so a band
    that is quiet in a loud frame is only that well known, whoever computes it: 4 such errors, as an error of the log.
    """
    emphasised = samples_S.astype(np.float64)
    emphasised[1:] -= 0.97 * samples_S[:-1].astype(np.float64)
    padded = np.pad(emphasised, 256)
    window = np.pad(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399), 56)
    num_frames = len(samples_S) // 160
    frames = np.stack([padded[160 * t : 160 * t + 512] * window for t in range(num_frames)])
    angles = 2 * np.pi * np.outer(np.arange(512), np.arange(257)) / 512
    power_TK = (frames @ np.cos(angles)) ** 2 + (frames @ np.sin(angles)) ** 2
    filters_FK = librosa.filters.mel(sr=16_000, n_fft=512, n_mels=128, fmin=0, fmax=8000, norm="slaney")
    mel_TF = power_TK @ filters_FK.T.astype(np.float64) + 2.0**-24
    epsilon_T = np.finfo(np.float32).eps * np.sqrt(power_TK.mean(1, keepdims=True))
    return np.log(mel_TF), 4 * 2 * epsilon_T * np.sqrt(filters_FK.sum(1)) / np.sqrt(mel_TF)


def exact_mel(samples_S: np.ndarray) -> np.ndarray:
    log_TF, _ = exact_log(samples_S)
    return (log_TF - log_TF.mean(0)) / (log_TF.std(0, ddof=1) + 1e-5)


def share_close(mel_TF: np.ndarray, wanted_TF: np.ndarray, rounding_TF: np.ndarray | float = 0.0) -> float:
    """How much of the mel is as wanted, from 0 to 1; nothing of one of another shape."""
    if mel_TF.shape != wanted_TF.shape:
        return 0.0
    return float((np.abs(mel_TF - wanted_TF) <= TOLERANCE * (1 + np.abs(wanted_TF)) + rounding_TF).mean())


def is_close(mel_TF: np.ndarray, wanted_TF: np.ndarray, rounding_TF: np.ndarray | float = 0.0) -> bool:
    return share_close(mel_TF, wanted_TF, rounding_TF) == 1.0


LENGTHS = [1600, 1601, 1759, 1760, 16_000, 48_007, CLIP - 1, CLIP]


@pytest.mark.parametrize("num_samples", LENGTHS)
def test_a_clip_of_speech_equals_transformers(num_samples: int) -> None:
    samples_S = recording(num_samples)
    assert is_close(clip_mel(samples_S, RULE), transformers_mel(samples_S))


@pytest.mark.parametrize("make", [sweep, loud_noise])
@pytest.mark.parametrize("num_samples", LENGTHS)
def test_a_clip_of_loud_tones_equals_transformers_as_far_as_float32_knows(make, num_samples: int) -> None:
    samples_S = make(num_samples)
    log_TF, error_TF = exact_log(samples_S)
    # the mean over the clip errs as well as the point itself
    rounding_TF = 2 * error_TF / log_TF.std(0, ddof=1)
    exact_TF = exact_mel(samples_S)
    assert is_close(clip_mel(samples_S, RULE), exact_TF, rounding_TF)
    # transformers' transform is another one on every make of processor: on some it spends nearly all of the allowance,
    # so that two float32 transforms can be further apart than either is from the truth
    assert share_close(transformers_mel(samples_S), exact_TF, rounding_TF) > 0.9999
    # and that allowance is no hole: next to nothing uses it
    assert np.median(rounding_TF) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "value"),
    [("PREEMPHASIS", 0.96), ("LOG_GUARD", 2.0**-20), ("NORM_EPS", 1e-3), ("HOP", 161), ("WINDOW", 398)],
)
def test_a_wrong_constant_is_seen(monkeypatch: pytest.MonkeyPatch, name: str, value: float) -> None:
    samples_S = recording(16_000)
    mel._window.cache_clear()
    monkeypatch.setattr(mel, name, value)
    mel_TF = clip_mel(samples_S, RULE)
    mel._window.cache_clear()
    assert not is_close(mel_TF, transformers_mel(samples_S))


def test_a_periodic_window_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mel, "_window", lambda: torch.hann_window(400).numpy())
    assert not is_close(clip_mel(recording(16_000), RULE), transformers_mel(recording(16_000)))


def test_it_is_as_near_the_exact_formula_as_transformers() -> None:
    """Also where the two may differ: a band that a codec cut off is all rounding, divided by its tiny deviation."""
    quiet = librosa.resample(
        librosa.resample(recording(80_000), orig_sr=16_000, target_sr=8000), orig_sr=8000, target_sr=16_000
    )
    for samples_S in (recording(80_000), sweep(80_000), speech(), quiet):
        exact = exact_mel(samples_S)
        ours, theirs = np.abs(clip_mel(samples_S, RULE) - exact), np.abs(transformers_mel(samples_S) - exact)
        assert ours.mean() <= 1.25 * theirs.mean() and ours.max() <= 2 * theirs.max()


def test_silence_is_exactly_nothing() -> None:
    """Transformers' mean of equal numbers is not that number in float32, and its quotient by 1e-5 not 0."""
    for samples_S in (np.zeros(CLIP, np.float32), np.zeros(1600, np.float32)):
        assert not clip_mel(samples_S, RULE).any()
    assert np.abs(transformers_mel(np.zeros(CLIP, np.float32))).max() > 1e-3


def test_clips_and_tokens() -> None:
    assert clip_samples(0, RULE) == clip_samples(1, RULE) == clip_samples(1600, RULE) == [1600]
    assert clip_samples(CLIP, RULE) == [CLIP]
    assert clip_samples(CLIP + 1, RULE) == [CLIP, 1600]
    assert clip_samples(2 * CLIP + 1601, RULE) == [CLIP, CLIP, 1601]
    assert [sound_tokens(seconds * 16_000, RULE) for seconds in (1, 10, 30, 60, 3600)] == [13, 125, 375, 750, 45_000]


def test_a_sound_is_its_clips() -> None:
    samples_S = recording(2 * CLIP + 100)
    measured = sound(samples_S, RULE)
    assert measured.feature.shape == (3, 3000, 128)
    assert measured.num_frames_N == (3000, 3000, 10) and measured.tokens_N == (375, 375, 2)
    assert measured.num_tokens == sound_tokens(len(samples_S), RULE)
    # frames beyond a clip's own are 0, and a clip in a sound is the clip alone, bit for bit
    assert not measured.feature[2, 10:].any()
    tail_S = np.pad(samples_S[2 * CLIP :], (0, 1500))
    for index, clip_S in enumerate((samples_S[:CLIP], samples_S[CLIP : 2 * CLIP], tail_S)):
        alone = sound(clip_S, RULE)
        assert torch.equal(measured.feature[index, : alone.num_frames_N[0]], alone.feature[0])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 9000), max_size=8), st.integers(0, 3), st.integers(1, 3))
def test_how_a_sound_is_cut_does_not_matter(pieces: list[int], clips: int, threads: int) -> None:
    short = SoundRule(16_000, 128, 8, 3, 2, clip_seconds=1)
    samples_S = recording(sum(pieces) + clips * 16_000)
    start = 0
    with SoundMeasure(short, threads) as measure:
        for piece in pieces:
            measure.add(samples_S[start : start + piece])
            start += piece
        measure.add(samples_S[start:])
        cut, whole = measure.finish(), sound(samples_S, short)
    assert torch.equal(cut.feature, whole.feature) and cut.tokens_N == whole.tokens_N
    assert [frames * 160 for frames in cut.num_frames_N] == [
        s // 160 * 160 for s in clip_samples(len(samples_S), short)
    ]


def test_equal_to_in_tree_on_ordinary_audio() -> None:
    from sglang.srt.models.parakeet import ParakeetExtractor
    from transformers import PretrainedConfig

    config = {"num_mel_bins": 128, "sampling_rate": 16_000, "subsampling_factor": 8}
    config |= {"subsampling_conv_kernel_size": 3, "subsampling_conv_stride": 2}
    in_tree = ParakeetExtractor(PretrainedConfig(**config))
    samples_S = recording(2 * CLIP + 33_333)
    theirs = in_tree([samples_S], sampling_rate=16_000, return_tensors="pt")
    ours = sound(samples_S, RULE)
    valid_NT = theirs["attention_mask"].bool()
    assert tuple(valid_NT.sum(-1).tolist()) == ours.num_frames_N
    for index, frames in enumerate(ours.num_frames_N):
        assert is_close(ours.feature[index, :frames].numpy(), theirs["input_features"][index, :frames].numpy())
    for num_samples in np.random.default_rng(0).integers(1, 4 * CLIP, 3000).tolist():
        assert sound_tokens(num_samples, RULE) == in_tree.audio_token_count(num_samples), num_samples
