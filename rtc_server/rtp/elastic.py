"""Between audio that comes when packets come and a reader that takes 20 ms every 20 ms. Pure: times are given in.

On a clean link it holds what has arrived since the last pull and nothing more. Jitter raises the depth it aims at, as
far as the lateness of the recent past; when the link calms, the excess is taken out, quiet frames first, so that the
delay comes back. The clocks of both sides may differ: what one gains is taken out or filled the same way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from model.interface import INPUT_SAMPLE_RATE, Pcm16

WINDOW_SECONDS = 2.0  # how far back the depth looks: jitter that was not seen for this long is over
QUIET_PEAK = 400  # frames below this (-38 dBFS) are left out without anybody hearing it
FORCED_EVERY = 10  # pulls: in speech at most one frame in this many is cut out, cross-faded
MAX_QUEUED_SECONDS = 0.5  # beyond it the oldest is dropped: the reader has stopped
FADE_MS = 5


class ElasticQueue:
    """int16 mono in pieces of any length; frames of 20 ms out."""

    def __init__(
        self, sample_rate: int = INPUT_SAMPLE_RATE, on_dry: Callable[[float], None] = lambda now: None
    ) -> None:
        """`on_dry(now)`: there is less than a frame; it may `push` one."""
        self.frame_samples = sample_rate // 50
        self.underruns = 0
        """Frames that had to be made up."""
        self.dropped_samples = 0
        """Taken out to come back to the depth aimed at."""
        self._on_dry = on_dry
        self._rate = sample_rate
        self._pieces: deque[Pcm16] = deque()
        self._queued = 0
        self._lows: deque[tuple[float, int]] = deque()  # (when, samples left after a pull), rising from the left
        self._begun: float | None = None
        self._since_cut = FORCED_EVERY
        self._fade = sample_rate * FADE_MS // 1000
        self._last = np.zeros(self.frame_samples, np.int16)
        self._silence = np.zeros(self.frame_samples, np.int16)
        self._silence.setflags(write=False)
        self._is_dry = True

    @property
    def queued_ms(self) -> float:
        """Audio that waits."""
        return self._queued * 1e3 / self._rate

    def push(self, pcm: Pcm16, now: float) -> None:
        """The next samples."""
        if not len(pcm):
            return
        self._pieces.append(pcm)
        self._queued += len(pcm)
        limit = int(MAX_QUEUED_SECONDS * self._rate)
        while self._queued > limit:
            self.dropped_samples += len(self._take(self.frame_samples))

    def pull(self, now: float) -> Pcm16:
        """The next frame, int16 [frame_samples]; made up when there is nothing: a fade, then silence.

        What `on_dry` pushes keeps the place of what is missing; what is made up here comes on top, as delay."""
        size = self.frame_samples
        if self._queued < size:
            self._on_dry(now)
        if self._queued < size:
            self._note(now, 0)
            return self._made_up()
        frame = self._take(size)
        self._since_cut += 1
        self._note(now, self._queued)
        # The least that was left after any pull of the last seconds was never needed: it is only delay.
        if self._lows[0][1] >= size and self._is_full_window(now):
            frame = self._cut(frame)
        if self._is_dry:
            self._is_dry = False
            frame = frame.copy()
            frame[: self._fade] = (frame[: self._fade] * np.linspace(0, 1, self._fade)).astype(np.int16)
        self._last = frame
        return frame

    # --- inside

    def _note(self, now: float, left: int) -> None:
        lows = self._lows
        while lows and lows[-1][1] >= left:
            lows.pop()
        lows.append((now, left))
        while lows[0][0] < now - WINDOW_SECONDS:
            lows.popleft()
        if self._begun is None:
            self._begun = now

    def _is_full_window(self, now: float) -> bool:
        return self._begun is not None and now - self._begun >= WINDOW_SECONDS

    def _cut(self, frame: Pcm16) -> Pcm16:
        """Leave one frame out: any quiet one, or now and then a loud one, cross-faded into the next."""
        following = self._peek(self.frame_samples)
        is_quiet = int(np.abs(frame).max()) < QUIET_PEAK and int(np.abs(following).max()) < QUIET_PEAK
        if not is_quiet and self._since_cut < FORCED_EVERY:
            return frame
        self._since_cut = 0
        self.dropped_samples += self.frame_samples
        self._take(self.frame_samples)
        self._lows = deque((when, max(0, left - self.frame_samples)) for when, left in self._lows)
        rise = np.linspace(0, 1, self.frame_samples, dtype=np.float32)
        mixed: Pcm16 = (frame * (1 - rise) + following * rise).astype(np.int16)
        return mixed

    def _made_up(self) -> Pcm16:
        if self._is_dry:
            return self._silence
        self._is_dry = True
        self.underruns += 1
        rest = self._take(self._queued)
        frame = np.zeros(self.frame_samples, np.int16)
        frame[: len(rest)] = rest
        if len(rest) < self._fade:  # what came before must not stop dead
            tail = self._last[-self._fade :][::-1]
            fade = (tail * np.linspace(1, 0, len(tail))).astype(np.int16)
            frame[len(rest) : len(rest) + len(fade)] = fade
        else:
            frame[len(rest) - self._fade : len(rest)] = (
                frame[len(rest) - self._fade : len(rest)] * np.linspace(1, 0, self._fade)
            ).astype(np.int16)
        return frame

    def _peek(self, samples: int) -> Pcm16:
        pieces, wanted = [], samples
        for piece in self._pieces:
            pieces.append(piece[:wanted])
            wanted -= len(pieces[-1])
            if not wanted:
                break
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _take(self, samples: int) -> Pcm16:
        pieces: list[Pcm16] = []
        wanted = min(samples, self._queued)
        self._queued -= wanted
        while wanted:
            piece = self._pieces[0]
            if len(piece) <= wanted:
                pieces.append(self._pieces.popleft())
            else:
                pieces.append(piece[:wanted])
                self._pieces[0] = piece[wanted:]
            wanted -= len(pieces[-1])
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else self._silence[:0]
