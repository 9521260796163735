"""Smart Turn v3.2: how complete does the end of a turn sound? 8 MB of ONNX, about 30 ms of one core. Pure.

The model is a small Whisper encoder with one output. It takes 8 s: what is shorter is padded on the left, so that the
end of the turn is where the window ends. Its features are Whisper's: log-mel, 80 bands, 10 ms steps.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from model.interface import INPUT_SAMPLE_RATE, Pcm16

from .judge import WINDOW_MS
from .onnx_session import load_session

WINDOW = WINDOW_MS * INPUT_SAMPLE_RATE // 1_000
FRAME = 400  # samples, 25 ms
HOP = 160
NUM_MELS = 80
POWER_FLOOR = 1e-10
RANGE_LOG10 = 8.0  # what is 80 dB below the loudest point of the window is as good as silent
VARIANCE_FLOOR = 1e-7
# The mel scale of Slaney's Auditory Toolbox: linear up to 1 kHz, logarithmic above.
LINEAR_HZ_PER_MEL = 200.0 / 3.0
KNEE_HZ = 1_000.0
KNEE_MEL = KNEE_HZ / LINEAR_HZ_PER_MEL
LOG_STEP = np.log(6.4) / 27.0


class SmartTurn:
    """A `TurnModel`. No state between calls; one session for all of a process."""

    def __init__(self, path: Path) -> None:
        self._session = load_session(path)

    def __call__(self, pcm: Pcm16) -> float:
        """pcm [S] int16 at 16 kHz, the last 8 s count -> probability that the turn is complete. What silence the turn
        ends with should be in it: 120 to 150 ms was best (docs/experiments.md)."""
        features = log_mel(pcm)[None]  # [80, 800] -> [1, 80, 800]
        (output,) = self._session.run(None, {"input_features": features})
        return min(1.0, max(0.0, float(output[0, 0])))


def log_mel(pcm: Pcm16) -> NDArray[np.float32]:
    """pcm [S] int16 at 16 kHz -> float32 [80, 800], Whisper's features of the last 8 s, about -1 to 1."""
    assert pcm.ndim == 1, pcm.shape
    assert pcm.dtype == np.int16, pcm.dtype
    window = np.zeros(WINDOW, np.float32)
    pcm = pcm[-WINDOW:]
    if len(pcm):
        window[-len(pcm) :] = pcm
    window /= 32_768.0
    window = (window - window.mean()) / np.sqrt(window.var() + VARIANCE_FLOOR)
    centred = np.pad(window.astype(np.float64), FRAME // 2, mode="reflect")
    frames = sliding_window_view(centred, FRAME)[::HOP][:-1]  # [800, 400]; the frame around the very end is not used
    spectrum = np.fft.rfft(frames * _HANN)  # [800, 201]
    power = spectrum.real**2 + spectrum.imag**2
    levels = np.log10(np.maximum(POWER_FLOOR, _MEL_BANDS @ power.T))  # [80, 800]
    features: NDArray[np.float64] = (np.maximum(levels, levels.max() - RANGE_LOG10) + 4.0) / 4.0
    return features.astype(np.float32)


def _mel_bands() -> NDArray[np.float64]:
    """[80, 201]: triangles of equal area, evenly spaced on the mel scale from 0 to 8 kHz."""
    top_mel = KNEE_MEL + np.log(INPUT_SAMPLE_RATE / 2 / KNEE_HZ) / LOG_STEP
    mels = np.linspace(0.0, top_mel, NUM_MELS + 2)
    above = KNEE_HZ * np.exp(LOG_STEP * np.maximum(0.0, mels - KNEE_MEL))
    corners = np.where(mels < KNEE_MEL, mels * LINEAR_HZ_PER_MEL, above)[:, None]  # [82, 1] Hz
    bins = np.linspace(0.0, INPUT_SAMPLE_RATE / 2, FRAME // 2 + 1)  # [201] Hz
    low, centre, high = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    bands: NDArray[np.float64] = np.maximum(0.0, np.minimum(rising, falling)) * 2.0 / (high - low)
    return bands


_HANN = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)
_MEL_BANDS = _mel_bands()
