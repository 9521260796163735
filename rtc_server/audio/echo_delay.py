"""How long our voice takes to come back. Pure; its only clock is the samples of the two directions.

The canceller finds an echo by itself within half a second of what was sent; this looks further, so that the canceller
can be given what was sent later."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.interface import INPUT_SAMPLE_RATE, Pcm16

RATE = 4_000  # Hz: all playout rates are multiples of it, and the vowels lie below 2 kHz
WINDOW = RATE  # samples of input that are compared, 1 s
MAX_DELAY_MS = 1_000
EVERY = RATE * 3 // 10  # samples of input between two looks, 300 ms
CERTAIN = 0.3  # correlation: echoes of the benchmark's paths have 0.3 to 0.9, other voices up to 0.2
AGREEMENT_MS = 5.0  # two looks in a row that differ by no more are believed

_PER_MS = RATE // 1_000
_HISTORY = WINDOW + MAX_DELAY_MS * _PER_MS
_FFT = 8_192


class EchoDelayFinder:
    """`sent` and `heard` take pieces of any length, each a multiple of 4 kHz samples, in the order of time."""

    def __init__(self, playout_rate: int) -> None:
        """`playout_rate` in Hz, a multiple of 4000."""
        self._sent_step = playout_rate // RATE
        self._sent = np.zeros(_HISTORY, np.float32)
        self._heard = np.zeros(WINDOW, np.float32)
        self._until_look = EVERY
        self.latest: float | None = None
        """Delay in ms by the latest look alone; None: it found none that is certain."""

    def sent(self, pcm: Pcm16) -> None:
        """The next that left, int16 mono at the playout rate."""
        _shift_in(self._sent, pcm, self._sent_step)

    def heard(self, pcm: Pcm16) -> float | None:
        """The next input, int16 mono 16 kHz -> delay of the echo in ms, now and then, when two looks agree on it."""
        _shift_in(self._heard, pcm, INPUT_SAMPLE_RATE // RATE)
        self._until_look -= len(pcm) * RATE // INPUT_SAMPLE_RATE
        if self._until_look > 0:
            return None
        self._until_look = EVERY
        before, self.latest = self.latest, self._look()
        if before is None or self.latest is None or abs(before - self.latest) > AGREEMENT_MS:
            return None
        return self.latest

    def _look(self) -> float | None:
        """Delay in ms with the greatest normalised correlation, if that is certain."""
        window = np.diff(self._heard, prepend=self._heard[:1])
        reference = np.diff(self._sent, prepend=self._sent[:1])
        energy = float(np.dot(window, window))
        # Circular, but the delays that are looked at never wrap around.
        spectrum = np.fft.rfft(reference, _FFT) * np.conj(np.fft.rfft(window, _FFT))
        correlation = np.abs(np.fft.irfft(spectrum, _FFT)[: _HISTORY - WINDOW + 1])
        squares = np.concatenate([[0.0], np.cumsum(reference.astype(np.float64) ** 2)])
        energies = squares[WINDOW:] - squares[:-WINDOW]
        floor = 1e-2 * float(energies.max(initial=0.0)) + 1.0  # where almost nothing was sent nothing comes from
        score = correlation / np.sqrt(np.maximum(energies, floor) * (energy + 1.0))
        best = int(np.argmax(score))
        return (_HISTORY - WINDOW - best) / _PER_MS if score[best] >= CERTAIN else None


def _shift_in(history: NDArray[np.float32], pcm: Pcm16, step: int) -> None:
    samples = pcm[: len(pcm) // step * step].reshape(-1, step).mean(axis=1, dtype=np.float32)[-len(history) :]
    if len(samples):
        history[: -len(samples)] = history[len(samples) :]
        history[-len(samples) :] = samples
