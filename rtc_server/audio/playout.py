"""What leaves the server and when: the queue of one reply, pulled frame by frame, and the pacing of the pulls.

Pure. Sound is counted in samples, so that `played_ms` is exact; late audio of a dead reply is refused by its id.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from model.interface import Pcm16

from .pcm import FRAME_MS, PLAYOUT_SAMPLE_RATE, fade_in, fade_out, ms_to_samples, samples_to_ms

FADE_MS = 5.0  # long enough to avoid a click, short enough not to be heard as speech
MAX_QUEUED_MS = 5_000  # credit keeps about 1 s queued; five times that means that the engine ignores its credit


@dataclass(frozen=True, slots=True)
class PlayoutFrame:
    """20 ms of output, ready for the encoder."""

    pcm: Pcm16
    """int16 [frame_samples] at the playout rate. Read-only: the silent frame is shared."""
    response_id: str | None = None
    """The reply that this frame belongs to; None for silence between replies."""
    is_first: bool = False
    """The first frame with sound of its reply."""
    is_last: bool = False
    """Nothing of its reply is left after this frame; sent exactly once unless the reply is flushed."""
    is_silence: bool = True
    """The frame is digital silence."""
    payload: bytes | None = None
    """The frame as the negotiated codec encodes it, sent as it is in place of `pcm`; None = encode `pcm`."""


@dataclass(frozen=True, slots=True)
class Flushed:
    """What was cut off by `Playout.flush`."""

    response_id: str | None
    """The reply that was playing or had just been queued; None when the playout was idle."""
    played_ms: float
    """How much of it had left."""
    heard_text_end: int | None
    """How many characters of its text were spoken by then; None when the engine did not say."""


@dataclass(slots=True)
class _Reply:
    """Queue and history of one reply. Marks are (end sample, text end), rising."""

    response_id: str
    chunks: deque[Pcm16] = field(default_factory=deque)
    offset: int = 0  # samples of chunks[0] that were pulled already
    queued: int = 0
    pushed: int = 0
    played: int = 0
    marks: list[tuple[int, int]] = field(default_factory=list)
    is_finished: bool = False
    has_started: bool = False
    is_starving: bool = False
    is_over: bool = False


class Playout:
    """One reply at a time, pulled in frames of `frame_ms`. All audio is int16 mono at `sample_rate`."""

    def __init__(
        self,
        sample_rate: int = PLAYOUT_SAMPLE_RATE,
        frame_ms: int = FRAME_MS,
        fade_ms: float = FADE_MS,
        max_queued_ms: int = MAX_QUEUED_MS,
    ) -> None:
        self.sample_rate = sample_rate
        self.frame_samples = ms_to_samples(frame_ms, sample_rate)
        self.underruns = 0
        """How often a reply ran dry before it was finished; one per starvation, not per frame."""
        self._fade = ms_to_samples(fade_ms, sample_rate)
        self._max_queued = ms_to_samples(max_queued_ms, sample_rate)
        silence = np.zeros(self.frame_samples, np.int16)
        silence.setflags(write=False)
        self._silence = silence
        self._silent_frame = PlayoutFrame(silence)  # shared: silence between replies costs no allocation
        self._reply: _Reply | None = None  # the current one, kept after its end until the next starts
        self._tail: Pcm16 | None = None  # the rest of a flushed reply, faded out: the very next frame
        self._is_paused = False
        self._needs_fade_in = False
        self._is_sounding = False  # the latest frame ended within sound: stopping there would click
        self._last_sample = 0

    @property
    def is_paused(self) -> bool:
        return self._is_paused

    @property
    def has_tail(self) -> bool:
        """The fade of a flushed reply has not been pulled yet: the next frame is it."""
        return self._tail is not None

    @property
    def is_idle(self) -> bool:
        """No reply is waiting to play or playing."""
        return self._reply is None or self._reply.is_over

    @property
    def queued_ms(self) -> float:
        """Sound that waits to be pulled."""
        return 0.0 if self._reply is None else samples_to_ms(self._reply.queued, self.sample_rate)

    def start(self, response_id: str) -> None:
        """Make `response_id` the current reply. Raises ValueError while another one is not over."""
        if not self.is_idle:
            raise ValueError(f"{response_id} cannot start: another reply is still playing")
        self._reply = _Reply(response_id)

    def push(self, response_id: str, pcm: Pcm16, text_end: int | None) -> bool:
        """Queue sound; `text_end` characters of the text are spoken at its end. False when the reply is dead.

        Raises OverflowError when more than `max_queued_ms` would wait: the engine broke its credit."""
        reply = self._reply
        if reply is None or reply.response_id != response_id or reply.is_over or reply.is_finished:
            return False
        if reply.queued + len(pcm) > self._max_queued:
            raise OverflowError("more audio is queued for playout than the engine was granted")
        reply.pushed += len(pcm)
        if len(pcm):
            reply.chunks.append(pcm)
            reply.queued += len(pcm)
        if text_end is not None:
            reply.marks.append((reply.pushed, text_end))
        return True

    def finish(self, response_id: str) -> None:
        """No more sound will come for this reply."""
        if self._reply is not None and self._reply.response_id == response_id:
            self._reply.is_finished = True

    def pull(self) -> PlayoutFrame:
        """The next frame: always full, silence when there is nothing to play."""
        if self._tail is not None:
            tail, self._tail = self._tail, None
            return PlayoutFrame(tail, is_silence=False)
        reply = self._reply
        if reply is None or reply.is_over or self._is_paused:
            return self._silent_frame
        if reply.is_finished and not reply.queued:
            self._is_sounding = False
            reply.is_over = True
            return PlayoutFrame(self._silence, reply.response_id, is_last=True)
        is_short = reply.queued < self.frame_samples and not reply.is_finished
        if is_short and (not reply.has_started or reply.is_starving):
            return PlayoutFrame(self._silence, reply.response_id)  # begin again with a whole frame, not with crumbs
        if is_short:
            self.underruns += 1
            reply.is_starving = True
        if not reply.queued:
            return PlayoutFrame(self._fade_to_silence(consume=False), reply.response_id)
        return self._voiced_frame(reply, is_short)

    def pause(self) -> None:
        """Fall silent within one fade and keep the rest."""
        if self._is_paused:
            return
        self._is_paused = True
        self._set_tail(consume=True)
        self._needs_fade_in = True

    def resume(self) -> None:
        """Go on from the exact sample where `pause` stopped."""
        self._is_paused = False

    def flush(self) -> Flushed:
        """Drop everything. Only a fade of `fade_ms` still leaves; after it not one sample of the reply does."""
        reply = self._reply
        self._set_tail(consume=False)
        self._is_paused = False
        self._needs_fade_in = False
        if reply is None or reply.is_over:
            return Flushed(None, 0.0, None)
        flushed = Flushed(reply.response_id, self.played_ms(reply.response_id), self._text_end(reply, reply.played))
        reply.chunks.clear()
        reply.queued = 0
        reply.is_over = True
        return flushed

    def played_ms(self, response_id: str) -> float:
        """How much of the current (or latest) reply has left; 0 for any other."""
        reply = self._reply
        if reply is None or reply.response_id != response_id:
            return 0.0
        return samples_to_ms(reply.played, self.sample_rate)

    def text_end_at(self, ms: float) -> int | None:
        """Characters of the current (or latest) reply's text that are spoken `ms` into it; None if unknown."""
        return None if self._reply is None else self._text_end(self._reply, ms_to_samples(ms, self.sample_rate))

    # --- inside

    def _voiced_frame(self, reply: _Reply, is_short: bool) -> PlayoutFrame:
        pcm = self._take(reply, self.frame_samples)
        is_first = not reply.has_started
        reply.has_started = True
        if is_short:
            cut = max(0, len(pcm) - self._fade)
            pcm = np.concatenate([pcm[:cut], fade_out(pcm[cut:], self._fade)])
        elif reply.is_starving:
            reply.is_starving = False
            self._needs_fade_in = True
        if self._needs_fade_in:
            pcm = fade_in(pcm, self._fade)
            self._needs_fade_in = False
        self._is_sounding = len(pcm) == self.frame_samples
        self._last_sample = int(pcm[-1])
        if len(pcm) < self.frame_samples:
            pcm = np.concatenate([pcm, self._silence[len(pcm) :]])
        reply.is_over = reply.is_finished and not reply.queued
        if reply.is_over:
            self._is_sounding = False
        return PlayoutFrame(pcm, reply.response_id, is_first, is_last=reply.is_over, is_silence=False)

    def _take(self, reply: _Reply, samples: int) -> Pcm16:
        pieces: list[Pcm16] = []
        wanted = min(samples, reply.queued)
        while wanted:
            chunk = reply.chunks[0]
            piece = chunk[reply.offset : reply.offset + wanted]
            pieces.append(piece)
            wanted -= len(piece)
            reply.offset += len(piece)
            reply.queued -= len(piece)
            reply.played += len(piece)
            if reply.offset == len(chunk):
                reply.chunks.popleft()
                reply.offset = 0
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _set_tail(self, *, consume: bool) -> None:
        if self._is_sounding:  # otherwise the latest frame, or the tail that waits already, ends in silence
            self._tail = self._fade_to_silence(consume=consume)

    def _fade_to_silence(self, *, consume: bool) -> Pcm16:
        """A frame that fades out what would have come (the last sample, if nothing waits); all silence when the
        latest frame ended in silence."""
        reply = self._reply
        if not self._is_sounding or reply is None:
            return self._silence
        self._is_sounding = False
        if not reply.queued:
            rest = np.full(self._fade, self._last_sample, np.int16)
        elif consume:
            rest = self._take(reply, self._fade)
        else:
            rest = reply.chunks[0][reply.offset :][: self._fade]
        frame = np.zeros(self.frame_samples, np.int16)
        frame[: len(rest)] = fade_out(rest, len(rest))
        return frame

    @staticmethod
    def _text_end(reply: _Reply, sample: int) -> int | None:
        if not reply.marks:
            return None
        start_sample, start_text = 0, 0
        for end_sample, end_text in reply.marks:
            if sample < end_sample:
                share = (sample - start_sample) / (end_sample - start_sample)
                return start_text + int(share * (end_text - start_text))
            start_sample, start_text = end_sample, end_text
        return start_text


class PlayoutPacer:
    """When the next frame is due: one per `frame_ms` from the first call on, on a monotonic clock. Pure.

    After a stall longer than `max_late_frames` it skips ahead: timestamps follow time, nothing is sent in a burst."""

    def __init__(self, frame_ms: int = FRAME_MS, max_late_frames: int = 3) -> None:
        self._frame_seconds = frame_ms / 1_000
        self._max_late_frames = max_late_frames
        self._next: float | None = None

    def next_due(self, now: float) -> tuple[float, int]:
        """(when the next frame is due in monotonic seconds, how many frames were skipped before it)."""
        if self._next is None:
            self._next = now
        skipped = 0
        late_frames = int((now - self._next) / self._frame_seconds)
        if late_frames > self._max_late_frames:
            skipped = late_frames
            self._next += skipped * self._frame_seconds
        due = self._next
        self._next += self._frame_seconds
        return due, skipped
