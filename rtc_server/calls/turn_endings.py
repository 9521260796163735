"""What speaks for the end of a turn under `semantic_vad`, gathered while a pause lasts. Pure."""

from __future__ import annotations

from rtc_server.realtime.session import SemanticVad, TurnDetection
from rtc_server.turns.completion import completion, transcript_completion, wait_ms


class TurnEnding:
    """The witnesses of one pause: how the turn sounds, and its words so far."""

    def __init__(self) -> None:
        self._sound: float | None = None
        self._words: float | None = None

    def forget(self) -> None:
        """Another pause, or none."""
        self._sound = self._words = None

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
