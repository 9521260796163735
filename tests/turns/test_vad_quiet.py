"""The voice detector hears its stream without the noise whenever that is wanted, and gets each frame once."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.support.echo_paths import level, to_pcm, white
from model.interface import Pcm16
from rtc_server.audio.cleaning import is_cleaning_available
from rtc_server.turns.vad_quiet import QuietVoiceDetector

pytestmark = pytest.mark.skipif(not is_cleaning_available(), reason="the extra `cleaning` is not installed")

FRAME = 512


class Listener:
    """Keeps what it is asked about; answers every other time, as a batch does."""

    frame_samples = FRAME

    def __init__(self, is_late: bool = False) -> None:
        self.frames: list[Pcm16] = []
        self._is_late = is_late
        self._asked = 0

    def probability(self, frame: Pcm16) -> float | None:
        self._asked += 1
        if self._is_late and self._asked % 2:
            return None
        self.frames.append(frame.copy())
        return 0.5

    def reset(self) -> None:
        self.frames.clear()

    def close(self) -> None:
        pass

    @property
    def heard(self) -> Pcm16:
        return np.concatenate(self.frames)


def noise() -> Pcm16:
    return to_pcm(white(100 * FRAME) * 500)


def judged(detector: QuietVoiceDetector, pcm: Pcm16) -> None:
    for at in range(0, len(pcm) - FRAME + 1, FRAME):
        while detector.probability(pcm[at : at + FRAME]) is None:
            pass


def test_noise_reaches_it_only_while_it_is_not_suppressed() -> None:
    listener = Listener()
    detector = QuietVoiceDetector(listener)
    judged(detector, noise())
    np.testing.assert_array_equal(listener.heard, noise())
    detector.suppresses_noise = True
    judged(detector, noise())
    assert level(listener.heard[-20 * FRAME :]) < 0.5 * level(noise())
    detector.suppresses_noise = False
    judged(detector, noise())
    np.testing.assert_array_equal(listener.heard[-100 * FRAME :], noise())


def test_a_frame_that_waits_for_its_answer_is_suppressed_once() -> None:
    at_once, late = Listener(), Listener(is_late=True)
    for listener in (at_once, late):
        detector = QuietVoiceDetector(listener)
        detector.suppresses_noise = True
        judged(detector, noise())
    np.testing.assert_array_equal(at_once.heard, late.heard)


def test_reset_equals_new() -> None:
    listener = Listener()
    detector = QuietVoiceDetector(listener)
    detector.suppresses_noise = True
    judged(detector, noise())
    first = listener.heard
    detector.reset()
    judged(detector, noise())
    np.testing.assert_array_equal(listener.heard, first)
