"""Sound to test with: the recordings in `tests/data/speech`, noise, and level arithmetic. All int16 mono, 16 kHz."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from model.interface import INPUT_SAMPLE_RATE, Pcm16
from model.weights import SILERO_VAD, default_models_dir

SPEECH_DIR = Path(__file__).parent.parent / "data" / "speech"
RECORDINGS = sorted(path.stem for path in SPEECH_DIR.glob("*.wav"))


def recording(name: str) -> Pcm16:
    """`tests/data/speech/<name>.wav`."""
    with wave.open(str(SPEECH_DIR / f"{name}.wav")) as file:
        assert file.getframerate() == INPUT_SAMPLE_RATE
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


def silence(ms: float) -> Pcm16:
    return np.zeros(round(ms * INPUT_SAMPLE_RATE / 1_000), np.int16)


def pink_noise(samples: int, rms: float, seed: int = 1) -> NDArray[np.float64]:
    """Noise with the spectrum of rooms and streets, `rms` in int16 units."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(samples))
    spectrum /= np.sqrt(np.maximum(1, np.arange(len(spectrum))))
    noise = np.fft.irfft(spectrum, samples)
    return noise * (rms / noise.std())


def rms(pcm: NDArray[np.generic]) -> float:
    return float(np.sqrt((pcm.astype(np.float64) ** 2).mean()))


def to_pcm(samples: NDArray[np.floating]) -> Pcm16:
    """Clipped to int16."""
    return np.clip(samples, -32_768, 32_767).astype(np.int16)


def voiced_range(pcm: Pcm16) -> tuple[int, int]:
    """(first, end) sample of the voice by level alone: 5 ms blocks, two of three in a row. It begins within 18 dB of
    the loud blocks (quieter is breath and room) and ends within 30 dB of them (voices fade)."""
    block = 80
    blocks = pcm[: len(pcm) // block * block].reshape(-1, block).astype(np.float64)
    level = 10 * np.log10((blocks**2).mean(axis=1) + 1)
    peak = np.percentile(level, 95)
    begun, lasting = level > peak - 18, level > peak - 30
    first = next(i for i in range(len(level) - 2) if begun[i] and begun[i : i + 3].sum() >= 2)
    last = next(i for i in range(len(level) - 1, 1, -1) if lasting[i] and lasting[i - 2 : i + 1].sum() >= 2)
    return first * block, (last + 1) * block


def silero_path() -> Path:
    """The Silero model of the models folder; skips the test where nobody has fetched it."""
    path = default_models_dir() / SILERO_VAD
    if not path.exists():
        pytest.skip("the voice detector's model is missing; run `rtc-server models fetch`")
    return path
