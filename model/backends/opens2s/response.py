"""One response: its request, its text, and the sound that waits for credit. The engine's core makes both."""

from __future__ import annotations

from collections import deque

import numpy as np

from model.backends.requests import AudioCredit
from model.engine.sequence import Sequence
from model.interface import AudioDelta, GenerateRequest, Pcm16, ResponseDone, ResponseStatus, TextDelta, Usage
from model.opens2s.prompt import TextDecoder

from .conversation import Prompt

# How fast replies are spoken, roughly: text and sound run side by side without marks that would tell.
CHARS_PER_SECOND = 14.0
WIDE_CHARS_PER_SECOND = 4.5
FIRST_WIDE = "\u2e80"
"""From here on a character is about a syllable: Chinese, Japanese, Korean."""


def spoken_by(text: str, seconds: float) -> int:
    """How many characters of `text` are spoken after so long, by the usual rates."""
    for count, char in enumerate(text):
        seconds -= 1 / (WIDE_CHARS_PER_SECOND if char >= FIRST_WIDE else CHARS_PER_SECOND)
        if seconds < 0:
            return count
    return len(text)


class Response:
    """What the engine's shell knows of a reply."""

    def __init__(self, request: GenerateRequest, sample_rate: int, arrival: float) -> None:
        self.request = request
        self.arrival = arrival
        self.has_started = False
        """`ResponseStarted` was sent."""
        self.is_held = request.is_held
        self.credit = AudioCredit(sample_rate, request.audio_credit_ms)
        self.text = ""
        self.prompt: Prompt | None = None
        self.sequence: Sequence | None = None
        """None until its prompt was made."""
        self.granted_ms = 0
        """Credit that came before there was a sequence to tell."""
        self.is_made = False
        """The core is done with it; sound may still wait for credit."""
        self._text_decoder: TextDecoder | None = None
        self._sample_rate = sample_rate
        self._sound: deque[Pcm16] = deque()  # decoded, not yet emitted
        self._num_waiting = 0  # samples in `_sound`
        self._num_emitted = 0
        self._text_end = 0

    @property
    def can_emit(self) -> bool:
        return bool(self._sound) and self.credit.samples > 0

    @property
    def is_over(self) -> bool:
        return self.is_made and not self._sound

    def begin(self, prompt: Prompt, sequence: Sequence, text_decoder: TextDecoder) -> None:
        self.prompt, self.sequence, self._text_decoder = prompt, sequence, text_decoder

    def grant(self, audio_ms: int, now: float) -> None:
        """More credit, because so much was played."""
        self.credit.grant(audio_ms)
        if self.sequence is not None:
            self.sequence.grant(max(0, audio_ms), now)
        else:
            self.granted_ms += max(0, audio_ms)

    def release(self, now: float) -> None:
        """No longer a guess: somebody waits for it."""
        self.is_held = False
        if self.sequence is not None:
            self.sequence.release(now)

    # --- what came of it

    def add_text(self, token: int, at: float) -> list[TextDelta]:
        assert self._text_decoder is not None
        return self._write(self._text_decoder.push(token), at)

    def add_sound(self, sound: np.ndarray) -> None:
        """Samples, float32 in [-1, 1]."""
        if len(sound):
            self._sound.append(np.clip(np.rint(sound * 32_767.0), -32_768, 32_767).astype(np.int16))
            self._num_waiting += len(sound)

    def finish_text(self, at: float) -> list[TextDelta]:
        assert self._text_decoder is not None
        return self._write(self._text_decoder.finish(), at)

    def emit(self, at: float) -> list[AudioDelta]:
        """Everything that credit allows."""
        events: list[AudioDelta] = []
        while self._sound:
            size = self.credit.piece(self._num_waiting)
            if not size:
                break
            piece = self._take(size)
            self.credit.spend(size)
            self._num_emitted += size
            events.append(AudioDelta(self.request.response_id, piece, self._spoken(), at))
        return events

    def done(self, at: float) -> ResponseDone | None:
        """The last event, once everything was emitted."""
        if not self.is_over or self.prompt is None or self.sequence is None:
            return None
        order = self.sequence.order
        status: ResponseStatus = "incomplete" if order.hit_text_limit or order.hit_unit_limit else "completed"
        usage = Usage(
            input_text_tokens=self.prompt.num_text,
            input_audio_tokens=self.prompt.num_audio,
            cached_tokens=self.sequence.num_cached,
            output_text_tokens=order.num_text,
            output_audio_tokens=order.num_units,
        )
        return ResponseDone(self.request.response_id, status, at, usage=usage)

    def close(self) -> None:
        """Drop the sound that waits."""
        self._sound.clear()
        self._num_waiting = 0

    def _write(self, text: str, at: float) -> list[TextDelta]:
        self.text += text
        return [TextDelta(self.request.response_id, text, at)] if text else []

    def _take(self, size: int) -> Pcm16:
        """`size` samples off the front."""
        self._num_waiting -= size
        pieces: list[Pcm16] = []
        while size:
            first = self._sound.popleft()
            if len(first) > size:
                self._sound.appendleft(first[size:])
                first = first[:size]
            pieces.append(first)
            size -= len(first)
        return np.concatenate(pieces)

    def _spoken(self) -> int:
        """Characters of the text that have been spoken after what was emitted: an estimate until the end."""
        if self.is_made:  # all is known but how evenly it is spoken
            spoken = len(self.text) * self._num_emitted // (self._num_emitted + self._num_waiting)
        else:
            spoken = spoken_by(self.text, self._num_emitted / self._sample_rate)
        self._text_end = max(self._text_end, spoken)
        return self._text_end
