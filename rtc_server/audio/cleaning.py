"""What one call hears, cleaned: the echo of our own voice taken out (`EchoCanceller`), noise (`NoiseSuppressor`).

WebRTC's own audio processing (AEC3 and its noise suppressor) does the work, out of the optional package `livekit`: the
one maintained build of it with wheels for every Python here. Nothing else of LiveKit is used: no room, no connection.
"""

from __future__ import annotations

from collections import deque
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from model.interface import INPUT_SAMPLE_RATE, Pcm16

from .echo_delay import EchoDelayFinder
from .pcm import rms_dbfs

if TYPE_CHECKING:
    from livekit.rtc.apm import AudioProcessingModule
    from livekit.rtc.audio_frame import AudioFrame

PIECE = INPUT_SAMPLE_RATE // 100  # samples: what the library takes, 10 ms
CANCELLER_DELAY = PIECE  # samples by which what the canceller gives is late: its bands overlap
SUPPRESSOR_DELAY = PIECE + 130  # samples: up to a piece waits for its other samples, and the suppressor's own 8 ms
AUDIBLE_DBFS = -55.0  # quieter than this nothing can come back above the voice detector's threshold
MAX_CANCELLED_MS = 450  # the canceller looks for an echo no later than about 500 ms
MIN_LEFT_MS = 20  # before that what is held back would come after its echo
HELD_DELAY_MS = 200  # what it is left to find of a later one: room for a path that changes
SETTLED_PIECES = 100  # it has learned a path within a second
ECHO_PIECES = 180  # after the last audible piece, while its echo may come: 1 s of path, 0.8 s of room
JITTER_PIECES = 20  # input may come this much early or late, 200 ms, before the two clocks are brought together again
MAX_MADE_UP_PIECES = 50  # silence put in their place at once, 500 ms: 3 ms of processor time
EMPTY = np.zeros(0, np.int16)
_FADE: NDArray[np.float32] = np.linspace(0.0, 1.0, PIECE, dtype=np.float32)


def is_cleaning_available() -> bool:
    """The optional package is installed. Looks, but does not load it: see `load`."""
    return find_spec("livekit") is not None and find_spec("livekit.rtc") is not None


def load() -> None:
    """Load the library now rather than in the middle of a call: 0.2 s and 40 MB. Raises ImportError."""
    NoiseSuppressor()


class EchoCanceller:
    """Takes what was sent out of what is heard, for one call: `sent` follows the frame clock (every frame, silent ones
    included), `clean` follows the input. While no echo can come the input passes unchanged, just as late."""

    def __init__(self, playout_rate: int) -> None:
        """`playout_rate` in Hz, of the frames that `sent` is told. Raises ImportError where the package is missing."""
        from livekit.rtc.apm import AudioProcessingModule

        self._playout_rate = playout_rate
        self._processing = AudioProcessingModule(echo_cancellation=True)
        self._rest = EMPTY  # of the input, less than a piece
        self._late = np.zeros(PIECE, np.int16)  # the piece before, as it was heard
        self._finder = EchoDelayFinder(playout_rate)
        self._held: deque[Pcm16] = deque()  # pieces sent that the canceller is given later: the echo is that late
        self._num_held = 0  # how many of them there are to be
        self._until_settled = 0  # pieces for which the canceller does not have the echo, and would only spoil it
        self._audible = 0  # pieces for which an echo may still come
        self._was_cleaned = False
        self._ahead = 0  # pieces sent less pieces heard, since the first that was heard
        self._has_heard = False

    def sent(self, pcm: Pcm16) -> None:
        """The next frame that left, int16 mono at the playout rate, a multiple of 10 ms."""
        if pcm.any() and rms_dbfs(pcm) > AUDIBLE_DBFS:
            self._audible = ECHO_PIECES
        size = self._playout_rate // 100
        for at in range(0, len(pcm) - size + 1, size):
            self._finder.sent(pcm[at : at + size])
            self._held.append(pcm[at : at + size])
            self._ahead += self._has_heard
            if len(self._held) <= self._num_held:
                self._give(np.zeros(size, np.int16))
            while len(self._held) > self._num_held:
                self._give(self._held.popleft())

    def _give(self, piece: Pcm16) -> None:
        self._processing.process_reverse_stream(_frame(piece, self._playout_rate))

    def clean(self, pcm: Pcm16) -> Pcm16:
        """The next input, int16 mono 16 kHz, any number of samples -> the same stream `CANCELLER_DELAY` later and
        cleaned, less a rest of under 10 ms that waits for its other samples (packets of 20 ms leave none)."""
        joined = np.concatenate([self._rest, pcm]) if len(self._rest) else pcm
        end = len(joined) // PIECE * PIECE
        self._rest = joined[end:].copy()
        if not end:
            return EMPTY
        return np.concatenate([self._next(joined[at : at + PIECE]) for at in range(0, end, PIECE)])

    def close(self) -> Pcm16:
        """What waits inside, uncleaned: nothing of the input is lost when cancelling ends."""
        rest = np.concatenate([self._late, self._rest]) if self._has_heard else self._rest
        self._rest, self._has_heard = EMPTY, False
        return rest

    def _next(self, piece: Pcm16) -> Pcm16:
        if abs(self._ahead) > JITTER_PIECES:
            self._bring_clocks_together()
        if self._audible:
            self._follow(self._finder.heard(piece))
        cleaned = _processed(self._processing, piece)
        self._has_heard = True
        self._ahead -= 1
        late, self._late = self._late, piece.copy()
        wants_cleaned, had_cleaned = self._audible > 0 and not self._until_settled, self._was_cleaned
        self._until_settled = max(0, self._until_settled - 1)
        self._audible, self._was_cleaned = max(0, self._audible - 1), wants_cleaned
        if wants_cleaned and had_cleaned:
            return cleaned
        if not wants_cleaned and not had_cleaned:
            return late
        fade = _FADE if wants_cleaned else 1.0 - _FADE
        return np.round(cleaned * fade + late * (1.0 - fade)).astype(np.int16)

    def _follow(self, delay_ms: float | None) -> None:
        """Hold back what was sent when its echo is too late for the canceller, and no longer when it is not."""
        if self._is_out_of_reach(self._finder.latest):
            self._until_settled = SETTLED_PIECES  # an echo as it is: the echo guard recognises it better
        if delay_ms is not None and self._is_out_of_reach(delay_ms):
            late = delay_ms > MAX_CANCELLED_MS
            self._num_held = round((delay_ms - HELD_DELAY_MS) / 10) if late else 0

    def _is_out_of_reach(self, delay_ms: float | None) -> bool:
        if delay_ms is None:
            return False
        left_ms = delay_ms - 10 * self._num_held
        return left_ms > MAX_CANCELLED_MS or (self._num_held > 0 and left_ms < MIN_LEFT_MS)

    def _bring_clocks_together(self) -> None:
        """The canceller takes both directions for streams without holes. Where one has stood still, silence is put in
        its place, so that the echo stays where the canceller has found it; after a longer gap it looks for it again."""
        missing, self._ahead = self._ahead, 0
        if missing > 0:
            for _ in range(min(missing, MAX_MADE_UP_PIECES)):
                _processed(self._processing, np.zeros(PIECE, np.int16))
        else:
            silence = np.zeros(self._playout_rate // 100, np.int16)
            for _ in range(min(-missing, MAX_MADE_UP_PIECES)):
                self._give(silence)


class NoiseSuppressor:
    """Takes steady noise out of one stream, for whoever judges it: recognition gets worse by it (docs)."""

    def __init__(self) -> None:
        """Raises ImportError where the package is missing."""
        from livekit.rtc.apm import AudioProcessingModule

        self._processing = AudioProcessingModule(noise_suppression=True)
        self._rest = EMPTY
        self._ready = np.zeros(PIECE, np.int16)  # what fills a frame while less than a piece waits

    def suppress(self, pcm: Pcm16) -> Pcm16:
        """The next input, int16 mono 16 kHz -> as many samples, `SUPPRESSOR_DELAY` late."""
        joined = np.concatenate([self._rest, pcm])
        end = len(joined) // PIECE * PIECE
        self._rest = joined[end:]
        done = [_processed(self._processing, joined[at : at + PIECE]) for at in range(0, end, PIECE)]
        ready = np.concatenate([self._ready, *done])
        self._ready = ready[len(pcm) :]
        return ready[: len(pcm)]


def _processed(processing: AudioProcessingModule, piece: Pcm16) -> Pcm16:
    frame = _frame(piece, INPUT_SAMPLE_RATE)
    processing.process_stream(frame)
    return np.frombuffer(bytes(frame.data), np.int16)


def _frame(piece: Pcm16, sample_rate: int) -> AudioFrame:
    from livekit.rtc.audio_frame import AudioFrame

    return AudioFrame(bytearray(piece.tobytes()), sample_rate, 1, len(piece))  # a copy: it is changed in place
