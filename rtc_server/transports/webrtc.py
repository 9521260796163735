"""One WebRTC peer over aiortc: Opus in and out, the `oai-events` data channel, set-up and loss of the connection.

Receive buffer and codecs are aiortc's own; the seams that replace parts of it live in `aiortc_seams`.
"""

from __future__ import annotations

import asyncio
import fractions
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame, AudioResampler

from model.interface import INPUT_SAMPLE_RATE, Pcm16
from rtc_server.audio.pcm import FRAME_MS
from rtc_server.audio.playout import PlayoutPacer
from rtc_server.errors import InvalidSdpError
from rtc_server.realtime.events import Event

from .aiortc_seams import ArrivalClock, host_addresses
from .base import MediaSink
from .sdp import Offer

log = logging.getLogger(__name__)

CHANNEL_LABEL = "oai-events"
PLAYOUT_SAMPLE_RATE = 48_000  # Opus' own rate: any other costs aiortc's encoder one frame of resampler delay
FRAME_SAMPLES = PLAYOUT_SAMPLE_RATE * FRAME_MS // 1000
MAX_UNREAD_BYTES = 256 * 1024  # a client this far behind on events (minutes of captions) is not reading any more


@dataclass(frozen=True, slots=True)
class WebRtcOptions:
    """How peers are reached."""

    host_addresses: Sequence[str] = ()
    """Addresses to offer as ICE host candidates; empty = all of this machine."""
    ice_servers: Sequence[str] = ()
    setup_timeout_seconds: float = 15.0


class WebRtcTransport:
    """A `MediaTransport`. `answer` once, then `run` until the peer is gone, then `close`."""

    playout_sample_rate = PLAYOUT_SAMPLE_RATE

    def __init__(self, options: WebRtcOptions) -> None:
        servers = [RTCIceServer(urls=[url]) for url in options.ice_servers]
        # Always pass the list: aiortc's default configuration names a public STUN server.
        self._pc = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        self._options = options
        self._channel: RTCDataChannel | None = None
        self._sink: MediaSink | None = None
        self._remote: MediaStreamTrack | None = None
        self._arrivals: ArrivalClock | None = None
        self._track = _PlayoutTrack(self)
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[str] = loop.create_future()
        self._is_closed = False
        self._setup_timer = loop.call_later(options.setup_timeout_seconds, self._end, "setup_timeout")
        self._pc.on("track", self._on_track)
        self._pc.on("datachannel", self._on_channel)
        self._pc.on("connectionstatechange", self._on_state)

    async def answer(self, offer: Offer) -> str:
        """The SDP answer, with all candidates. Raises InvalidSdpError when aiortc cannot work with the offer."""
        try:
            await self._pc.setRemoteDescription(RTCSessionDescription(offer.sdp, "offer"))
        except (ValueError, IndexError, KeyError, AssertionError) as error:  # how aiortc's parser gives up
            raise InvalidSdpError("The SDP offer could not be understood.") from error
        opus = [c for c in RTCRtpSender.getCapabilities("audio").codecs if c.mimeType == "audio/opus"]
        for transceiver in self._pc.getTransceivers():
            transceiver.setCodecPreferences(opus)
            self._arrivals = ArrivalClock(transceiver.receiver)
        self._pc.addTrack(self._track)
        with host_addresses(self._options.host_addresses):
            await self._pc.setLocalDescription(await self._pc.createAnswer())
        return str(self._pc.localDescription.sdp)

    async def run(self, sink: MediaSink) -> str:
        """See `MediaTransport.run`."""
        self._sink = sink
        if self._pc.connectionState == "connected":
            self._on_state()
        if self._channel is not None and self._channel.readyState == "open":
            sink.on_channel_open()
        async with asyncio.TaskGroup() as tasks:
            receive = tasks.create_task(self._receive(sink), name="audio-receive")
            try:
                return await asyncio.shield(self._ended)
            finally:
                receive.cancel()

    def send_event(self, event: Event) -> None:
        """See `MediaTransport.send_event`."""
        channel = self._channel
        if channel is None or channel.readyState != "open":
            return
        if channel.bufferedAmount > MAX_UNREAD_BYTES:
            self._end("client_not_reading")
            return
        channel.send(json.dumps(event, separators=(",", ":"), ensure_ascii=False))

    def abort(self, error: Exception) -> None:
        """See `MediaTransport.abort`."""
        if not self._ended.done():
            self._ended.set_exception(error)

    async def close(self) -> None:
        """See `MediaTransport.close`."""
        self._end("hangup")
        if self._is_closed:
            return
        self._is_closed = True
        self._setup_timer.cancel()
        self._track.stop()
        await self._pc.close()

    def next_frame(self, now: float, lateness_seconds: float) -> Pcm16:
        """The next 20 ms of output, int16 [960] at 48 kHz; silence while nobody has taken the call."""
        if self._sink is None or self._ended.done():
            return np.zeros(FRAME_SAMPLES, np.int16)
        try:
            return self._sink.pull_frame(now, lateness_seconds).pcm
        except Exception as error:  # inside aiortc's sender a bug would only mute the call, for good
            self.abort(error)
            return np.zeros(FRAME_SAMPLES, np.int16)

    # --- aiortc's events

    def _on_track(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio":
            self._remote = track

    def _on_channel(self, channel: RTCDataChannel) -> None:
        if channel.label != CHANNEL_LABEL or self._channel is not None:
            channel.close()
            return
        self._channel = channel
        channel.on("message", self._on_message)
        if self._sink is not None:
            self._sink.on_channel_open()

    def _on_message(self, data: str | bytes) -> None:
        if self._sink is not None and not self._ended.done():
            try:
                self._sink.on_message(data, asyncio.get_running_loop().time())
            except Exception as error:  # inside aiortc's event emitter a bug would go unnoticed
                self.abort(error)

    def _on_state(self) -> None:
        state = self._pc.connectionState
        if state == "connected":
            self._setup_timer.cancel()
            if self._sink is not None:
                self._sink.on_connected()
        elif state == "failed":
            self._end("connection_failed")
        elif state == "closed":
            self._end("peer_closed")

    def _end(self, reason: str) -> None:
        if not self._ended.done():
            self._ended.set_result(reason)

    async def _receive(self, sink: MediaSink) -> None:
        loop = asyncio.get_running_loop()
        to_input = AudioResampler(format="s16", layout="mono", rate=INPUT_SAMPLE_RATE)
        assert self._remote is not None, "the offer was validated to have one audio track"
        try:
            while True:
                frame = await self._remote.recv()
                assert isinstance(frame, AudioFrame)
                now = loop.time()
                delay_ms = 0.0 if self._arrivals is None else self._arrivals.delay_ms(frame.pts or 0, now)
                for converted in to_input.resample(frame):
                    sink.on_audio(np.asarray(converted.to_ndarray(), np.int16).reshape(-1), now, delay_ms)
        except MediaStreamError:
            self._end("peer_closed")


class _PlayoutTrack(MediaStreamTrack):
    """The outbound track: pulled by aiortc's sender, paced on the monotonic clock."""

    kind = "audio"

    def __init__(self, transport: WebRtcTransport) -> None:
        super().__init__()
        self._transport = transport
        self._pacer = PlayoutPacer()
        self._time_base = fractions.Fraction(1, PLAYOUT_SAMPLE_RATE)
        self._pts = 0

    async def recv(self) -> AudioFrame:
        """The next frame, when it is due. After a stall the timestamps jump: no burst, no lag."""
        if self.readyState != "live":
            raise MediaStreamError
        loop = asyncio.get_running_loop()
        due, skipped = self._pacer.next_due(loop.time())
        self._pts += skipped * FRAME_SAMPLES
        await asyncio.sleep(max(0.0, due - loop.time()))
        now = loop.time()
        pcm = self._transport.next_frame(now, max(0.0, now - due))
        frame = AudioFrame.from_ndarray(pcm.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = PLAYOUT_SAMPLE_RATE
        frame.pts = self._pts
        frame.time_base = self._time_base
        self._pts += FRAME_SAMPLES
        return frame
