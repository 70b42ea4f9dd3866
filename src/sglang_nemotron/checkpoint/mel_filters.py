"""The two float32 buffers that a published Omni checkpoint keeps of its feature extractor; constants, nothing random.

Formulas only. No engine reads them (they make their own); they are written so that a loader meets them.
"""

from __future__ import annotations

import math

import torch

SAMPLE_RATE_HZ = 16_000

# Slaney's mel scale: linear below 1 kHz, logarithmic above
_LINEAR_HZ_PER_MEL = 200.0 / 3.0
_KNEE_HZ = 1000.0
_KNEE_MEL = _KNEE_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = math.log(6.4) / 27.0


def hann_window(size: int) -> torch.Tensor:
    """The symmetric (not periodic) Hann window [size], float32."""
    phase = torch.arange(size, dtype=torch.float64) * (2 * math.pi / (size - 1))
    return (0.5 - 0.5 * torch.cos(phase)).float()


def mel_filter_bank(num_mels: int, num_bins: int) -> torch.Tensor:
    """Triangles of equal area over Fourier bins from 0 Hz to half the sample rate: [1, num_mels, num_bins], float32."""
    bins_hz = torch.linspace(0, SAMPLE_RATE_HZ / 2, num_bins, dtype=torch.float64)
    top = _mel_of(SAMPLE_RATE_HZ / 2)
    edges_hz = torch.tensor([_hz_of(top * i / (num_mels + 1)) for i in range(num_mels + 2)], dtype=torch.float64)
    low, centre, high = (edges_hz[i : i + num_mels, None] for i in range(3))
    rising = (bins_hz - low) / (centre - low)
    falling = (high - bins_hz) / (high - centre)
    triangles = torch.minimum(rising, falling).clamp_min(0) * (2 / (high - low))
    return triangles.float().unsqueeze(0)


def _mel_of(hz: float) -> float:
    return _KNEE_MEL + math.log(hz / _KNEE_HZ) / _LOG_STEP if hz >= _KNEE_HZ else hz / _LINEAR_HZ_PER_MEL


def _hz_of(mel: float) -> float:
    return _KNEE_HZ * math.exp((mel - _KNEE_MEL) * _LOG_STEP) if mel >= _KNEE_MEL else mel * _LINEAR_HZ_PER_MEL
