"""What speaks for the end of a turn under `semantic_vad`, gathered while a pause lasts. Pure."""

from __future__ import annotations

from rtc_server.realtime.session import SemanticVad, TurnDetection
from rtc_server.turns.completion import completion, transcript_completion, wait_ms
from rtc_server.turns.detector import TurnDetector
from rtc_server.turns.judge import WINDOW_MS

from .intents import JudgeTurn, Outbox, StopJudging


class TurnEnding:
    """The witnesses of one pause: how the turn sounds, and its words so far."""

    def __init__(self, detector: TurnDetector, outbox: Outbox) -> None:
        self._detector = detector
        self._outbox = outbox
        self._sound: float | None = None
        self._words: float | None = None

    def ask(self, detection: TurnDetection | None) -> None:
        """A pause has begun: let the turn model hear it, where pauses are judged."""
        if isinstance(detection, SemanticVad):
            self._outbox.add(JudgeTurn(self._detector.heard(WINDOW_MS)))

    def forget(self, detection: TurnDetection | None) -> None:
        """The pause is over."""
        self._sound = self._words = None
        if isinstance(detection, SemanticVad):
            self._outbox.add(StopJudging())

    def on_sound(self, probability: float) -> None:
        """A turn model thinks so."""
        self._sound = probability

    def on_words(self, text: str) -> None:
        """The turn was recognised as far as it goes."""
        self._words = transcript_completion(text)

    def silence_ms(self, detection: TurnDetection | None) -> int | None:
        """The silence that ends the turn as things stand; None where the configuration has a fixed one."""
        if not isinstance(detection, SemanticVad):
            return None
        return wait_ms(detection.eagerness, completion(self._sound, self._words))
