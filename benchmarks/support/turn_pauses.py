"""Pauses to judge, as the server meets them: ends of recordings, and the same recordings broken off in the middle."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from model.backends.cascade.asr import Recognizer
from model.interface import INPUT_SAMPLE_RATE, Pcm16
from rtc_server.turns.completion import transcript_completion
from rtc_server.turns.detector import TurnDetector, TurnDetectorConfig
from rtc_server.turns.events import SpeechPaused, SpeechResumed
from rtc_server.turns.judge import WINDOW_MS
from rtc_server.turns.smart_turn import SmartTurn
from rtc_server.turns.vad_factory import create_detector

MS = INPUT_SAMPLE_RATE // 1_000
SILENCES_MS = (100, 150, 200, 300, 400, 600, 1_000)
"""Silence in the model's view, after the end of voice."""
ROOM_RMS = 8.0  # int16 units: a quiet room behind a microphone
QUIET_MS, SILENCE_MS = 500, 2_000  # before and after a recording
BLOCK_MS = 10
DIP_DB = 12.0  # a word's end: this much below what is louder within 120 ms on both sides
DIP_APART_MS = 300
FADE_MS = 10  # a voice that stops, not a click


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause as the server meets it."""

    kind: Literal["end", "pause", "cut"]
    """The end of the utterance; a pause inside it; the utterance broken off where a word ends."""
    told_ms: float
    """Silence when the detector told of it."""
    lasts_ms: float
    """Silence until speech goes on; infinite at ends and cuts."""
    sounds: tuple[float, ...]
    """The model's answers with each of `SILENCES_MS` in view."""
    sound: float
    """Its answer to what `TurnDetector.heard` gave when the pause was told."""
    words: float
    """What the transcript says."""

    @property
    def is_end(self) -> bool:
        return self.kind == "end"


def read(path: Path) -> Pcm16:
    """int16 mono 16 kHz."""
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


def room(samples: int, seed: int) -> np.ndarray:
    """Pink noise, `ROOM_RMS` loud."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(samples))
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(1, np.arange(len(spectrum)))), samples)
    return np.asarray(noise * (ROOM_RMS / noise.std()))


class Material:
    """Makes pauses of recordings. `phase` shifts the frame grid, the noise and the level."""

    def __init__(self, models: Path, silero: Path, model: SmartTurn) -> None:
        self._recognizer = Recognizer(models)
        self._silero = silero
        self._model = model

    def pauses(self, clean: Pcm16, phase: int) -> list[Pause]:
        """All pauses of one recording at one phase."""
        before = np.zeros((QUIET_MS + 7 * phase) * MS)
        speech = np.concatenate([before, clean * 0.8**phase])
        found = self._heard(speech, phase, "end")
        if not found:
            return []
        *_, (_, _, begun, ended) = found
        pauses = [self._judged(*one) for one in found]
        for cut in dips(speech, begun + 300 * MS, ended):
            part = speech[:cut].copy()
            part[-FADE_MS * MS :] *= np.linspace(1.0, 0.0, FADE_MS * MS)
            pauses += [self._judged(*one) for one in self._heard(part, phase, "cut") if one[0].kind == "cut"]
        return pauses

    def _heard(
        self, speech: np.ndarray, phase: int, kind: Literal["end", "cut"]
    ) -> list[tuple[Pause, Pcm16, int, int]]:
        """The pauses of `speech`, unjudged, each with the whole input and where its turn and its voice lie in it."""
        padded = np.concatenate([speech, np.zeros(SILENCE_MS * MS)])
        pcm = np.clip(np.round(padded + room(len(padded), phase)), -32_768, 32_767).astype(np.int16)
        config = TurnDetectorConfig(silence_duration_ms=10_000)
        detector = TurnDetector(create_detector("gated", 2, self._silero), config)
        found: list[tuple[Pause, Pcm16, int, int]] = []
        for event in detector.receive_audio(pcm):
            if isinstance(event, SpeechPaused):
                voice_end = detector.last_voiced_sample
                begun = voice_end - len(detector.utterance())  # near enough: only what is cut later depends on it
                sound = self._model(detector.heard(WINDOW_MS))
                words = transcript_completion(self._recognizer.recognize(detector.utterance(), lambda: False) or "")
                told_ms = (event.sample - voice_end) / MS
                found.append((Pause(kind, told_ms, float("inf"), (), sound, words), pcm, begun, voice_end))
            elif isinstance(event, SpeechResumed) and found:
                pause, _, begun, voice_end = found[-1]
                lasts_ms = (event.sample - voice_end) / MS
                found[-1] = (
                    Pause("pause", pause.told_ms, lasts_ms, (), pause.sound, pause.words),
                    pcm,
                    begun,
                    voice_end,
                )
        return found

    def _judged(self, pause: Pause, pcm: Pcm16, begun: int, voice_end: int) -> Pause:
        start = max(0, begun, voice_end + SILENCES_MS[-1] * MS - WINDOW_MS * MS)
        sounds = tuple(
            self._model(pcm[start : voice_end + silence_ms * MS]) if silence_ms <= pause.lasts_ms else float("nan")
            for silence_ms in SILENCES_MS
        )
        return Pause(pause.kind, pause.told_ms, pause.lasts_ms, sounds, pause.sound, pause.words)


def dips(speech: np.ndarray, start: int, end: int) -> list[int]:
    """Samples between `start` and `end` where the level dips, as it does where words end."""
    size = BLOCK_MS * MS
    blocks = speech[: len(speech) // size * size].reshape(-1, size)
    levels = 20 * np.log10(np.sqrt((blocks**2).mean(axis=1)) + ROOM_RMS)
    levels = np.convolve(levels, np.ones(3) / 3, "same")
    found: list[int] = []
    for at in range(max(start // size, 12), end // size - 15):
        before, after = levels[at - 12 : at + 1], levels[at : at + 13]
        is_lowest = levels[at] == min(before.min(), after.min())
        is_deep = min(before.max(), after.max()) - levels[at] > DIP_DB
        if is_lowest and is_deep and (not found or at * size - found[-1] >= DIP_APART_MS * MS):
            found.append(at * size)
    return found


def endpoint_ms(steps: list[tuple[float, int]]) -> float:
    """Silence at which a turn ends. `steps`: (silence when it was decided, silence that was decided), in order."""
    steps = [*steps, (float("inf"), 0)]
    for (at_ms, wait_ms), (next_ms, _) in pairwise(steps):
        end_ms = max(at_ms, wait_ms)
        if end_ms < next_ms:
            return end_ms
    raise ValueError("a turn that was never decided about does not end")


def rank(ends: Sequence[float], others: Sequence[float]) -> float:
    """Share of pairs in which the end scores higher; ties count half. NaN without pairs."""
    pairs = [(end > other) + 0.5 * (end == other) for end in ends for other in others]
    return float(np.mean(pairs)) if pairs else float("nan")
