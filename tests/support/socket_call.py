"""A caller on a WebSocket: events and sound both ways, in any format of the API."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import numpy as np

from model.interface import INPUT_SAMPLE_RATE, Pcm16
from rtc_server.audio.resample import StreamResampler
from rtc_server.calls.wire_audio import LAWS
from rtc_server.codecs import g711

APPEND_BYTES = 3_001  # odd: a client need not cut between samples


class SocketCall:
    """See the module's docstring; made by `socket_call`."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, wire_format: str, *, is_binary: bool = False) -> None:
        self.socket = socket
        self.wire_format = wire_format
        self.is_binary = is_binary
        self.events: list[dict[str, Any]] = []
        self.sound = b""
        """Everything that was received, in the wire format."""
        self.close_code: int | None = None
        self._news = asyncio.Event()
        self._reader = asyncio.create_task(self._read(), name="socket-call")

    @property
    def headers(self) -> Mapping[str, str]:
        """Of the upgrade."""
        headers: Mapping[str, str] = self.socket._response.headers
        return headers

    @property
    def call_id(self) -> str:
        return self.headers["Location"].rsplit("/", 1)[1]

    async def send(self, kind: str, **fields: Any) -> None:
        """One event."""
        await self.socket.send_str(json.dumps({"type": kind, **fields}))

    async def say(self, pcm: Pcm16, *, pause_ms: int = 1_000) -> None:
        """16 kHz samples and a pause after them, as fast as the server takes them."""
        data = to_wire(
            np.concatenate([pcm, np.zeros(INPUT_SAMPLE_RATE * pause_ms // 1_000, np.int16)]), self.wire_format
        )
        for start in range(0, len(data), APPEND_BYTES):
            piece = data[start : start + APPEND_BYTES]
            if self.is_binary:
                await self.socket.send_bytes(piece)
            else:
                await self.send("input_audio_buffer.append", audio=base64.b64encode(piece).decode())

    async def event(self, kind: str, count: int = 1, timeout_s: float = 20.0) -> dict[str, Any]:
        """The `count`-th event of a kind, waited for."""
        async with asyncio.timeout(timeout_s):
            while len(found := self.all(kind)) < count:
                assert self.close_code is None, (
                    f"closed with {self.close_code} before '{kind}'; last error {self.all('error')[-1:]}; "
                    f"got {len(self.events)} events, last {self.kinds()[-20:]}"
                )
                self._news.clear()
                await self._news.wait()
        return found[count - 1]

    async def closed(self, timeout_s: float = 20.0) -> int:
        """The close code, once the server has closed."""
        async with asyncio.timeout(timeout_s):
            while self.close_code is None:
                self._news.clear()
                await self._news.wait()
        return self.close_code

    async def is_alive(self) -> bool:
        """The call answers events."""
        updates = len(self.all("session.updated"))
        await self.send("session.update", session={"type": "realtime"})
        await self.event("session.updated", updates + 1)
        return True

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]

    @property
    def heard(self) -> Pcm16:
        """What was received, as 16 kHz samples."""
        return from_wire(self.sound, self.wire_format)

    async def close(self) -> None:
        await self.socket.close()
        await self._reader

    async def _read(self) -> None:
        async for message in self.socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                self.sound += message.data
            else:
                event = json.loads(message.data)
                self.events.append(event)
                if event["type"] == "response.output_audio.delta":
                    self.sound += base64.b64decode(event["delta"])
            self._news.set()
        self.close_code = self.socket.close_code
        self._news.set()


@asynccontextmanager
async def socket_call(
    url: str, query: str = "", wire_format: str = "audio/pcm", **options: Any
) -> AsyncIterator[SocketCall]:
    """A call (or, with `call_id=...` in `query`, a sideband) that has got its `session.created`."""
    async with aiohttp.ClientSession() as http:
        socket = await http.ws_connect(f"{url}/v1/realtime?{query}", max_msg_size=0, **options)
        call = SocketCall(socket, wire_format, is_binary="audio=binary" in query)
        try:
            await call.event("session.created")
            if wire_format != "audio/pcm":
                audio_format = {"format": {"type": wire_format}}
                audio = {"input": audio_format, "output": audio_format}
                await call.send("session.update", session={"type": "realtime", "audio": audio})
                await call.event("session.updated")
            yield call
        finally:
            await call.close()


def to_wire(pcm: Pcm16, wire_format: str) -> bytes:
    """16 kHz samples in a format of the API."""
    law = LAWS.get(wire_format)
    resampler = StreamResampler(INPUT_SAMPLE_RATE, 8_000 if law else 24_000)
    samples = np.concatenate([resampler.resample(pcm), resampler.flush()])
    return g711.encode(law, samples) if law else samples.astype("<i2").tobytes()


def from_wire(data: bytes, wire_format: str) -> Pcm16:
    """A format of the API as 16 kHz samples."""
    law = LAWS.get(wire_format)
    resampler = StreamResampler(8_000 if law else 24_000, INPUT_SAMPLE_RATE)
    samples = g711.decode(law, data) if law else np.frombuffer(data, "<i2").astype(np.int16)
    return np.concatenate([resampler.resample(samples), resampler.flush()])


def likeness(part: Pcm16, whole: Pcm16) -> float:
    """How much `part` is like the stretch of `whole` that it is most like: correlation, 1.0 = the same shape."""
    room = np.zeros(INPUT_SAMPLE_RATE // 10)  # `part` may begin a little before
    wanted, signal = part.astype(np.float64), np.concatenate([room, whole.astype(np.float64), room])
    size = 1 << (len(wanted) + len(signal)).bit_length()
    products = np.fft.irfft(np.fft.rfft(signal, size) * np.conj(np.fft.rfft(wanted, size)), size)
    start = int(np.argmax(products[: len(signal) - len(wanted) // 2]))
    stretch = signal[start : start + len(wanted)]
    wanted = wanted[: len(stretch)]
    return float(stretch @ wanted / np.sqrt((stretch @ stretch) * (wanted @ wanted)))
