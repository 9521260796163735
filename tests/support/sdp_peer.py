"""A bare aiortc peer for tests of signaling: what it offers is up to the test, what it hears is counted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError

from rtc_server.client.recording import load_recording
from rtc_server.client.track import SpeakingTrack
from rtc_server.network.addresses import host_addresses

SPEECH = Path(__file__).resolve().parents[1] / "data" / "speech"
LOUD = 500  # of 32767: above what silence decodes to


class SdpPeer:
    """See the module's docstring; made by `sdp_peer`."""

    def __init__(self, direction: str, *, num_video: int = 0, label: str | None = "oai-events") -> None:
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.track = SpeakingTrack()
        self.messages: list[dict[str, Any]] = []
        self.num_frames = 0
        self.num_loud = 0
        self._news = asyncio.Event()
        self._listening: list[asyncio.Task[None]] = []
        self.pc.on("connectionstatechange", self._news.set)
        self.pc.on("track", self._on_track)
        self.pc.addTransceiver("audio" if direction == "recvonly" else self.track, direction=direction)
        for _ in range(num_video):
            self.pc.addTransceiver("video", direction="sendonly")
        self.channel: RTCDataChannel | None = None
        if label is not None:
            self.channel = self.pc.createDataChannel(label)
            self.channel.on("message", self._on_message)
            self.channel.on("open", self._news.set)

    async def offer(self) -> str:
        with host_addresses(["127.0.0.1"]):
            await self.pc.setLocalDescription(await self.pc.createOffer())
        return str(self.pc.localDescription.sdp)

    async def accept(self, answer: str) -> None:
        """Take the answer and wait for the connection."""
        await self.pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        await self.until(lambda: self.pc.connectionState == "connected")
        if self.channel is not None:
            channel = self.channel
            await self.until(lambda: channel.readyState == "open")

    def say(self, name: str) -> None:
        self.track.say(load_recording(SPEECH / name))

    def send(self, message: dict[str, Any] | str) -> None:
        assert self.channel is not None
        self.channel.send(message if isinstance(message, str) else json.dumps(message))

    async def message(self, kind: str, count: int = 1) -> dict[str, Any]:
        """The `count`-th message of a type, waited for."""
        await self.until(lambda: sum(m["type"] == kind for m in self.messages) >= count)
        return [m for m in self.messages if m["type"] == kind][count - 1]

    async def until(self, condition: Any, timeout_s: float = 20.0) -> None:
        """Wait for news until the condition holds."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def close(self) -> None:
        self.track.stop()
        for task in self._listening:
            task.cancel()
        await asyncio.gather(*self._listening, return_exceptions=True)
        await self.pc.close()

    def _on_message(self, data: str) -> None:
        self.messages.append(json.loads(data))
        self._news.set()

    def _on_track(self, track: Any) -> None:
        if track.kind == "audio":
            self._listening.append(asyncio.create_task(self._listen(track)))

    async def _listen(self, track: Any) -> None:
        try:
            while True:
                frame = await track.recv()
                self.num_frames += 1
                self.num_loud += int(np.abs(frame.to_ndarray()).max() > LOUD)
                self._news.set()
        except MediaStreamError:
            return


@asynccontextmanager
async def sdp_peer(direction: str = "sendrecv", **options: Any) -> AsyncIterator[SdpPeer]:
    """A peer that is closed at the end."""
    peer = SdpPeer(direction, **options)
    try:
        yield peer
    finally:
        await peer.close()
