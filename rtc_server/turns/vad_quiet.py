"""A voice detector that hears its stream without the noise; nobody else hears it so (recognition would suffer)."""

from __future__ import annotations

from model.interface import Pcm16
from rtc_server.audio.cleaning import NoiseSuppressor

from .vad import VoiceDetector


class QuietVoiceDetector:
    """In front of `main`. What `main` judges is `SUPPRESSOR_DELAY` samples old while noise is suppressed."""

    def __init__(self, main: VoiceDetector) -> None:
        self.frame_samples = main.frame_samples
        self._main = main
        self._suppressor: NoiseSuppressor | None = None
        self._waiting: Pcm16 | None = None  # a frame that `main` has not answered yet, suppressed

    @property
    def suppresses_noise(self) -> bool:
        """Set it at any time. Setting it to True raises ImportError where the optional package is missing."""
        return self._suppressor is not None

    @suppresses_noise.setter
    def suppresses_noise(self, is_wanted: bool) -> None:
        if is_wanted != self.suppresses_noise:
            self._suppressor = NoiseSuppressor() if is_wanted else None

    def probability(self, frame: Pcm16) -> float | None:
        """See `VoiceDetector`."""
        if self._waiting is None:
            self._waiting = frame if self._suppressor is None else self._suppressor.suppress(frame)
        probability = self._main.probability(self._waiting)
        if probability is not None:
            self._waiting = None
        return probability

    def reset(self) -> None:
        """See `VoiceDetector`."""
        self._main.reset()
        self._waiting = None
        if self._suppressor is not None:
            self._suppressor = NoiseSuppressor()

    def close(self) -> None:
        """See `VoiceDetector`."""
        self._main.close()
