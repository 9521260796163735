"""A caller that costs little: Opus packets encoded once, received packets counted and not decoded.

Ten full aiortc callers would need as much of the machine as the server under test. What is left out here is only
work of the caller: the server sees an ordinary call. `_handle_rtp_packet` is a private name of aiortc's (pinned).
"""

from __future__ import annotations

import asyncio
import fractions
from collections.abc import Sequence
from typing import Any

import numpy as np
from aiortc import MediaStreamTrack, RTCRtpReceiver
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame, AudioResampler, CodecContext
from av.audio.codeccontext import AudioCodecContext
from av.packet import Packet

from rtc_server.client.recording import SAMPLE_RATE, Recording

FRAME_SAMPLES = SAMPLE_RATE // 50
FRAME_SECONDS = 0.02
BIT_RATE = 32_000  # what browsers send for a voice
VOICED_BYTES = 40  # a packet of voice at the server's bit rate is larger, one of digital silence much smaller
TIME_BASE = fractions.Fraction(1, SAMPLE_RATE)


def encode_opus(recording: Recording) -> list[bytes]:
    """The recording as Opus packets of 20 ms, mono."""
    codec = CodecContext.create("libopus", "w")
    assert isinstance(codec, AudioCodecContext)
    codec.bit_rate = BIT_RATE
    codec.format, codec.layout, codec.sample_rate = "s16", "mono", SAMPLE_RATE
    codec.options = {"application": "voip", "frame_duration": "20"}
    codec.time_base = TIME_BASE
    resampler = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE, frame_size=FRAME_SAMPLES)
    padding = np.zeros(-len(recording.pcm) % FRAME_SAMPLES, np.int16)
    pcm = np.concatenate([recording.pcm, padding]).reshape(1, -1)
    frame = AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, 0, TIME_BASE
    packets = [packet for piece in resampler.resample(frame) for packet in codec.encode(piece)]
    return [bytes(packet) for packet in packets] + [bytes(packet) for packet in codec.encode(None)]


class EncodedTrack(MediaStreamTrack):
    """Sends packets that were encoded before, silence in between. aiortc packs them without touching an encoder."""

    kind = "audio"

    def __init__(self, silence: bytes) -> None:
        super().__init__()
        self.lateness_ms: list[float] = []
        """How late each packet was handed over: whether this caller itself was disturbed."""
        self._silence = silence
        self._packets: Sequence[bytes] = ()
        self._index = 0
        self._said: asyncio.Future[float] | None = None
        self._start: float | None = None
        self._frames = 0

    def say(self, packets: Sequence[bytes]) -> asyncio.Future[float]:
        """Begin with the next frame. The future gives the moment the last packet was handed over."""
        self._packets, self._index = packets, 0
        self._said = asyncio.get_running_loop().create_future()
        return self._said

    async def recv(self) -> Packet[Any]:
        if self.readyState != "live":
            raise MediaStreamError
        loop = asyncio.get_running_loop()
        if self._start is None:
            self._start = loop.time()
        due = self._start + self._frames * FRAME_SECONDS
        await asyncio.sleep(max(0.0, due - loop.time()))
        now = loop.time()
        self.lateness_ms.append((now - due) * 1e3)
        data = self._silence
        if self._index < len(self._packets):
            data = self._packets[self._index]
            self._index += 1
            if self._index == len(self._packets) and self._said is not None and not self._said.done():
                self._said.set_result(now)
        packet = Packet(data)
        packet.pts, packet.time_base = self._frames * FRAME_SAMPLES, TIME_BASE
        self._frames += 1
        return packet

    def stop(self) -> None:
        super().stop()
        if self._said is not None:
            self._said.cancel()


class PacketCounter:
    """Takes the receiver's packets: counts them and notes when they came; nothing is decoded."""

    def __init__(self, receiver: RTCRtpReceiver) -> None:
        self.received = 0
        self.voiced = 0
        """Packets that hold more than silence."""
        self.gaps_ms: list[float] = []
        """Between the arrivals of packets with consecutive numbers; one per packet of a call that lasts minutes."""
        self.lateness_ms: list[float] = []
        """Behind the time that the RTP timestamps promise, relative to the earliest packet so far."""
        self._first_sequence: int | None = None
        self._highest = 0
        self._timestamp = 0  # unwrapped, of the newest packet
        self._last_raw: int | None = None
        self._last_at = 0.0
        self._offset = float("inf")  # smallest (arrival - timestamp)
        receiver._handle_rtp_packet = self._on_packet  # type: ignore[method-assign]

    @property
    def lost(self) -> int:
        """Sequence numbers that never came."""
        if self._first_sequence is None:
            return 0
        return max(0, self._highest - self._first_sequence + 1 - self.received)

    async def _on_packet(self, packet: Any, arrival_time_ms: int) -> None:
        now = asyncio.get_running_loop().time()
        self.received += 1
        if len(packet.payload) > VOICED_BYTES:
            self.voiced += 1
        if self._last_raw is None:
            self._first_sequence = self._highest = packet.sequence_number
        else:
            step = (packet.sequence_number - self._highest) & 0xFFFF
            if step >= 0x8000:
                return  # late or a duplicate
            self._highest += step
            self._timestamp += (packet.timestamp - self._last_raw) & 0xFFFFFFFF
            if step == 1:
                self.gaps_ms.append((now - self._last_at) * 1e3)
        self._last_raw, self._last_at = packet.timestamp, now
        offset = now - self._timestamp / SAMPLE_RATE
        self._offset = min(self._offset, offset)
        self.lateness_ms.append((offset - self._offset) * 1e3)
