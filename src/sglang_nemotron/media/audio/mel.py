"""Samples in, log mel clips and their token counts out: what the sound encoder is trained on, clip by clip.

The rules are those of transformers' `ParakeetFeatureExtractor` over the 30 s clips of training and of the serving
engines. Nothing here may know files, sample rates other than the rule's, token ids or SGLang.

Shape letters: S samples, T mel frames, F mel bands, W samples under the window, Q points of the transform,
N clips of a sound.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch

from sglang_nemotron.config.omni import SoundRule
from sglang_nemotron.media.features import Sound
from sglang_nemotron.media.pixels.resize import Memory, new_pixels

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# the published featurizer (Parakeet-TDT-0.6B-v2); none of it is in a config file
PREEMPHASIS = 0.97
WINDOW = 400
TRANSFORM = 512
HOP = 160
LOG_GUARD = 2.0**-24
NORM_EPS = 1e-5
# a shorter tail is filled up with silence to this many seconds
MIN_CLIP_SECONDS = 0.1
# frames transformed at once: the scratch of 500 frames (2 MB) stays in the cache of a core (250 to 1000 are as fast)
FRAMES_AT_ONCE = 500


def clip_samples(num_samples: int, rule: SoundRule) -> list[int]:
    """Samples of each clip of a sound, the fill of a short tail included. Never empty."""
    full, shortest = rule.clip_seconds * rule.sample_rate, round(MIN_CLIP_SECONDS * rule.sample_rate)
    num_full, tail = divmod(max(num_samples, shortest), full)
    return [full] * num_full + ([max(tail, shortest)] if tail else [])


def clip_tokens(num_frames: int, rule: SoundRule) -> int:
    """Tokens of a clip of so many mel frames: what the encoder's strided convolutions leave of them."""
    length = num_frames
    for _ in range(int(math.log2(rule.subsampling_factor))):
        length = (length + (rule.subsampling_kernel - 1) // 2 * 2 - rule.subsampling_kernel) // rule.subsampling_stride
        length += 1
    return max(1, length)


def sound_tokens(num_samples: int, rule: SoundRule) -> int:
    """Tokens of a sound of so many samples, without reading one."""
    return sum(clip_tokens(samples // HOP, rule) for samples in clip_samples(num_samples, rule))


def sound(samples_S: np.ndarray | torch.Tensor, rule: SoundRule) -> Sound:
    """Measure mono float32 samples at the rule's rate. Finite samples only: `read_audio` refuses others."""
    with SoundMeasure(rule) as measure:
        measure.add(np.asarray(samples_S))
        return measure.finish()


class SoundMeasure:
    """A sound that arrives in pieces: `add` each, then `finish`. The cuts change nothing in the result, not a bit.

    A context manager. threads: clips measured at once, in threads of their own, or here and now if it is 1. Holds that
    many clips of samples and two more (2 MB each) and the mel of the clips before them (1.5 MB each), so that a file
    can be measured while it is decoded and its samples are never all in memory.
    """

    def __init__(self, rule: SoundRule, threads: int = 1) -> None:
        self._rule = rule
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="mel") if threads > 1 else None
        self._clip_S = self._new_clip()
        self._filled = 0
        self._waiting: deque[Future[np.ndarray]] = deque()
        self._mels_TF: list[np.ndarray] = []

    def __enter__(self) -> SoundMeasure:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def add(self, samples_S: np.ndarray) -> None:
        assert samples_S.ndim == 1 and samples_S.dtype == np.float32, (samples_S.shape, samples_S.dtype)
        start = 0
        while start < len(samples_S):
            # a full clip waits for the sample after it: nothing depends on it, but `finish` then always has a clip
            if self._filled == len(self._clip_S):
                self._close(self._filled)
            taken = min(len(samples_S) - start, len(self._clip_S) - self._filled)
            self._clip_S[self._filled : self._filled + taken] = samples_S[start : start + taken]
            self._filled, start = self._filled + taken, start + taken

    def finish(self, memory: Memory = new_pixels) -> Sound:
        """The whole sound; nothing may be added after it. memory: makes what the mel is written to, float32."""
        (last,) = clip_samples(self._filled, self._rule)
        self._clip_S[self._filled : last] = 0.0
        self._close(last)
        while self._waiting:
            self._collect()
        num_frames_N = tuple(len(mel) for mel in self._mels_TF)
        mel_NTF = memory(len(num_frames_N), max(num_frames_N), self._rule.num_mels, dtype=torch.float32)
        for padded_TF, mel_TF in zip(mel_NTF, self._mels_TF, strict=True):
            padded_TF[: len(mel_TF)] = torch.from_numpy(mel_TF)
            padded_TF[len(mel_TF) :] = 0.0
        return Sound(mel_NTF, num_frames_N, tuple(clip_tokens(frames, self._rule) for frames in num_frames_N))

    def _new_clip(self) -> np.ndarray:
        return np.empty(self._rule.clip_seconds * self._rule.sample_rate, dtype=np.float32)

    def _close(self, num_samples: int) -> None:
        samples_S, self._filled = self._clip_S[:num_samples], 0
        if self._pool is None:
            self._mels_TF.append(clip_mel(samples_S, self._rule))
            return
        self._waiting.append(self._pool.submit(clip_mel, samples_S, self._rule))
        self._clip_S = self._new_clip()
        if len(self._waiting) > self._threads:
            self._collect()

    def _collect(self) -> None:
        self._mels_TF.append(self._waiting.popleft().result())


def clip_mel(samples_S: np.ndarray, rule: SoundRule) -> np.ndarray:
    """One clip's normalised log mel (T, F), float32, T = S // hop. A clip knows nothing of the one before it.

    Equal to transformers' extractor on the same samples alone, except in bands that do not vary (digital silence, what
    a codec cut off): there it divides its own rounding error by a deviation of about 0; the mean here is correctly
    rounded, so that a constant band is exactly 0.

    In numpy and scipy, one thread: torch's threads wait for each other at every small step, which takes 50 times as
    long as soon as a server's other workers want the same cores. Clips run beside each other instead.
    """
    from scipy import fft

    num_frames = len(samples_S) // HOP
    filters_FK, window_W = _filters(rule.sample_rate, rule.num_mels), _window()
    # frame t is centred on sample t * hop, with silence before the first sample and after the last
    padded_S = np.zeros(len(samples_S) + WINDOW, dtype=np.float32)
    inside_S = padded_S[WINDOW // 2 : -(WINDOW // 2)]
    # the first sample has none before it and stays as it is
    inside_S[0] = samples_S[0]
    np.multiply(samples_S[:-1], np.float32(-PREEMPHASIS), out=inside_S[1:])
    inside_S[1:] += samples_S[1:]
    frames_TW = np.lib.stride_tricks.sliding_window_view(padded_S, WINDOW)[::HOP]
    mel_TF = np.empty((num_frames, rule.num_mels), dtype=np.float32)
    scratch_TQ = np.zeros((min(FRAMES_AT_ONCE, num_frames), TRANSFORM), dtype=np.float32)
    for start in range(0, num_frames, FRAMES_AT_ONCE):
        stop = min(start + FRAMES_AT_ONCE, num_frames)
        part_TQ = scratch_TQ[: stop - start]
        # the window stands in the middle of the transform in the reference: a shift, which a power spectrum forgets
        np.multiply(frames_TW[start:stop], window_W, out=part_TQ[:, :WINDOW])
        spectrum_TK = np.asarray(fft.rfft(part_TQ, axis=1), dtype=np.complex64)
        power_TK = np.square(spectrum_TK.real)
        power_TK += np.square(spectrum_TK.imag)
        mel_TF[start:stop] = (filters_FK @ power_TK.T).T
    mel_TF += np.float32(LOG_GUARD)
    np.log(mel_TF, out=mel_TF)
    mel_TF -= (mel_TF.sum(0, dtype=np.float64) / num_frames).astype(np.float32)
    deviation_F = np.sqrt(np.square(mel_TF).sum(0) / np.float32(num_frames - 1))
    mel_TF /= deviation_F + np.float32(NORM_EPS)
    return mel_TF


@functools.lru_cache(maxsize=4)
def _filters(sample_rate: int, num_mels: int) -> csr_array:
    """Slaney's mel filters (F, Q // 2 + 1) as librosa makes them in float32, which training used; 98 % are zeros."""
    import librosa
    from scipy import sparse

    filters_FK = librosa.filters.mel(
        sr=sample_rate, n_fft=TRANSFORM, n_mels=num_mels, fmin=0.0, fmax=sample_rate / 2, norm="slaney"
    )
    return sparse.csr_array(filters_FK.astype(np.float32))


@functools.lru_cache(maxsize=1)
def _window() -> np.ndarray:
    return torch.hann_window(WINDOW, periodic=False).numpy()
