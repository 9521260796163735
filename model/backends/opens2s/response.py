"""One response in the engine: its request, its tokens, its decoder and the sound that waits for credit."""

from __future__ import annotations

from collections import deque

import numpy as np
from torch import Tensor

from model.backends.requests import AudioCredit
from model.decoder.chunks import HEARD_SHARE, ChunkPlan
from model.decoder.live_stream import LiveStream
from model.interface import AudioDelta, GenerateRequest, Pcm16, ResponseDone, ResponseStatus, TextDelta, Usage
from model.opens2s.lanes import LanePair
from model.opens2s.prompt import TextDecoder
from model.opens2s.reply import Reply

from .conversation import Prompt

# How fast replies are spoken, roughly: text and sound run side by side without marks that would tell.
CHARS_PER_SECOND = 14.0
WIDE_CHARS_PER_SECOND = 4.5
FIRST_WIDE = "\u2e80"
"""From here on a character is about a syllable: Chinese, Japanese, Korean."""
AHEAD_MS = 500
"""Sound that is kept ready beyond the credit, so that it is there when credit comes."""


def spoken_by(text: str, seconds: float) -> int:
    """How many characters of `text` are spoken after so long, by the usual rates."""
    for count, char in enumerate(text):
        seconds -= 1 / (WIDE_CHARS_PER_SECOND if char >= FIRST_WIDE else CHARS_PER_SECOND)
        if seconds < 0:
            return count
    return len(text)


class Response:
    """Moved on by the engine, one bounded piece of work at a time."""

    def __init__(self, request: GenerateRequest, sample_rate: int) -> None:
        self.request = request
        self.credit = AudioCredit(sample_rate, request.audio_credit_ms)
        self.reply: Reply | None = None
        """None until all of the prompt's audios are embedded."""
        self.stream: LiveStream | None = None
        self.lanes: LanePair | None = None
        """Those of the engine's pool that it uses; to be given back."""
        self.text = ""
        self.prompt: Prompt | None = None
        self.embedded: list[Tensor] = []
        """The first of the prompt's audios, as the model hears them."""
        self._text_decoder: TextDecoder | None = None
        self._sample_rate = sample_rate
        self._units: list[int] = []  # not yet decoded
        self._sound: deque[Pcm16] = deque()  # decoded, not yet emitted
        self._num_waiting = 0  # samples in `_sound`
        self._num_emitted = 0
        self._num_units = 0
        self._text_end = 0
        self._granted_ms = 0  # beyond the first credit
        self._is_decoded = request.output != "audio"

    # --- what there is to do

    @property
    def speaks(self) -> bool:
        return self.request.output == "audio"

    @property
    def can_emit(self) -> bool:
        return bool(self._sound) and self.credit.samples > 0

    @property
    def wants_compute(self) -> bool:
        """There is something to compute, and the sound of it has a place to wait."""
        if self.reply is None:
            return True
        if self.reply.is_done and self._is_decoded:
            return False
        return self._num_waiting <= self._ahead_samples

    @property
    def produced_ms(self) -> float:
        """Sound made so far."""
        return (self._num_emitted + self._num_waiting) * 1000 / self._sample_rate

    @property
    def ahead_ms(self) -> float:
        """Sound made and not yet heard, as far as is known: credit is granted as sound is played. Who has the least
        needs the next piece of work most. Replies without sound come after those that are about to run out."""
        return self.produced_ms - self._granted_ms if self.speaks else AHEAD_MS

    @property
    def _ahead_samples(self) -> int:
        return max(0, self.credit.samples) + AHEAD_MS * self._sample_rate // 1000

    def units_to_decode(self, plan: ChunkPlan) -> int | None:
        """How many units the decoder takes now, 0 for the end of the reply alone; None: first make more tokens.

        Depends on nothing but the tokens, so that equal requests sound equal (`HEARD_SHARE`)."""
        assert self.reply is not None
        if self._is_decoded:
            return None
        is_final = self.reply.is_done
        num_decoded = self._num_units - len(self._units)
        units = plan.next_units(num_decoded, len(self._units), (1 - HEARD_SHARE) * self.produced_ms, is_final)
        return units if units or is_final else None

    def grant(self, audio_ms: int) -> None:
        """More credit, because so much was played."""
        self.credit.grant(audio_ms)
        self._granted_ms += max(0, audio_ms)

    # --- what came of it

    def begin(self, reply: Reply, stream: LiveStream | None, text_decoder: TextDecoder) -> None:
        self.reply, self.stream, self._text_decoder = reply, stream, text_decoder
        self.embedded = []

    def add_text(self, token: int, at: float) -> list[TextDelta]:
        assert self._text_decoder is not None
        return self._write(self._text_decoder.push(token), at)

    def add_unit(self, code: int) -> None:
        self._units.append(code)
        self._num_units += 1

    def take_units(self, count: int) -> list[int]:
        taken, self._units = self._units[:count], self._units[count:]
        return taken

    def add_sound(self, sound: np.ndarray, is_final: bool) -> None:
        """Samples, float32 in [-1, 1]."""
        if len(sound):
            self._sound.append(np.clip(np.rint(sound * 32_767.0), -32_768, 32_767).astype(np.int16))
            self._num_waiting += len(sound)
        self._is_decoded = self._is_decoded or is_final

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
        if self.prompt is None or self.reply is None or not self.reply.is_done or not self._is_decoded or self._sound:
            return None
        order = self.reply.order
        status: ResponseStatus = "incomplete" if order.hit_text_limit or order.hit_unit_limit else "completed"
        usage = Usage(
            input_text_tokens=self.prompt.num_text,
            input_audio_tokens=self.prompt.num_audio,
            output_text_tokens=order.num_text,
            output_audio_tokens=order.num_units,
        )
        return ResponseDone(self.request.response_id, status, at, usage=usage)

    def close(self) -> None:
        """Free everything that takes memory."""
        if self.stream is not None:
            self.stream.close()
        self.reply = self.stream = self.lanes = None
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
        assert self.reply is not None
        if self.reply.is_done and self._is_decoded:  # all is known but how evenly it is spoken
            spoken = len(self.text) * self._num_emitted // (self._num_emitted + self._num_waiting)
        else:
            spoken = spoken_by(self.text, self._num_emitted / self._sample_rate)
        self._text_end = max(self._text_end, spoken)
        return self._text_end
