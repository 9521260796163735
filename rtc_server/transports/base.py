"""The seam between a call and the wire: PCM and JSON events in, playout frames and JSON events out.

A transport owns sockets, codecs and pacing and knows nothing of turns or models; a `MediaSink` (the call) owns
everything else. Both live on one event loop, so the calls between them are plain method calls.
"""

from __future__ import annotations

from typing import Protocol

from model.interface import Pcm16
from rtc_server.audio.playout import PlayoutFrame
from rtc_server.realtime.words import Event


class MediaSink(Protocol):
    """What a transport talks to. `now` is always monotonic seconds of the event loop."""

    def on_connected(self) -> None:
        """Media can flow."""

    def on_channel_open(self) -> None:
        """Events can be sent; the server speaks first."""

    def on_audio(self, pcm: Pcm16, now: float, jitter_buffer_ms: float) -> None:
        """The next input samples, int16 mono 16 kHz, any length, `jitter_buffer_ms` after they arrived."""

    def on_message(self, data: str | bytes, now: float) -> None:
        """One message of the event channel, as the peer sent it."""

    def pull_frame(self, now: float, lateness_seconds: float) -> PlayoutFrame:
        """The next 20 ms of output at the transport's playout rate; `lateness_seconds` behind its due time."""


class MediaTransport(Protocol):
    """One peer. Created by whoever answers the peer; closed exactly once, from any state."""

    @property
    def playout_sample_rate(self) -> int:
        """Rate in Hz of the frames it pulls."""

    async def run(self, sink: MediaSink) -> str:
        """Carry media and events until the peer is gone or `close` is called. Returns the reason: one of
        "hangup", "peer_closed", "setup_timeout", "connection_failed", "client_not_reading"."""

    def fill_input(self, now: float) -> None:
        """The sink plays its input in real time and has nothing left: a frame that is missing is made up now, through
        `on_audio`. Nothing where input cannot be missing."""

    def send_event(self, event: Event) -> None:
        """Send one event; dropped when the channel is not open. A peer that does not read is disconnected."""

    def abort(self, error: Exception) -> None:
        """End the call because of a bug of ours: `run` raises `error`, which ends this call and no other."""

    async def close(self) -> None:
        """End the connection and free sockets and tasks. Idempotent; makes `run` return."""
