"""The outgoing track: 20 ms frames paced on the monotonic clock, recordings with silence between them.

It tells when voice left. "Sent" means handed to aiortc's RTP sender: the moment the 20 ms frame that holds the
sample is given out. Encoding and the network come after it, and are part of what the caller waits for.
"""

from __future__ import annotations

import asyncio
import fractions
from dataclasses import dataclass

import numpy as np
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame

from .recording import SAMPLE_RATE, Recording

FRAME_SAMPLES = SAMPLE_RATE // 50  # 20 ms, [960] at 48 kHz
FRAME_SECONDS = FRAME_SAMPLES / SAMPLE_RATE
MAX_BURST_FRAMES = 50  # after a longer stall time has passed unheard: timestamps jump instead of a flood of packets


@dataclass(frozen=True, slots=True, eq=False)
class Spoken:
    """A recording on its way out. The futures give monotonic seconds; they are cancelled when the track stops."""

    recording: Recording
    first_voiced_sent: asyncio.Future[float]
    """When the frame with the first voiced sample was handed over."""
    last_voiced_sent: asyncio.Future[float]
    """When the frame with the last voiced sample was handed over."""
    finished: asyncio.Future[float]
    """When the frame with the last sample was handed over."""

    def cancel(self) -> None:
        for future in (self.first_voiced_sent, self.last_voiced_sent, self.finished):
            future.cancel()


class SpeakingTrack(MediaStreamTrack):
    """Sends silence until it is told to `say` something. Pulled by aiortc's sender."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._speaking: Spoken | None = None
        self._offset = 0  # samples of the recording that were sent
        self._start: float | None = None
        self._frames = 0
        self._time_base = fractions.Fraction(1, SAMPLE_RATE)

    def say(self, recording: Recording) -> Spoken:
        """Begin with the next frame. Raises ValueError while another recording is being said."""
        if self._speaking is not None:
            raise ValueError(f"{self._speaking.recording.name} is still being said")
        loop = asyncio.get_running_loop()
        spoken = Spoken(recording, loop.create_future(), loop.create_future(), loop.create_future())
        self._speaking, self._offset = spoken, 0
        if self.readyState != "live":
            spoken.cancel()
        return spoken

    async def recv(self) -> AudioFrame:
        """The next frame, int16 mono 48 kHz, when it is due. A short stall is caught up with, as a sound card would."""
        if self.readyState != "live":
            raise MediaStreamError
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._start is None:
            self._start = now
        late_frames = int((now - self._start) / FRAME_SECONDS) - self._frames
        if late_frames > MAX_BURST_FRAMES:
            self._frames += late_frames
        await asyncio.sleep(max(0.0, self._start + self._frames * FRAME_SECONDS - now))
        frame = AudioFrame.from_ndarray(self._next_samples(loop.time()), format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        frame.pts = self._frames * FRAME_SAMPLES
        frame.time_base = self._time_base
        self._frames += 1
        return frame

    def stop(self) -> None:
        """Nothing more is sent; whoever waits for the current recording is told by cancellation."""
        super().stop()
        if self._speaking is not None:
            self._speaking.cancel()
            self._speaking = None

    def _next_samples(self, now: float) -> np.ndarray:
        samples = np.zeros((1, FRAME_SAMPLES), np.int16)
        spoken = self._speaking
        if spoken is None:
            return samples
        recording, start = spoken.recording, self._offset
        piece = recording.pcm[start : start + FRAME_SAMPLES]
        samples[0, : len(piece)] = piece
        end = self._offset = start + len(piece)
        if start <= recording.first_voiced < end:
            spoken.first_voiced_sent.set_result(now)
        if start <= recording.last_voiced < end:
            spoken.last_voiced_sent.set_result(now)
        if end == len(recording.pcm):
            spoken.finished.set_result(now)
            self._speaking = None
        return samples
