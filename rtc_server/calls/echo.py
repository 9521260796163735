"""The echo test: a call that plays the caller's own audio back, with the server's media path and nothing else.

What a caller hears of it is what the line does: delay, loss, gaps. Load tests measure it; people test their line
with it. It runs the same voice detection as a conversation, so that its cost is the cost of a call.
"""

from __future__ import annotations

import asyncio

import numpy as np

from model.interface import INPUT_SAMPLE_RATE, Pcm16
from rtc_server import metrics
from rtc_server.audio.playout import PlayoutFrame
from rtc_server.audio.resample import StreamResampler
from rtc_server.config import Settings
from rtc_server.errors import ProtocolError
from rtc_server.realtime.events import EventWriter
from rtc_server.rtp.elastic import ElasticQueue
from rtc_server.transports.base import MediaTransport
from rtc_server.turns.vad import VadFactory

from .call import new_id
from .status import CallState, CallStatus

ECHO_RESPONSE_ID = "echo"


class EchoCall:
    """A `MediaSink`. Created by the registry like a `Call`; `run` carries it from set-up to the freed slot."""

    def __init__(self, call_id: str, settings: Settings, transport: MediaTransport, make_vad: VadFactory) -> None:
        self.call_id = call_id
        self.connected = asyncio.Event()
        """Set once media flows."""
        self.started_at = asyncio.get_running_loop().time()
        self.voiced_frames = 0
        """Frames of the detector's length in which it heard voice."""
        self._max_seconds = settings.server.max_call_seconds
        self._threshold = settings.turns.threshold
        self._transport = transport
        self._events = EventWriter(new_id)
        self._vad = make_vad(self._on_voice_judged)
        self._pending: list[Pcm16] = []  # input that does not fill a frame of the detector yet
        self._num_pending = 0
        self._queue = ElasticQueue(INPUT_SAMPLE_RATE, on_dry=transport.fill_input)
        self._resampler = StreamResampler(INPUT_SAMPLE_RATE, transport.playout_sample_rate)
        self._resampled = np.zeros(0, np.int16)
        self._frame_samples = transport.playout_sample_rate // 50

    async def run(self) -> str:
        """Echo until the peer, the server or the time limit ends the call. Returns the reason."""
        try:
            async with asyncio.timeout(self._max_seconds):
                return await self._transport.run(self)
        except TimeoutError:
            return "time_limit"
        finally:
            self._vad.close()
            await self._transport.close()

    async def hang_up(self, reason: str = "hangup") -> None:
        """End the call from our side; `run` returns `reason`."""
        await self._transport.close(reason)

    def status(self, now: float) -> CallStatus:
        """What an operator sees of it."""
        state: CallState = "echo" if self.connected.is_set() else "connecting"
        return CallStatus(self.call_id, now - self.started_at, state, self._transport.line)

    is_answering = False
    underruns = 0  # an echo test has no replies
    played_frames = 0

    def announce_drain(self, ends_at: float) -> None:
        """Nobody to tell: an echo test has no events."""

    # --- MediaSink

    is_behind = False

    def on_connected(self) -> None:
        self.connected.set()

    def on_channel_open(self) -> None:
        """Nothing to say: an echo test has no session."""

    def on_audio(self, pcm: Pcm16, now: float, jitter_buffer_ms: float) -> None:
        self._detect(pcm)
        self._queue.push(pcm, now)

    def on_digit(self, digit: str, now: float) -> None:
        """Nobody to tell."""

    def on_message(self, data: str | bytes, now: float) -> None:
        refusal = ProtocolError("invalid_event", "This call is an echo test; it takes no events.")
        self._transport.send_event(self._events.error(refusal))

    def pull_frame(self, now: float, lateness_seconds: float) -> PlayoutFrame:
        metrics.PLAYOUT_LATENESS.observe(lateness_seconds)
        pcm = self._queue.pull(now)
        if self._transport.playout_sample_rate != INPUT_SAMPLE_RATE:
            pcm = self._resample(pcm)
        return PlayoutFrame(pcm, ECHO_RESPONSE_ID, is_silence=not pcm.any())

    # --- inside

    def _detect(self, pcm: Pcm16) -> None:
        self._pending.append(pcm)
        self._num_pending += len(pcm)
        if self._num_pending >= self._vad.frame_samples:
            self._judge()

    def _judge(self) -> None:
        size = self._vad.frame_samples
        joined = self._pending[0] if len(self._pending) == 1 else np.concatenate(self._pending)
        judged = 0
        while judged + size <= len(joined):
            probability = self._vad.probability(joined[judged : judged + size])
            if probability is None:
                break
            self.voiced_frames += probability >= self._threshold
            judged += size
        rest = joined[judged:]
        self._pending = [rest] if len(rest) else []
        self._num_pending = len(rest)

    def _on_voice_judged(self) -> None:
        try:
            self._judge()
        except Exception as error:  # called by the batch, which judges for every other call too
            self._transport.abort(error)

    def _resample(self, pcm: Pcm16) -> Pcm16:
        """Exactly one frame at the playout rate; the resampler holds about a millisecond back at the start."""
        size = self._frame_samples
        self._resampled = np.concatenate([self._resampled, self._resampler.resample(pcm)])
        frame, self._resampled = self._resampled[:size], self._resampled[size:]
        return frame if len(frame) == size else np.concatenate([np.zeros(size - len(frame), np.int16), frame])
