"""A server in a few lines: answers calls on loopback and replies with a tone a chosen time after the caller's voice.

It notes when it heard the voice end and when its tone left, on the clock that the client measures with.
"""

from __future__ import annotations

import asyncio
import fractions
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from aiohttp import web
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame

from model.interface import Pcm16
from rtc_server.client.listener import Listener
from rtc_server.network.addresses import host_addresses

RATE = 48_000
FRAME = 960


def tone(ms: int, hertz: float = 400.0, level: float = 0.3) -> Pcm16:
    """A sine at 48 kHz that begins and ends at full level."""
    time = np.arange(RATE * ms // 1000) / RATE
    return np.round(np.cos(2 * np.pi * hertz * time) * level * 32_767).astype(np.int16)


@dataclass
class Script:
    """What the stand-in does."""

    delays_s: Sequence[float] = (0.5,)
    """From the end of the voice, as heard, to the tone; one per turn, the last one for all further turns."""
    reply_ms: int = 400
    endpoint_ms: float = 300.0
    replies: bool = True
    closes_after_voice: bool = False
    extra_events: Sequence[dict[str, Any]] = ()


@dataclass
class Notes:
    """What it saw; times in monotonic seconds."""

    voice_ended_at: list[float] = field(default_factory=list)
    tone_left_at: list[float] = field(default_factory=list)
    hung_up: list[str] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the first turn was heard."""

    @property
    def delays_ms(self) -> list[float]:
        pairs = zip(self.voice_ended_at, self.tone_left_at, strict=True)
        return [(left - ended) * 1e3 for ended, left in pairs]


class ToneTrack(MediaStreamTrack):
    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._queue: Pcm16 = np.zeros(0, np.int16)
        self._play_at: float | None = None
        self._hooks: tuple[Callable[[float], None], Callable[[], None]] | None = None
        self._start: float | None = None
        self._frames = 0

    def play(self, pcm: Pcm16, at: float, on_first: Callable[[float], None], on_last: Callable[[], None]) -> None:
        self._queue, self._play_at, self._hooks = pcm, at, (on_first, on_last)

    def flush(self) -> bool:
        playing, self._queue, self._hooks = self._hooks is not None, np.zeros(0, np.int16), None
        return playing

    async def recv(self) -> AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        loop = asyncio.get_running_loop()
        if self._start is None:
            self._start = loop.time()
        await asyncio.sleep(max(0.0, self._start + self._frames * FRAME / RATE - loop.time()))
        samples = np.zeros((1, FRAME), np.int16)
        now = loop.time()
        if self._play_at is not None and now >= self._play_at and self._hooks is not None:
            piece, self._queue = self._queue[:FRAME], self._queue[FRAME:]
            samples[0, : len(piece)] = piece
            self._hooks[0](now)
            self._hooks = (lambda at: None, self._hooks[1])
            if not len(self._queue):
                self._hooks[1]()
                self._hooks = None
        frame = AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, self._frames * FRAME, fractions.Fraction(1, RATE)
        self._frames += 1
        return frame


class StandIn:
    """One call at a time."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.notes = Notes()
        self._pc: RTCPeerConnection | None = None
        self._channel: Any = None
        self._track = ToneTrack()
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns = 0

    async def create(self, request: web.Request) -> web.Response:
        pc = self._pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        pc.on("datachannel", self._on_channel)
        pc.on("track", lambda track: self._spawn(self._listen(track)))
        await pc.setRemoteDescription(RTCSessionDescription((await request.read()).decode(), "offer"))
        pc.addTrack(self._track)
        with host_addresses(["127.0.0.1"]):
            await pc.setLocalDescription(await pc.createAnswer())
        headers = {"Location": "/v1/realtime/calls/rtc_standin"}
        return web.Response(status=201, text=pc.localDescription.sdp, content_type="application/sdp", headers=headers)

    async def delete(self, request: web.Request) -> web.Response:
        self.notes.hung_up.append(request.match_info["call_id"])
        return web.Response()

    async def close(self) -> None:
        self._track.stop()
        if self._pc is not None:
            await self._pc.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)

    def _on_channel(self, channel: Any) -> None:
        self._channel = channel
        channel.on("message", self._on_message)
        self._send("session.created", session={})

    def _on_message(self, data: str) -> None:
        event = json.loads(data)
        if event["type"] == "conversation.item.retrieve":
            item = {"id": event["item_id"], "content": [{"type": "output_audio", "transcript": "one"}]}
            self._send("conversation.item.retrieved", item=item)

    def _send(self, kind: str, **fields: Any) -> None:
        if self._channel is not None and self._channel.readyState == "open":
            self._channel.send(json.dumps({"type": kind, "event_id": "event_x", **fields}))

    async def _listen(self, track: MediaStreamTrack) -> None:
        loop = asyncio.get_running_loop()
        listener = Listener(RATE)
        answered = 0
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            assert isinstance(frame, AudioFrame)
            listener.receive(frame.to_ndarray()[0, :: frame.layout.nb_channels], frame.pts or 0, loop.time())
            stretches = listener.stretches
            if stretches and listener.silence_ms < 20:
                self._interrupted()
            if len(stretches) > answered and listener.silence_ms >= self.script.endpoint_ms:
                answered = len(stretches)
                self._answer(stretches[-1].end_at)

    def _answer(self, voice_ended_at: float) -> None:
        self.notes.heard.set()
        number, self._turns = self._turns, self._turns + 1
        if self.script.closes_after_voice and self._pc is not None:
            self._spawn(self._pc.close())
            return
        self._send("input_audio_buffer.committed", item_id=f"item_u{number}", previous_item_id=None)
        kind = "conversation.item.input_audio_transcription.completed"
        self._send(kind, item_id=f"item_u{number}", content_index=0, transcript=f"question {number}")
        for event in self.script.extra_events:
            self._send(event["type"], **{key: value for key, value in event.items() if key != "type"})
        if not self.script.replies:
            return
        response, item = f"resp_{number}", f"item_a{number}"
        delay = self.script.delays_s[min(number, len(self.script.delays_s) - 1)]
        self.notes.voice_ended_at.append(voice_ended_at)
        self._send("response.created", response={"id": response, "status": "in_progress"})
        self._send("response.output_item.added", response_id=response, item={"id": item})
        self._send("response.output_audio_transcript.delta", response_id=response, delta="one two")

        def on_first(now: float) -> None:
            self.notes.tone_left_at.append(now)
            self._send("output_audio_buffer.started", response_id=response)
            stages = {"endpoint": {"start_ms": 0.0, "end_ms": 300.0}}
            self._send("rtc_server.turn.metrics", response_id=response, response_latency_ms=1.0, stages=stages)
            self._send("response.done", response={"id": response, "status": "completed", "output": []})

        def on_last() -> None:
            self._send("output_audio_buffer.stopped", response_id=response)

        self._track.play(tone(self.script.reply_ms), voice_ended_at + delay, on_first, on_last)

    def _interrupted(self) -> None:
        if not self._track.flush():
            return
        response, item = f"resp_{self._turns - 1}", f"item_a{self._turns - 1}"
        self._send("output_audio_buffer.cleared", response_id=response)
        self._send("conversation.item.truncated", item_id=item, content_index=0, audio_end_ms=700)


@asynccontextmanager
async def standin(script: Script | None = None) -> AsyncIterator[tuple[str, Notes]]:
    """`async with standin() as (url, notes)`: the stand-in serves on loopback and is gone afterwards."""
    server = StandIn(script or Script())
    routes = {"create": server.create, "delete": server.delete}
    async with http_server(routes["create"], routes["delete"]) as url:
        try:
            yield url, server.notes
        finally:
            await server.close()


@asynccontextmanager
async def http_server(create: Any, delete: Any = None) -> AsyncIterator[str]:
    """An HTTP server on loopback whose offers are handled by `create`."""
    app = web.Application()
    app.router.add_post("/v1/realtime/calls", create)
    if delete is not None:
        app.router.add_delete("/v1/realtime/calls/{call_id}", delete)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()
