"""Random values of a realistic scale: a seed and a source tensor come in, the numbers go out.

A tensor's numbers depend on (seed, name, shape) alone, never on order, thread or library version; knows no file format.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np
import torch

from sglang_nemotron.checkpoint.mel_filters import hann_window, mel_filter_bank
from sglang_nemotron.checkpoint.spec import NUM_RESERVED
from sglang_nemotron.checkpoint.tensors import OMNI_PREFIX, SourceTensor
from sglang_nemotron.checkpoint.tower_config import PIXEL_MEAN, PIXEL_STD

# numbers made at a time: small enough for a core's cache
_CHUNK = 1 << 16

# four 16-bit integers: mean 4 x 65535 / 2, variance 4 x (65536^2 - 1) / 12
_SUM_MEAN = 131070
_SUM_STD = np.float32(37837.2)

# the dt that a layer's head starts from is log-uniform between these (config: time_step_min, time_step_max), in seconds
_DT_MIN, _DT_MAX = 0.001, 0.1
# -A is uniform between these
_A_MIN, _A_MAX = 1.0, 16.0

# std of the logits over the vocabulary
_LOGIT_STD = 2.8
# rows that a sampled answer should seldom contain: a random model would otherwise answer mostly with reserved tokens
# and broken UTF-8. <|im_end|>, </s>, the thinking and the tool-call tags stay as likely as any word
_QUIET = 0.125
_LOUD_RESERVED = (2, 11, 12, 13, 14, 15)


def make_values(seed: int, tensor: SourceTensor, dtype: torch.dtype) -> torch.Tensor:
    """The values of one tensor.

    Everything but the router's correction bias is rounded through bfloat16, whatever `dtype` is, so that checkpoints
    of one seed hold the same numbers in every dtype (in float16, magnitudes below 6e-8 excepted). The correction bias
    is float32 in every published checkpoint and keeps its full precision. A language model has the same values alone
    and inside an Omni checkpoint.

    Args:
        seed: any non-negative integer.
        tensor: name, shape and role.
        dtype: of the result; ignored for the roles of `OWN_DTYPES`.

    Returns:
        A contiguous tensor of `tensor.shape`.
    """
    rng = _generator(seed, tensor)
    if tensor.role == "router_bias":
        return torch.cat(list(_normal(rng, tensor.shape[0]))) * 0.05
    if (constant := _constant(tensor)) is not None:
        return constant if tensor.role in OWN_DTYPES else constant.to(dtype)
    out = torch.empty(tensor.shape, dtype=dtype)
    flat, start = out.view(-1), 0
    for part in _shaped(rng, tensor):
        flat[start : start + part.numel()] = part.to(torch.bfloat16).to(dtype)
        start += part.numel()
    assert start == flat.numel()
    if tensor.role == "head":
        # a power of two, so the values stay exact in bfloat16
        out[quiet_rows(tensor.shape[0])] *= _QUIET
    return out


# what is stored in a dtype of its own, whatever the checkpoint's
OWN_DTYPES = {
    "router_bias": torch.float32,
    "mel_filters": torch.float32,
    "window": torch.float32,
    "counter": torch.int64,
    "summary_indices": torch.int64,
}


def quiet_rows(vocab_size: int) -> torch.Tensor:
    """Mask [vocab_size] of the tokens whose logits are scaled down: reserved ones and bytes that are not printable."""
    quiet = torch.zeros(vocab_size, dtype=torch.bool)
    quiet[:NUM_RESERVED] = True
    quiet[list(_LOUD_RESERVED)] = False
    byte = torch.arange(256)
    printable = ((byte >= 32) & (byte < 127)) | (byte == 10)
    quiet[NUM_RESERVED : NUM_RESERVED + 256] = ~printable
    return quiet


def _constant(tensor: SourceTensor) -> torch.Tensor | None:
    """The tensor if chance has no part in it."""
    match tensor.role:
        case "ones":
            return torch.ones(tensor.shape)
        case "pixel_mean":
            return torch.tensor(PIXEL_MEAN).reshape(tensor.shape)
        case "pixel_std":
            return torch.tensor(PIXEL_STD).reshape(tensor.shape)
        case "mel_filters":
            return mel_filter_bank(*tensor.shape[1:])
        case "window":
            return hann_window(tensor.shape[0])
        case "counter":
            # steps that a BatchNorm was trained for; no inference reads it
            return torch.tensor(100_000)
        case "summary_indices":
            return torch.arange(tensor.shape[0])
    return None


def _generator(seed: int, tensor: SourceTensor) -> np.random.SFC64:
    # raw output of a bit generator is stable across numpy versions; the distributions built on it are not
    name = tensor.name.removeprefix(OMNI_PREFIX)
    text = f"{seed}|{name}|{'x'.join(map(str, tensor.shape))}"
    return np.random.SFC64(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little"))


def _raw(rng: np.random.SFC64, count: int) -> np.ndarray:
    # with a size, numpy always returns an array; its stubs also allow None and int
    return np.asarray(rng.random_raw(count), dtype=np.uint64)


def _normal(rng: np.random.SFC64, count: int) -> Iterator[torch.Tensor]:
    """Chunks of nearly normal numbers (mean 0, std 1, at most 3.5): scaled sums of four 16-bit integers, so exact."""
    while count > 0:
        size = min(count, _CHUNK)
        quarters = _raw(rng, size).view(np.uint16).reshape(4, size)
        total = quarters[0].astype(np.int32)
        for quarter in quarters[1:]:
            total += quarter
        total -= _SUM_MEAN
        yield torch.from_numpy(total.astype(np.float32) / _SUM_STD)
        count -= size


def _uniform(rng: np.random.SFC64, count: int) -> torch.Tensor:
    """Float64 numbers in [0, 1)."""
    return torch.from_numpy((_raw(rng, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _shaped(rng: np.random.SFC64, tensor: SourceTensor) -> Iterator[torch.Tensor]:
    """The tensor's numbers in row-major chunks, unrounded."""
    count = int(np.prod(tensor.shape))
    if tensor.role == "a_log":
        yield torch.log(_A_MIN + (_A_MAX - _A_MIN) * _uniform(rng, count))
    elif tensor.role == "dt_bias":
        low, high = np.log(_DT_MIN), np.log(_DT_MAX)
        dt = torch.exp(low + (high - low) * _uniform(rng, count))
        # inverse of softplus
        yield dt + torch.log(-torch.expm1(-dt))
    elif tensor.role == "running_var":
        yield 0.3 + 0.7 * _uniform(rng, count)
    else:
        mean, std = _scale(tensor)
        for part in _normal(rng, count):
            yield part * std + mean


def _scale(tensor: SourceTensor) -> tuple[float, float]:
    """Mean and standard deviation by role."""
    fan_in = tensor.shape[-1]
    match tensor.role:
        case "embedding":
            return 0.0, 1.0
        case "head":
            return 0.0, _LOGIT_STD / fan_in**0.5
        case "norm":
            return 1.0, 0.1
        case "d":
            return 1.0, 0.3
        case "conv":
            return 0.0, 0.8 / fan_in**0.5
        case "conv_bias":
            return 0.0, 0.2
        case "router":
            # router logits of std 1: the sigmoid stays off its flat ends, so that the bias decides close calls only
            return 0.0, 1.0 / fan_in**0.5
        case "linear" | "tower_linear":
            return 0.0, tensor.gain / fan_in**0.5
        case "tower_conv":
            return 0.0, tensor.gain / math.prod(tensor.shape[1:]) ** 0.5
        case "bias":
            return 0.0, 0.1
        case "positions":
            return 0.0, 0.5
    raise AssertionError(f"no scale for role {tensor.role}")
