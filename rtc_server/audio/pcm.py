"""PCM as plain arrays: int16, mono, shape [samples]; the rate always stands beside them. Small pure helpers."""

from __future__ import annotations

import math

import numpy as np

from model.interface import INPUT_SAMPLE_RATE, Pcm16

__all__ = [
    "FRAME_MS",
    "INPUT_SAMPLE_RATE",
    "PLAYOUT_SAMPLE_RATE",
    "fade_in",
    "fade_out",
    "ms_to_samples",
    "rms_dbfs",
    "samples_to_ms",
]

FRAME_MS = 20  # one RTP packet of every WebRTC voice client
PLAYOUT_SAMPLE_RATE = 24_000  # default playout rate: what most speech models emit and Opus codes natively
SILENCE_DBFS = -120.0  # level reported for digital silence, below anything 16 bits can hold (-90 dB)
FULL_SCALE = 32_768.0


def ms_to_samples(ms: float, rate: int) -> int:
    """Samples in `ms` milliseconds at `rate` Hz, rounded to the nearest."""
    return round(ms * rate / 1_000)


def samples_to_ms(samples: int, rate: int) -> float:
    """Milliseconds that `samples` last at `rate` Hz."""
    return samples * 1_000 / rate


def rms_dbfs(pcm: Pcm16) -> float:
    """Level of `pcm` in dB relative to full scale (a full-scale square wave is 0); SILENCE_DBFS when empty or zero."""
    if not len(pcm):
        return SILENCE_DBFS
    samples = pcm.astype(np.float32)
    power = float(np.dot(samples, samples)) / len(pcm)
    return 10 * math.log10(power / FULL_SCALE**2) if power > 0 else SILENCE_DBFS


def fade_out(pcm: Pcm16, samples: int) -> Pcm16:
    """A copy of `pcm` whose first `samples` fall linearly to zero and whose rest is zero."""
    faded = np.zeros_like(pcm)
    count = min(samples, len(pcm))
    faded[:count] = pcm[:count] * np.linspace(1.0, 0.0, count, dtype=np.float32)
    return faded


def fade_in(pcm: Pcm16, samples: int) -> Pcm16:
    """A copy of `pcm` whose first `samples` rise linearly from zero."""
    faded = pcm.copy()
    count = min(samples, len(pcm))
    faded[:count] = pcm[:count] * np.linspace(0.0, 1.0, count, dtype=np.float32)
    return faded
