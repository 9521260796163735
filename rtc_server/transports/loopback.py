"""The null transport: a peer inside the process, for tests and benchmarks. No sockets, no codecs."""

from __future__ import annotations

import asyncio

from model.interface import Pcm16
from rtc_server.audio.pcm import FRAME_MS, PLAYOUT_SAMPLE_RATE
from rtc_server.audio.playout import PlayoutFrame
from rtc_server.realtime.words import Event

from .base import LineStatus, MediaSink, MediaTap, TappedCodings

MAX_KEPT = 100_000  # events and frames kept for inspection; a test that needs more is a soak test


class LoopbackTransport:
    """Both ends in one object: the test speaks through `say` and `send`, and reads `events` and `frames`.

    Frames are pulled in real time, one per 20 ms, from `run` until `close`."""

    playout_sample_rate = PLAYOUT_SAMPLE_RATE
    carries_audio_in_events = False
    line = LineStatus("loopback")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.frames: list[PlayoutFrame] = []
        self._sink: MediaSink | None = None
        self._reason: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def run(self, sink: MediaSink) -> str:
        """Connect at once and pull frames until `close`."""
        loop = asyncio.get_running_loop()
        self._sink = sink
        sink.on_connected()
        sink.on_channel_open()
        due = loop.time()
        while not self._reason.done():
            now = loop.time()
            if len(self.frames) < MAX_KEPT:
                self.frames.append(sink.pull_frame(now, max(0.0, now - due)))
            due = max(due + FRAME_MS / 1e3, now)
            await asyncio.wait({self._reason}, timeout=max(0.0, due - loop.time()))
        return self._reason.result()

    def say(self, pcm: Pcm16) -> None:
        """Deliver input samples (16 kHz) now."""
        assert self._sink is not None, "run() has not been started"
        self._sink.on_audio(pcm, asyncio.get_running_loop().time(), 0.0)

    def send(self, data: str | bytes) -> None:
        """Deliver one event-channel message now."""
        assert self._sink is not None, "run() has not been started"
        self._sink.on_message(data, asyncio.get_running_loop().time())

    def fill_input(self, now: float) -> None:
        """See `MediaTransport.fill_input`: nothing is lost on the way."""

    def tap(self, tap: MediaTap | None) -> TappedCodings:
        """See `MediaTransport.tap`: there are no payloads."""
        return TappedCodings()

    def send_digits(self, digits: str, duration_ms: int, gap_ms: int) -> bool:
        """See `MediaTransport.send_digits`: there is no telephone."""
        return False

    def send_event(self, event: Event) -> None:
        if len(self.events) < MAX_KEPT:
            self.events.append(event)

    def send_audio(self, event: Event, data: bytes) -> None:
        """See `MediaTransport.send_audio`: never asked, audio is pulled."""

    def abort(self, error: Exception) -> None:
        if not self._reason.done():
            self._reason.set_exception(error)

    async def close(self, reason: str = "hangup") -> None:
        if not self._reason.done():
            self._reason.set_result(reason)
