"""The seam between a call and the wire: PCM and JSON events in, playout frames and JSON events out.

A transport owns sockets, codecs and pacing and knows nothing of turns or models; a `MediaSink` (the call) owns
everything else. Both live on one event loop, so the calls between them are plain method calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

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

    def on_digit(self, digit: str, now: float) -> None:
        """The peer pressed a key: one of "0123456789*#ABCD" (RFC 4733)."""

    @property
    def is_behind(self) -> bool:
        """It has more input than it has looked at; a transport that can make its peer wait does."""

    def pull_frame(self, now: float, lateness_seconds: float) -> PlayoutFrame:
        """The next 20 ms of output at the transport's playout rate; `lateness_seconds` behind its due time."""


@dataclass(frozen=True, slots=True)
class LineStatus:
    """How a peer is connected, and how well, at one moment. None: not known, or no such thing on this transport."""

    transport: Literal["webrtc", "websocket", "loopback"]
    jitter_ms: float | None = None
    """Interarrival jitter of the caller's packets (RFC 3550 section 6.4.1)."""
    jitter_buffer_ms: float | None = None
    """How long a missing packet is waited for at present."""
    loss: float | None = None
    """Share of the caller's packets that never came, since the start of the call."""
    remote_loss: float | None = None
    """Share of our packets that the peer lost, by its latest report."""
    round_trip_ms: float | None = None


class MediaTap(Protocol):
    """Gets the audio as it passes on the wire: payloads, decrypted and in order, nothing decoded."""

    def on_received(self, payload: bytes, timestamp: int, now: float) -> None:
        """A payload of the peer; `timestamp` in ticks of its codec. What never came is left out."""

    def on_sent(self, payload: bytes, timestamp: int, now: float) -> None:
        """A payload to the peer."""


class TappedCodings(NamedTuple):
    """What a tap will get: "opus", "PCMU" or "PCMA"; None where there are no payloads that could be kept as they
    are, and only the samples of the `MediaSink` tell what was heard."""

    received: str | None = None
    sent: str | None = None


class MediaTransport(Protocol):
    """One peer. Created by whoever answers the peer; closed exactly once, from any state."""

    @property
    def playout_sample_rate(self) -> int:
        """Rate in Hz of the frames it pulls."""

    @property
    def carries_audio_in_events(self) -> bool:
        """Audio travels beside the events, in the session's formats, and the peer owns the playback: binary messages
        are input, `send_audio` is output. The frames that it pulls are only a model of the peer's playback."""

    @property
    def line(self) -> LineStatus:
        """How well the peer is connected now."""

    async def run(self, sink: MediaSink) -> str:
        """Carry media and events until the peer is gone or `close` is called. Returns the reason: that of `close`, or
        one of "peer_closed", "setup_timeout", "connection_failed", "client_not_reading"."""

    def fill_input(self, now: float) -> None:
        """The sink plays its input in real time and has nothing left: a frame that is missing is made up now, through
        `on_audio`. Nothing where input cannot be missing."""

    def tap(self, tap: MediaTap | None) -> TappedCodings:
        """`tap` gets the payloads from now on, instead of whoever got them before; None = nobody."""

    def send_digits(self, digits: str, duration_ms: int, gap_ms: int) -> bool:
        """Press keys: RFC 4733 events in place of the voice, which goes on where it was. False where the peer takes
        none. Raises ValueError for too many."""

    def send_event(self, event: Event) -> None:
        """Send one event; dropped when the channel is not open. A peer that does not read is disconnected."""

    def send_audio(self, event: Event, data: bytes) -> None:
        """Send the next bytes of a response's sound; `event` is its `response.output_audio.delta` without the `delta`.
        Only where `carries_audio_in_events`; dropped and limited like events."""

    def abort(self, error: Exception) -> None:
        """End the call because of a bug of ours: `run` raises `error`, which ends this call and no other."""

    async def close(self, reason: str = "hangup") -> None:
        """End the connection and free sockets and tasks. Idempotent; makes `run` return the first `reason`. A peer that
        can be told why is told the latest."""


class EventObserver(Protocol):
    """Somebody who follows a call's events without being its peer, and may send events: a sideband."""

    def send_event(self, event: Event) -> None:
        """Send one event. An observer that does not read is disconnected; the call goes on."""

    def end(self, reason: str) -> None:
        """The call is over."""
