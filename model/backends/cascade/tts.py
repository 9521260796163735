"""The voice: hibari on onnxruntime, 24 kHz. Text of one clause in, PCM without needless silence out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from model.interface import Pcm16

from .asr import make_session
from .clauses import Ending

if TYPE_CHECKING:
    from hibari import Hibari

SAMPLE_RATE = 24_000
SPEECH_LEVEL = 0.003
"""-50 dB below full scale: 35 to 40 dB below hibari's speech and far above its silence (below -90 dB)."""
KEEP_BEFORE_MS = 15
"""Kept before the first sample above SPEECH_LEVEL: the breath of an "h" or "f" begins below it."""
KEEP_AFTER_MS = 60
FADE_MS = 5
PAUSE_AFTER_MS: dict[Ending, int] = {"sentence": 260, "comma": 110, "none": 10}
"""Silence between two clauses, on top of what is kept around speech. hibari itself surrounds every clause with
240 to 330 ms before and 310 to 480 ms after it, which is latency at the start and halting speech in between."""
SPEED_RANGE = (0.25, 1.5)
"""OpenAI's. Recognised as well as the normal pace over all of it, and as long as asked for within 6 %, see
docs/experiments.md."""
WARM_UP_TEXTS = ("Hello there.", "It costs 25 dollars, and Zyxqua agrees.", "The capital of Italy is Rome.")

_UNSPOKEN = re.compile(r"[*_#`~|<>\[\]{}\\^]+")


@dataclass(frozen=True, slots=True)
class Speech:
    """The sound of one clause."""

    pcm: Pcm16
    """int16 mono at SAMPLE_RATE."""
    lead: int
    """Samples of silence before its first word."""


def voices() -> tuple[str, ...]:
    """Voices whose weights are in the package; the others would be downloaded, so they are not offered."""
    from hibari.voices import VOICES

    return tuple(name for name, voice in VOICES.items() if voice.get("bundled"))


class Voice:
    """One loaded voice. One call at a time; equal text and seed give equal samples."""

    def __init__(self, name: str, threads: int = 1) -> None:
        if name not in voices():
            raise ValueError(f"voice {name!r} is not in the package; use one of {', '.join(voices())}.")
        from hibari import Hibari

        self._hibari: Hibari = Hibari(voice=name, threads=1)
        if threads > 1:  # hibari's own session would spin
            self._hibari.sess = make_session(self._hibari.model_path, threads)

    def warm_up(self) -> None:
        """Load the lexicon, the tagger and the network for unknown words, and run everything once."""
        for text in WARM_UP_TEXTS:
            self.synthesize(text, None, 0)

    def synthesize(self, text: str, after: Ending | None, seed: int, speed: float = 1.0) -> Speech:
        """Speak one clause, at a speed inside SPEED_RANGE. `after` is how the clause before it ended, None for the
        first of a reply."""
        speech = trim(self._wave(speakable(text), seed, speed))
        if not len(speech):
            return Speech(np.zeros(0, np.int16), 0)
        pause = 0 if after is None else int(PAUSE_AFTER_MS[after] * SAMPLE_RATE / 1000 / speed)
        pcm = np.zeros(pause + len(speech), np.int16)
        pcm[pause:] = (np.clip(speech, -1.0, 1.0) * 32767.0).astype(np.int16)
        return Speech(pcm, pause)

    def _wave(self, text: str, seed: int, speed: float) -> NDArray[np.float32]:
        if speed <= 1.0:
            slow: NDArray[np.float32] = self._hibari(text, speed=speed, seed=seed)
            return slow
        # hibari makes a sound a whole number of frames long, and above 1.3 most get a single one: words are lost, and
        # 1.36 is as fast as 1.5. Leaving out frames of the normal pace keeps the words and is as fast as asked for.
        from hibari import dsp

        rng = np.random.default_rng(seed)
        parts = [np.zeros(0, np.float32)]
        for phonemes in self._hibari.phonemize(text):
            ids = self._hibari.ids(phonemes)
            if len(ids) < 3:  # only what hibari puts around the sounds
                continue
            feed = {"ids": np.array([ids], np.int64), "speed": np.ones(1, np.float32)}
            outputs = [output[0] for output in self._hibari.sess.run(None, feed)]  # five [601, F], and f0 [F]
            num_frames = outputs[0].shape[-1]
            kept = np.arange(0, num_frames, speed).astype(np.int64)
            parts.append(dsp.synth(*(np.ascontiguousarray(output[..., kept]) for output in outputs), rng))
        return np.concatenate(parts)


def speakable(text: str) -> str:
    """Text without marks that would be read out as words, such as the stars of an emphasis."""
    return " ".join(_UNSPOKEN.sub(" ", text).split())


def trim(wave: NDArray[np.float32]) -> NDArray[np.float32]:
    """wave [S] in [-1, 1] at SAMPLE_RATE -> its speech with little around it, edges faded; empty if silent."""
    loud = np.flatnonzero(np.abs(wave) > SPEECH_LEVEL)
    if not len(loud):
        return wave[:0]
    start = max(0, int(loud[0]) - KEEP_BEFORE_MS * SAMPLE_RATE // 1000)
    end = min(len(wave), int(loud[-1]) + 1 + KEEP_AFTER_MS * SAMPLE_RATE // 1000)
    speech = wave[start:end].copy()
    fade = min(FADE_MS * SAMPLE_RATE // 1000, len(speech) // 2)
    ramp = np.linspace(0.0, 1.0, fade, dtype=np.float32)
    speech[:fade] *= ramp
    speech[len(speech) - fade :] *= ramp[::-1]
    return speech
