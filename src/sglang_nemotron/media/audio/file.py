"""A file's bytes in, its sound at the model's rate out: as samples, or measured while it is still being decoded.

Resampling is soxr's high quality, on the mean of the channels, as librosa.load does for the users of the reference.
Nothing here may know the network, token ids or SGLang.

Shape letters: S samples.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Iterator

import numpy as np

from sglang_nemotron.config.omni import SoundRule
from sglang_nemotron.media.audio.decode import Block, decode
from sglang_nemotron.media.audio.mel import SoundMeasure
from sglang_nemotron.media.features import Sound
from sglang_nemotron.media.pixels.resize import Memory, new_pixels
from sglang_nemotron.prompt.errors import MediaError
from sglang_nemotron.prompt.options import MediaLimits

# blocks that the decoder may be ahead of the measuring: 16 blocks of 64 k samples are 4 MB
AHEAD = 16


def read_audio(data: bytes, *, name: str, rate: int = 16_000, limits: MediaLimits | None = None) -> np.ndarray:
    """The best audio track of a file, or of a video, as mono float32 samples (S,) at `rate` Hz.

    name: the item in errors ("audio 2"). Raises MediaError; see `decode`. Decodes in blocks: beside the file it holds
    twice the result (64 KB a second at 16 kHz) and a few MB, whatever the header claims.
    """
    limits = limits or MediaLimits()
    blocks = list(_resampled(decode(data, name=name, limits=limits), rate))
    samples_S = np.concatenate(blocks) if blocks else np.empty(0, dtype=np.float32)
    _check_length(len(samples_S) / rate, name, limits)
    return samples_S


def read_sound(
    data: bytes,
    rule: SoundRule,
    *,
    name: str,
    limits: MediaLimits | None = None,
    threads: int = 1,
    memory: Memory = new_pixels,
) -> Sound:
    """`sound(read_audio(data))`, bit for bit, with the decoder in a thread of its own and without the whole samples.

    The samples are resampled here, and measured in so many threads, while the next ones are decoded: about the time of
    decoding alone, or of all of it over the number of cores. memory: makes what the mel is written to.
    """
    limits = limits or MediaLimits()
    num_samples = 0
    blocks = _Ahead(decode(data, name=name, limits=limits))
    with SoundMeasure(rule, threads) as measure:
        try:
            for samples_S in _resampled(iter(blocks), rule.sample_rate):
                measure.add(samples_S)
                num_samples += len(samples_S)
        finally:
            blocks.close()
        _check_length(num_samples / rule.sample_rate, name, limits)
        return measure.finish(memory)


def _check_length(seconds: float, name: str, limits: MediaLimits) -> None:
    if not seconds:
        raise MediaError(name, "the file holds no audio samples")
    if seconds < limits.min_audio_seconds:
        raise MediaError(name, f"lasts {seconds:.3f} s", f"at least {limits.min_audio_seconds:g} s of audio")


def _resampled(blocks: Iterator[Block], target: int) -> Iterator[np.ndarray]:
    """Float32 samples (S,) at the target rate; a track that changes its rate is resampled part by part."""
    part: _Resampler | None = None
    for block in blocks:
        if part is None or block.rate != part.rate:
            if part is not None:
                yield part.rest()
            part = _Resampler(block.rate, target)
        yield part.push(block.samples_S)
    if part is not None:
        yield part.rest()


class _Resampler:
    """A track's part of one rate, as soxr turns it into the target rate when it gets it whole, bit for bit."""

    def __init__(self, rate: int, target: int) -> None:
        import soxr

        self.rate = rate
        self._ratio = target / rate
        self._stream = soxr.ResampleStream(rate, target, 1, dtype="float32", quality="HQ") if rate != target else None
        self._num_in = self._num_out = 0

    def push(self, samples_S: np.ndarray) -> np.ndarray:
        if self._stream is None:
            return samples_S
        self._num_in += len(samples_S)
        resampled_S = self._stream.resample_chunk(samples_S)
        self._num_out += len(resampled_S)
        return resampled_S

    def rest(self) -> np.ndarray:
        """What the filter still holds, cut or filled with silence to librosa's length."""
        if self._stream is None:
            return np.empty(0, dtype=np.float32)
        last_S = self._stream.resample_chunk(np.empty(0, dtype=np.float32), last=True)
        wanted = math.ceil(self._num_in * self._ratio) - self._num_out
        return np.pad(last_S[:wanted], (0, max(0, wanted - len(last_S))))


class _Ahead:
    """An iterator whose items are made by a thread, at most AHEAD of them early; its error is raised where they end."""

    def __init__(self, items: Iterator[Block]) -> None:
        self._items = items
        self._ready: queue.Queue[Block | BaseException | None] = queue.Queue(AHEAD)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="decode audio", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        end: BaseException | None = None
        try:
            for item in self._items:
                self._ready.put(item)
                if self._stopped.is_set():
                    return
        except BaseException as error:
            # raised again, with its traceback, by the thread that waits for the items
            end = error
        self._ready.put(end)

    def __iter__(self) -> Iterator[Block]:
        while True:
            item = self._ready.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """Let the thread end, whether or not all was read, and wait for it: at most one block more is decoded."""
        self._stopped.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.01)
            except queue.Empty:
                continue
