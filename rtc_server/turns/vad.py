"""Is there a voice in this frame? The interface, and a detector by level for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from model.interface import Pcm16
from rtc_server.audio.pcm import rms_dbfs


class VoiceDetector(Protocol):
    """Judges frames of one stream in order. One instance per call."""

    @property
    def frame_samples(self) -> int:
        """Length of the frames it takes, samples at 16 kHz."""

    def probability(self, frame: Pcm16) -> float | None:
        """Probability of voice in the next frame, int16 [frame_samples] -> 0.0 to 1.0.

        None: the frame waits to be judged together with those of other calls. Its owner is told when the answer is
        there (the callback of the `VadFactory`), and asks for the same frame again before any other.

        Raises ValueError for a frame of another length."""

    def reset(self) -> None:
        """Forget the past, a frame that waits included: the next frame begins a new stream."""

    def close(self) -> None:
        """The stream is over: nobody is told anything any more. Idempotent."""


VadFactory: TypeAlias = Callable[[Callable[[], None]], VoiceDetector]
"""Makes the detector of one call; the argument is called when an answer that was waited for is there."""


class EnergyVoiceDetector:
    """Voice is whatever is louder than a threshold. For tests: it knows no speech from noise."""

    def __init__(self, threshold_dbfs: float = -40.0, frame_samples: int = 320) -> None:
        self.frame_samples = frame_samples
        self._threshold_dbfs = threshold_dbfs

    def probability(self, frame: Pcm16) -> float:
        """See `VoiceDetector`; 1.0 or 0.0."""
        check_length(frame, self.frame_samples)
        return 1.0 if rms_dbfs(frame) > self._threshold_dbfs else 0.0

    def reset(self) -> None:
        """Nothing is remembered."""

    def close(self) -> None:
        """Nothing is held."""


def check_length(frame: Pcm16, expected: int) -> None:
    """Raises ValueError unless `frame` has `expected` samples: a wrong frame must never pass for silence."""
    if len(frame) != expected:
        raise ValueError(f"the voice detector takes frames of {expected} samples, not {len(frame)}")
