"""16 kHz PCM -> the log-mel features of Whisper's front end, while the audio arrives.

Each frame is computed as soon as its samples are there; what is left for the end of the turn are the last two frames,
the padding, and the clamp, which needs the loudest value of all. numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .config import read_json
from .errors import FETCH_COMMAND, ConfigurationError

PREPROCESSOR_FILE = "audio/preprocessor_config.json"
LOG_FLOOR = 1e-10
"""Smallest power that is told apart from silence."""
RANGE = 8.0
"""Decades below the loudest value at which everything is cut off."""


@dataclass(frozen=True, slots=True)
class LogMelConfig:
    """Parameters of the front end, as `audio/preprocessor_config.json` names them."""

    feature_size: int = 128
    sampling_rate: int = 16_000
    hop_length: int = 160
    n_fft: int = 400
    chunk_length: int = 30
    """Seconds to a multiple of which an utterance is padded."""

    @property
    def chunk_samples(self) -> int:
        return self.chunk_length * self.sampling_rate

    @property
    def chunk_frames(self) -> int:
        return self.chunk_samples // self.hop_length


@dataclass(frozen=True, slots=True)
class LogMel:
    """The features of one utterance."""

    features: NDArray[np.float32]
    """[mel bins, frames], padded to whole windows."""
    num_frames: int
    """Frames that begin inside the audio, one per hop (the reference's attention mask summed)."""


def read_front_end(checkpoint: Path) -> LogMelConfig:
    """From a checkpoint folder. Raises MissingFileError or ConfigurationError."""
    path = checkpoint / PREPROCESSOR_FILE
    values = read_json(path)
    if not isinstance(values, Mapping):
        raise ConfigurationError(
            f"{path} holds {type(values).__name__}; an object was expected. Run `{FETCH_COMMAND}`."
        )
    fixed = {"sampling_rate": 16_000, "n_fft": 400, "hop_length": 160, "padding_value": 0.0, "dither": 0.0}
    for key, expected in fixed.items():
        if values.get(key, expected) != expected:
            raise ConfigurationError(
                f"{path}: {key} is {values[key]!r}; this code runs {expected} only. Run `{FETCH_COMMAND}`."
            )
    return LogMelConfig(
        feature_size=_positive(path, values, "feature_size", 128),
        chunk_length=_positive(path, values, "chunk_length", 30),
    )


def _positive(path: Path, values: Mapping[str, Any], key: str, default: int) -> int:
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 1_000:
        raise ConfigurationError(
            f"{path}: {key} is {value!r}; expected a whole number from 1 to 1000. Run `{FETCH_COMMAND}`."
        )
    return value


@cache
def mel_filters(config: LogMelConfig) -> NDArray[np.float32]:
    """Triangles on Slaney's mel scale with Slaney's norm (Auditory Toolbox), [n_fft // 2 + 1, mel bins]."""
    top = config.sampling_rate / 2
    edges = _mel_to_hertz(np.linspace(0.0, _hertz_to_mel(top), config.feature_size + 2))
    bins = np.linspace(0.0, top, config.n_fft // 2 + 1)
    slopes = edges[None, :] - bins[:, None]
    widths = np.diff(edges)
    rising, falling = -slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))).astype(np.float32)


_LINEAR_TOP_HZ, _LINEAR_TOP_MEL = 1000.0, 15.0  # linear below, logarithmic above: 27 steps to a factor of 6.4
_LOG_STEP = np.log(6.4) / 27.0


def _hertz_to_mel(hertz: float) -> float:
    if hertz < _LINEAR_TOP_HZ:
        return 3.0 * hertz / 200.0
    return float(_LINEAR_TOP_MEL + np.log(hertz / _LINEAR_TOP_HZ) / _LOG_STEP)


def _mel_to_hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    above = _LINEAR_TOP_HZ * np.exp(_LOG_STEP * (mel - _LINEAR_TOP_MEL))
    return np.where(mel < _LINEAR_TOP_MEL, 200.0 * mel / 3.0, above)


class LogMelStream:
    """Features of one utterance that is still being spoken.

    `features()` may be asked for at any time, as at every pause, and more audio pushed afterwards.
    """

    def __init__(self, config: LogMelConfig) -> None:
        self._config = config
        self._half = config.n_fft // 2
        self._window = np.hanning(config.n_fft + 1)[:-1].astype(np.float32)  # periodic
        self._filters = mel_filters(config)
        self._frames: list[NDArray[np.float32]] = []  # log10 power, [frames, bins] each
        self._num_done = 0
        self._loudest = np.float32(np.log10(LOG_FLOOR))
        self._pending = np.zeros(0, np.float32)  # samples from `_start` on
        self._start = 0
        self.num_samples = 0

    def push(self, pcm: NDArray[np.int16] | NDArray[np.float32]) -> None:
        """Append samples: int16, or float32 in [-1, 1]; shape [samples], 16 kHz."""
        assert pcm.ndim == 1, pcm.shape
        samples = pcm.astype(np.float32) / np.float32(32768) if pcm.dtype == np.int16 else pcm.astype(np.float32)
        self._pending = np.concatenate((self._pending, samples))
        self.num_samples += len(samples)
        ready = max(0, (self.num_samples - self._half) // self._config.hop_length + 1)
        if ready > self._num_done and self.num_samples > self._half:  # the first frames mirror the beginning
            frames = self._compute(self._num_done, ready, self.num_samples, self.num_samples)
            self._frames.append(frames)
            self._loudest = max(self._loudest, frames.max())
            self._num_done = ready
            keep = max(0, ready * self._config.hop_length - self._half)
            self._pending = self._pending[keep - self._start :]
            self._start = keep

    def features(self, min_chunks: int = 1) -> LogMel:
        """Features of all that was pushed, padded with silence to whole chunks, at least `min_chunks` of them.

        Raises ValueError when there is no audio at all.
        """
        if self.num_samples == 0:
            raise ValueError("There is no audio to compute features of.")
        config = self._config
        chunks = max(min_chunks, -(-self.num_samples // config.chunk_samples))
        total_samples, total = chunks * config.chunk_samples, chunks * config.chunk_frames
        last = min(total, -(-(self.num_samples + self._half) // config.hop_length))  # later ones hear silence alone
        tail = self._compute(self._num_done, last, self.num_samples, total_samples)
        done = np.concatenate([*self._frames, tail])[:last]
        floor = np.maximum(self._loudest, tail.max(initial=self._loudest)) - np.float32(RANGE)
        features = np.empty((config.feature_size, total), np.float32)
        features[:, :last] = done.T
        features[:, last:] = np.log10(LOG_FLOOR)
        np.maximum(features, floor, out=features)
        features += np.float32(4)
        features /= np.float32(4)
        return LogMel(features, -(-self.num_samples // config.hop_length))

    def _compute(self, first: int, last: int, num_samples: int, end: int) -> NDArray[np.float32]:
        """log10 power of frames first..last-1, [frames, bins]; silence from `num_samples` to `end`, mirrored there."""
        config = self._config
        if last <= first:
            return np.zeros((0, config.feature_size), np.float32)
        begin = first * config.hop_length - self._half
        positions = np.arange(begin, (last - 1) * config.hop_length + self._half)
        mirrored = np.abs(positions)
        mirrored = np.where(mirrored >= end, 2 * (end - 1) - mirrored, mirrored)
        index = mirrored - self._start
        inside = (mirrored < num_samples) & (index >= 0)
        samples = np.zeros(len(positions), np.float32)
        samples[inside] = self._pending[index[inside]]
        frames = np.lib.stride_tricks.sliding_window_view(samples, config.n_fft)[:: config.hop_length]
        spectrum = np.fft.rfft(frames * self._window, axis=-1)
        power = spectrum.real**2 + spectrum.imag**2
        return np.log10(np.maximum(power @ self._filters, np.float32(LOG_FLOOR))).astype(np.float32)
