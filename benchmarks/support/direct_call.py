"""A WebRTC caller that sends PCMU packets made before, and times them as `telephone` does: what a telephone call is
compared with.

Times are taken at the last place before encryption and the first after decryption. `_send_rtp` and `_handle_rtp_packet`
are private names of aiortc's (pinned).
"""

from __future__ import annotations

import asyncio
import fractions
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from aiortc.rtp import is_rtcp
from av.packet import Packet

from .tone_bursts import FRAME, FRAME_SECONDS, RATE, Heard

CONNECT_SECONDS = 20.0
SILENCE = b"\xff" * FRAME  # zero in PCMU


class _PacketTrack(MediaStreamTrack):
    """Sends what it is told, one payload every 20 ms, silence before and after."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.is_said = asyncio.Event()
        self._payloads: Sequence[bytes] = ()
        self._next = 0
        self._start: float | None = None
        self._frames = 0

    def say(self, payloads: Sequence[bytes]) -> None:
        self._payloads, self._next = payloads, 0
        self.is_said.clear()

    @property
    def is_saying(self) -> bool:
        """The packet that was handed over last is one of those told to say."""
        return 0 < self._next <= len(self._payloads) and not self.is_said.is_set()

    async def recv(self) -> Packet[Any]:
        if self.readyState != "live":
            raise MediaStreamError
        loop = asyncio.get_running_loop()
        if self._start is None:
            # The server's clock of this call started when it connected, and so would ours: always the same distance.
            self._start = loop.time() + random.uniform(0.0, FRAME_SECONDS)
        await asyncio.sleep(max(0.0, self._start + self._frames * FRAME_SECONDS - loop.time()))
        if self._next < len(self._payloads):
            data = self._payloads[self._next]
            self._next += 1
        else:
            data = SILENCE
            self.is_said.set()
        packet: Packet[Any] = Packet(data)
        packet.pts, packet.time_base = self._frames * FRAME, fractions.Fraction(1, RATE)
        self._frames += 1
        return packet


class DirectCall:
    """See the module's docstring; made by `direct_call`."""

    def __init__(self) -> None:
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.heard: list[Heard] = []
        self.sent_at: list[float] = []
        """Of each packet of `say`, in monotonic seconds."""
        self._track = _PacketTrack()
        self._is_connected = asyncio.Event()
        transceiver = self.pc.addTransceiver(self._track, direction="sendrecv")
        codecs = RTCRtpSender.getCapabilities("audio").codecs
        transceiver.setCodecPreferences([codec for codec in codecs if codec.mimeType == "audio/PCMU"])
        self._sender, self._receiver = transceiver.sender, transceiver.receiver
        self.pc.on("connectionstatechange", self._on_state)

    async def open(self, signal: Callable[[str], Awaitable[str]]) -> None:
        """`signal` takes our offer to the server and returns its answer. Raises TimeoutError when nothing connects."""
        await self.pc.setLocalDescription(await self.pc.createOffer())
        answer = await signal(self.pc.localDescription.sdp)
        transport: Any = self._sender.transport
        send = transport._send_rtp

        async def timed(data: bytes) -> None:
            is_tone = self._track.is_saying and not is_rtcp(data)
            await send(data)
            if is_tone:
                self.sent_at.append(asyncio.get_running_loop().time())

        transport._send_rtp = timed
        self._receiver._handle_rtp_packet = self._on_packet  # type: ignore[method-assign]
        await self.pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        async with asyncio.timeout(CONNECT_SECONDS):
            await self._is_connected.wait()

    async def say(self, payloads: Sequence[bytes]) -> None:
        """Send one payload every 20 ms."""
        self._track.say(payloads)
        await self._track.is_said.wait()

    async def close(self) -> None:
        """End the call."""
        await self.pc.close()

    def _on_state(self) -> None:
        if self.pc.connectionState == "connected":
            self._is_connected.set()

    async def _on_packet(self, packet: Any, arrival_time_ms: int) -> None:
        self.heard.append(Heard(asyncio.get_running_loop().time(), packet.sequence_number, packet.payload))


@asynccontextmanager
async def direct_call(signal: Callable[[str], Awaitable[str]]) -> AsyncIterator[DirectCall]:
    """Connected, and closed at the end."""
    call = DirectCall()
    try:
        await call.open(signal)
        yield call
    finally:
        await call.close()
